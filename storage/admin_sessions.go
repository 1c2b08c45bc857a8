package storage

import (
	"context"
	"time"
)

// AdminSession is a sign-in of an admin at the console.
type AdminSession struct {
	Hash       string `db:"hash" json:"-"` // SHA-256 of the token in the cookie
	Name       string `db:"name" json:"name"`
	Handle     string `db:"handle" json:"-"`                  // of the admin: a later one of the same name has another
	Way        string `db:"way" json:"way"`                   // link or passkey
	Address    string `db:"address" json:"address"`           // of the client
	SignedInAt Time   `db:"signed_in_at" json:"signed_in_at"` // the proof of identity
	SeenAt     Time   `db:"seen_at" json:"seen_at"`           // the last request of the person
	MAC        string `db:"mac" json:"-"`
}

func (s AdminSession) fields() []string {
	return []string{s.Hash, s.Name, s.Handle, s.Way, s.Address, millis(&s.SignedInAt)}
}

// maxAdminSessions is how many sessions an admin has at most. The oldest ends for the next.
const maxAdminSessions = 20

const sessionColumns = `hash, name, handle, way, address, signed_in_at, seen_at, mac`

// AdminSessions are the tables of sessions and one-time links.
type AdminSessions struct{ db *DB }

// AdminSessions returns the tables of sessions and one-time links.
func (d *DB) AdminSessions() AdminSessions { return AdminSessions{d} }

// event describes a sign-in or a sign-out.
func (s AdminSession) event(kind string) Event {
	return Event{kind, s.Name, map[string]any{"way": s.Way, "address": s.Address}}
}

// Open begins a session, in place of an older one with the hash old, if any.
func (a AdminSessions) Open(ctx context.Context, by Actor, s AdminSession, old string) error {
	return a.db.inTx(ctx, "open session", func(t *tx) error { return t.openSession(by, s, old) })
}

func (t *tx) openSession(by Actor, s AdminSession, old string) error {
	mac, err := t.db.rowMAC("admin_sessions", s.fields()...)
	if err != nil {
		return err
	}
	var ended []AdminSession
	if err := t.All(&ended, `DELETE FROM admin_sessions WHERE hash = $2 OR hash IN (SELECT hash FROM
		(SELECT hash FROM admin_sessions WHERE name = $1 ORDER BY seen_at DESC, hash LIMIT 1000 OFFSET $3) older)
		RETURNING `+sessionColumns, s.Name, old, maxAdminSessions-1); err != nil {
		return err
	}
	for _, e := range ended {
		out := e.event("admin.sign-out")
		out.Details["replaced"] = true
		if err := t.audit(by, s.SignedInAt.Time, out); err != nil {
			return err
		}
	}
	if _, err := t.Change(`INSERT INTO admin_sessions (`+sessionColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		s.Hash, s.Name, s.Handle, s.Way, s.Address, s.SignedInAt, s.SeenAt, mac); err != nil {
		return err
	}
	return t.audit(by, s.SignedInAt.Time, s.event("admin.sign-in"))
}

// LinkOwner returns the name of the admin of a link that has not expired. ErrNotFound, ErrAltered.
func (a AdminSessions) LinkOwner(ctx context.Context, hash string, now time.Time) (name string, err error) {
	var row linkRow
	if err = a.db.engine.Get(ctx, "link", &row, `SELECT name, expires_at, mac FROM admin_links
		WHERE hash = $1 AND expires_at > $2`, hash, At(now)); err != nil {
		return "", err
	}
	return row.Name, a.db.checkLink(row, hash)
}

type linkRow struct {
	Name      string `db:"name"`
	ExpiresAt Time   `db:"expires_at"`
	MAC       string `db:"mac"`
}

func (d *DB) checkLink(row linkRow, hash string) error {
	return d.checkMAC(row.MAC, "admin_links", hash, row.Name, millis(&row.ExpiresAt))
}

