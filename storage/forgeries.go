package storage

import (
	"context"
	"time"
)

// Forgery is an access token that a signing key has signed, although no server made it.
type Forgery struct {
	KID      string
	Sub      string
	ClientID string
	Audience string
	IssuedAt int64  // unix seconds
	Expires  int64  // unix seconds
	Token    string // the first 8 bytes of the SHA-256 of the token, in hexadecimal
	By       Actor  // who presented it
	Address  string // from where
	Server   string // id of the replica that saw it; "" for a command
	At       time.Time
}

func (f Forgery) entry() entry {
	return entry{f.By, f.At, Event{AuditForgery, f.KID, map[string]any{
		"sub":       f.Sub,
		"client_id": f.ClientID,
		"aud":       f.Audience,
		"iat":       f.IssuedAt,
		"exp":       f.Expires,
		"token":     f.Token,
		"address":   f.Address,
		"server":    f.Server,
	}}}
}

// AuditForgery is the type of the records of forged tokens. Their target is the kid.
const AuditForgery = "key.forgery"

// MaxForgeryRecords is how many forged tokens of a key the audit trail lists in an hour. One more record counts all of
// that hour.
const MaxForgeryRecords = 20

// Forgeries is the table of forged tokens, counted by key and hour.
type Forgeries struct{ db *DB }

// Forgeries returns the table of forged tokens.
func (d *DB) Forgeries() Forgeries { return Forgeries{d} }

// HourOf returns the hour in which forged tokens are counted together.
func HourOf(at time.Time) int64 { return at.Unix() / 3600 }

// Note counts forged tokens of one key and hour, and writes audit records for the first of the hour. listed are tokens
// to list, more the number of others. It returns how many the hour has now.
func (f Forgeries) Note(ctx context.Context, kid string, hour int64, listed []Forgery, more int64) (int64, error) {
	var seen int64
	return seen, f.db.inTx(ctx, AuditForgery, func(t *tx) error {
		n := int64(len(listed)) + more
		if err := t.Get(&seen, `INSERT INTO forgeries (kid, hour, seen, told) VALUES ($1, $2, $3, FALSE)
			ON CONFLICT (kid, hour) DO UPDATE SET seen = forgeries.seen + excluded.seen RETURNING seen`,
			kid, hour, n); err != nil {
			return err
		}
		var entries []entry
		for i, forgery := range listed {
			if seen-n+int64(i) < MaxForgeryRecords {
				entries = append(entries, forgery.entry())
			}
		}
		if len(entries) == 0 {
			return nil
		}
		return t.auditAll(entries)
	})
}

// Conclude writes one record for each hour that is over and had more forged tokens than are listed.
func (f Forgeries) Conclude(ctx context.Context, by Actor, now time.Time) error {
	type hour struct {
		KID  string `db:"kid"`
		Hour int64  `db:"hour"`
		Seen int64  `db:"seen"`
	}
	return f.db.inTx(ctx, "conclude forgeries", func(t *tx) error {
		var over []hour
		if err := t.All(&over, `UPDATE forgeries SET told = TRUE WHERE hour < $1 AND seen > $2 AND NOT told
			RETURNING kid, hour, seen`, HourOf(now), MaxForgeryRecords); err != nil {
			return err
		}
		var entries []entry
		for _, h := range over {
			entries = append(entries, entry{by, now, Event{AuditForgery, h.KID, map[string]any{
				"hour":  At(time.Unix(h.Hour*3600, 0)),
				"count": h.Seen,
			}}})
		}
		if len(entries) == 0 {
			return nil
		}
		return t.auditAll(entries)
	})
}

// OfTrustedKeys returns the kids that have signed forged tokens and are not revoked.
func (f Forgeries) OfTrustedKeys(ctx context.Context) (kids []string, err error) {
	return kids, f.db.engine.Report(ctx, "forgeries", &kids, `SELECT DISTINCT f.kid FROM forgeries f
		JOIN signing_keys k ON k.kid = f.kid AND k.state <> 'revoked' ORDER BY f.kid`)
}

// Clean deletes counters from before a time, of revoked keys.
func (f Forgeries) Clean(ctx context.Context, before time.Time) error {
	_, err := f.db.engine.Change(ctx, "clean forgeries", `DELETE FROM forgeries WHERE hour < $1 AND kid NOT IN
		(SELECT kid FROM signing_keys WHERE state <> 'revoked')`, HourOf(before))
	return err
}
