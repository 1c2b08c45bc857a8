package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/clock"
	"github.com/keyturn/keyturn/storage"
)

// Revocation is the outcome of the revocation of a leaked key.
type Revocation struct {
	Revoked   []string  `json:"revoked"`    // kids; more than one with the store leaked
	RevokedAt time.Time `json:"revoked_at"` // of the key that was named
	Already   bool      `json:"already"`    // it had been revoked before: nothing was changed
	Current   string    `json:"current"`    // the kid that signs now
	Next      string    `json:"next"`       // the kid that signs next
	// to a key that no verifier has cached; nil: none is needed, the current key is such
	SecondRotation *time.Time `json:"second_rotation_at"`
	// until when verifiers that obey max-age may accept a token that was forged with any revoked key
	ExposedUntil time.Time `json:"exposed_until"`
}

// Leak is what has leaked.
type Leak struct {
	KID string // of one key; "" only if the store leaked
	// Store says that whoever copied the database and the master key may have every private half: all keys in the JWKS are
	// thrown away, and a fresh key signs at once. That also mends rows that were altered: none of them is used again.
	Store bool
	// NewMaster, if the store leaked, seals the fresh keys, so that the old master key opens none of them. A Rewrap must
	// follow.
	NewMaster *Master
}

// Revoke takes a leaked key out of the JWKS for good and lets another sign, in one transaction: the next key if the
// current one leaked. A fresh next key, which no verifier can have cached, takes over as soon as every verifier that
// obeys max-age knows it, because those that keep a key set for ever fetch it again only when they meet an unknown kid.
// ErrNotFound if there is no such key.
func (l *LifeCycle) Revoke(ctx context.Context, by storage.Actor, leak Leak) (Revocation, error) {
	if leak.NewMaster != nil {
		l.ring.masters.add(leak.NewMaster)
	}
	for try := 1; ; try++ {
		v, err := l.revocable(ctx, leak)
		if err != nil {
			return Revocation{}, err
		}
		i := slices.IndexFunc(v.rows, func(k storage.SigningKey) bool { return k.KID == leak.KID })
		if i < 0 && leak.KID != "" {
			return Revocation{}, fmt.Errorf("signing key %s: %w", leak.KID, storage.ErrNotFound)
		}
		if !leak.Store && v.rows[i].State == storage.KeyRevoked {
			return l.outcome(v.rows, revokedWith(v.rows, v.rows[i]), v.rows[i].RevokedAt.Time, true), nil
		}
		done, err := l.revoke(ctx, by, v, leak)
		if !errors.Is(err, storage.ErrConflict) || try == 5 {
			l.pollAfter(ctx, err)
			return done, err
		}
	}
}

// revocable reads the rows. Only when everything is thrown away may they be altered ones.
func (l *LifeCycle) revocable(ctx context.Context, leak Leak) (*view, error) {
	if err := l.ring.Poll(ctx); err != nil {
		return nil, err
	}
	v := *l.ring.view.Load()
	if v.altered != nil && !leak.Store {
		return nil, fmt.Errorf(
			"%w: whoever can write the table may have read it: revoke with --store-leaked, which makes fresh keys",
			v.altered,
		)
	}
	if leak.NewMaster != nil {
		v.master = v.master.with(leak.NewMaster).sealing(leak.NewMaster.ID())
	}
	if leak.Store { // replicas may have seen later versions than this one
		v.leastVersion = l.ring.options.Now().UnixMilli()
	}
	return &v, nil
}

// revokedWith is the kids of the keys that were revoked at the same moment, the one given first.
func revokedWith(rows []storage.SigningKey, named storage.SigningKey) []string {
	kids := []string{named.KID}
	for _, row := range rows {
		if row.KID != named.KID && row.RevokedAt != nil && row.RevokedAt.Equal(named.RevokedAt.Time) {
			kids = append(kids, row.KID)
		}
	}
	return kids
}

// revoke makes the change, in one transaction. The fresh keys are generated before it.
func (l *LifeCycle) revoke(ctx context.Context, by storage.Actor, v *view, leak Leak) (Revocation, error) {
	inserts, err := l.replacements(v, leak, by.Reason)
	if err != nil {
		return Revocation{}, err
	}
	now := l.momentAfter(ctx, v.rows)
	change := storage.KeyChange{
		Insert: publishedAt(inserts, l.ring.config(), now),
		Update: l.withdrawals(v, leak, len(inserts) == 1, by.Reason, now),
	}
	if leak.Store { // also if no row is left that says so
		change.Insert[1].ExposedUntil = storage.AtPtr(now.Add(l.ring.config().JWKSMaxAge + Skew))
	}
	rows := apply(v.rows, change)
	if secondRotation(rows) {
		change.Insert[0].SafeFrom = storage.At(exposedUntil(rows))
		rows = apply(v.rows, change)
	}
	var revoked []string
	for _, u := range change.Update {
		if u.To.State == storage.KeyRevoked && u.To.RevokedAt.Equal(storage.At(now).Time) {
			revoked = append(revoked, u.To.KID)
		}
	}
	slices.SortStableFunc(revoked, func(a, b string) int { return namedFirst(a, leak.KID) - namedFirst(b, leak.KID) })
	done := l.outcome(rows, revoked, now, false)
	change.Event = event(
		"key.revoke",
		leak.KID,
		map[string]any{"revoked": revoked, "current": done.Current, "next": done.Next,
			"store_leaked": leak.Store, "exposed_until": storage.At(done.ExposedUntil)},
	)
	return done, l.change(ctx, by, v, change, now)
}