// OpenByLink uses up the link of an admin and begins a session. ErrNotFound if the link is used, has expired, or is
// that of another admin.
func (a AdminSessions) OpenByLink(ctx context.Context, by Actor, link string, s AdminSession, old string) error {
	return a.db.inTx(ctx, "use link", func(t *tx) error {
		var row linkRow
		if err := t.Get(&row, `DELETE FROM admin_links WHERE hash = $1 AND name = $2 AND expires_at > $3
			RETURNING name, expires_at, mac`, link, s.Name, s.SignedInAt); err != nil {
			return err
		}
		if err := t.db.checkLink(row, link); err != nil {
			return err
		}
		return t.openSession(by, s, old)
	})
}

// ByHash reads a session. ErrNotFound, ErrAltered.
func (a AdminSessions) ByHash(ctx context.Context, hash string) (s AdminSession, err error) {
	if err = a.db.engine.Get(ctx, "session", &s, `SELECT `+sessionColumns+` FROM admin_sessions WHERE hash = $1`,
		hash); err != nil {
		return s, err
	}
	return s, a.db.checkMAC(s.MAC, "admin_sessions", s.fields()...)
}

// OfAdmin reads the sessions of an admin; of all for "". The last used is the first.
func (a AdminSessions) OfAdmin(ctx context.Context, name string) (all []AdminSession, err error) {
	return all, a.db.engine.All(ctx, "sessions", &all, `SELECT `+sessionColumns+` FROM admin_sessions
		WHERE $1 = '' OR name = $1 ORDER BY seen_at DESC, hash LIMIT 1000`, name)
}

// See records a request of the person.
func (a AdminSessions) See(ctx context.Context, hash string, now time.Time) error {
	_, err := a.db.engine.Change(ctx, "session", `UPDATE admin_sessions SET seen_at = $1 WHERE hash = $2
		AND seen_at < $1`, At(now), hash)
	return err
}

// Close ends a session, with an audit record. ErrNotFound.
func (a AdminSessions) Close(ctx context.Context, by Actor, s AdminSession, now time.Time) error {
	return a.db.inTx(ctx, "close session", func(t *tx) error {
		if err := t.ChangeOne(`DELETE FROM admin_sessions WHERE hash = $1`, s.Hash); err != nil {
			return err
		}
		return t.audit(by, now, s.event("admin.sign-out"))
	})
}

// CloseAll ends all sessions of an admin, and its link.
func (a AdminSessions) CloseAll(ctx context.Context, by Actor, s AdminSession, now time.Time) error {
	return a.db.inTx(ctx, "close sessions", func(t *tx) error {
		if err := t.removeOfAdmin(s.Name, "admin_links", "admin_sessions"); err != nil {
			return err
		}
		e := s.event("admin.sign-out")
		e.Details["everywhere"] = true
		return t.audit(by, now, e)
	})
}

// NoteRefusal writes the audit record of a refusal at the admin API or the console.
func (a AdminSessions) NoteRefusal(ctx context.Context, by Actor, name string, details map[string]any,
	now time.Time,
) error {
	return a.db.inTx(ctx, "refusal", func(t *tx) error {
		return t.audit(by, now, Event{"admin.refuse", name, details})
	})
}

// Clean deletes sessions that were not used since idle or began before oldest, and links, ceremonies and requests that
// are over.
func (a AdminSessions) Clean(ctx context.Context, idle, oldest, now time.Time) error {
	return a.db.inTx(ctx, "clean sessions", func(t *tx) error {
		if _, err := t.Change(`DELETE FROM admin_sessions WHERE seen_at < $1 OR signed_in_at < $2`,
			At(idle), At(oldest)); err != nil {
			return err
		}
		for _, table := range []string{"admin_links", "admin_ceremonies"} {
			if _, err := t.Change(`DELETE FROM `+table+` WHERE expires_at < $1`, At(now)); err != nil {
				return err
			}
		}
		_, err := t.Change(`DELETE FROM admin_requests WHERE begun_at < $1`, At(now.Add(-KeepRequests)))
		return err
	})
}