func namedFirst(kid, named string) int {
	if kid == named {
		return 0
	}
	return 1
}

// replacements are the rows of the fresh keys: the next one, and one to sign at once if there is none that could.
func (l *LifeCycle) replacements(v *view, leak Leak, reason string) ([]storage.SigningKey, error) {
	fresh, err := l.generateNext(v.master)
	if err != nil {
		return nil, err
	}
	current, next := find(v.rows, storage.KeyCurrent), find(v.rows, storage.KeyNext)
	if !leak.Store && (current != nil && current.KID != leak.KID || next != nil && next.KID != leak.KID) {
		return []storage.SigningKey{fresh}, nil
	}
	signer, err := l.generate(v.master, "signs after a revocation")
	return []storage.SigningKey{fresh, activated(signer, reason, signer.PublishedAt.Time)}, err
}

// withdrawals are what a revocation does to the rows that are there: what leaked is revoked, and the next key, if it
// may, signs if the current one leaked, or makes room for a fresh one. Rows that give up a state come before the one
// that takes it.
func (l *LifeCycle) withdrawals(v *view, leak Leak, nextMaySign bool, reason string, now time.Time) []storage.KeyUpdate {
	current := find(v.rows, storage.KeyCurrent)
	needsSigner := current == nil || current.KID == leak.KID
	var updates, last []storage.KeyUpdate
	for _, row := range v.rows {
		switch {
		case row.KID == leak.KID && row.State != storage.KeyRevoked, v.altered != nil, leak.Store && row.State.Published():
			updates = append(updates, storage.KeyUpdate{From: row, To: revokedRow(row, reason, l.ring.config(), now)})
		case row.State == storage.KeyNext && needsSigner && nextMaySign:
			last = append(last, storage.KeyUpdate{From: row, To: activated(row, reason, now)})
		case row.State == storage.KeyNext:
			updates = append(
				updates,
				storage.KeyUpdate{From: row, To: retired(row, now)},
			) // it never signed; a fresh one takes its place
		}
	}
	return append(updates, last...)
}

// momentAfter is now: by the clock of the database if the one here is wrong, since a leak must not wait for a clock;
// and not before any key that is published. If the database does not tell the time, it is by the clock here.
func (l *LifeCycle) momentAfter(ctx context.Context, rows []storage.SigningKey) time.Time {
	off, err := l.ring.ClockOff(ctx)
	now := l.ring.options.Now()
	if err == nil && off.Abs() > clock.MaxOff {
		now = l.ring.options.Wall().Add(-off)
	}
	for _, row := range rows {
		if row.State.Published() && row.PublishedAt.Before(now.Add(clock.MaxOff)) {
			now = later(now, row.PublishedAt.Time)
		}
	}
	return now
}

// publishedAt is rows of new keys as published, and as coming to sign, at the moment given: that of a revocation, than
// which they are not older.
func publishedAt(rows []storage.SigningKey, c Config, now time.Time) []storage.SigningKey {
	for i := range rows {
		rows[i].PublishedAt, rows[i].SafeFrom = storage.At(now), storage.At(now.Add(c.PublishLead))
		if rows[i].ActivatedAt != nil {
			rows[i].ActivatedAt = storage.AtPtr(now)
		}
	}
	return rows
}

// revokedRow is the row of a key that has leaked.
func revokedRow(k storage.SigningKey, reason string, c Config, now time.Time) storage.SigningKey {
	if k.State == storage.KeyCurrent {
		k.DeactivatedAt = storage.AtPtr(now)
	}
	k.State, k.PrivateKey, k.RevokedAt, k.Reason = storage.KeyRevoked, "", storage.AtPtr(now), reason
	k.ExposedUntil = storage.AtPtr(now.Add(c.JWKSMaxAge + Skew))
	return k
}

// outcome is what a revocation at the moment given has led to.
func (l *LifeCycle) outcome(rows []storage.SigningKey, revoked []string, at time.Time, already bool) Revocation {
	o := Revocation{
		Revoked:      revoked,
		RevokedAt:    storage.At(at).Time,
		Already:      already,
		Current:      kidOf(find(rows, storage.KeyCurrent)),
		Next:         kidOf(find(rows, storage.KeyNext)),
		ExposedUntil: exposedUntil(rows),
	}
	if secondRotation(rows) {
		second := rotatesAt(rows, l.ring.config()).UTC()
		o.SecondRotation = &second
	}
	return o
}
