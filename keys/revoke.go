package keys

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/clock"
	"github.com/keyturn/keyturn/storage"
)

// Revocation is the outcome of a revocation.
type Revocation struct {
	Revoked   []string  `json:"revoked"`    // kids; several if the store leaked
	RevokedAt time.Time `json:"revoked_at"` // of the named key
	Already   bool      `json:"already"`    // the key had been revoked before, and nothing was changed
	Current   string    `json:"current"`    // the kid that signs now
	Next      string    `json:"next"`       // the kid that signs next
	// SecondRotation goes to a key that no verifier has cached. nil: the current key is such a key.
	SecondRotation *time.Time `json:"second_rotation_at"`
	// ExposedUntil is the end of the time in which a verifier that obeys max-age may accept a token forged with a
	// revoked key.
	ExposedUntil time.Time `json:"exposed_until"`
}

// Leak says what has leaked.
type Leak struct {
	KID string // of one key; "" only if the store leaked
	// Store means that somebody may have the database and the master key, and so every private half. Revoke then
	// revokes all keys in the JWKS, and a fresh key signs at once. This also repairs altered rows: none of them is used
	// again.
	Store bool
	// NewMaster, if the store leaked, seals the fresh keys, so that the old master key does not open them. A Rewrap
	// must follow.
	NewMaster *Master
}

// Revoke removes a leaked key from the JWKS for good, in one transaction. If the current key leaked, the next key
// signs. Revoke also publishes a fresh next key, which no verifier has cached. That key takes over as soon as every
// verifier that obeys max-age knows it: some verifiers keep a key set for ever and fetch it again only when they meet
// an unknown kid. ErrNotFound if there is no such key, ErrChanged if the actor saw another key set.
func (l *LifeCycle) Revoke(ctx context.Context, by storage.Actor, leak Leak) (Revocation, error) {
	if leak.NewMaster != nil {
		l.ring.masters.add(leak.NewMaster)
	}
	for try := 1; ; try++ {
		v, err := l.revocable(ctx, leak)
		if err = cmp.Or(err, v.seenBy(by)); err != nil {
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

// revocable reads the rows again. Altered rows are accepted only if the store leaked, since then none is used again.
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
	if leak.Store { // the set may have gone back: use a version above any that a replica has seen
		v.leastVersion = l.ring.options.Now().UnixMilli()
	}
	return &v, nil
}

// revokedWith returns the kids of the keys that were revoked at the same moment as the named key, which comes first.
func revokedWith(rows []storage.SigningKey, named storage.SigningKey) []string {
	kids := []string{named.KID}
	for _, row := range rows {
		if row.KID != named.KID && row.RevokedAt != nil && row.RevokedAt.Equal(named.RevokedAt.Time) {
			kids = append(kids, row.KID)
		}
	}
	return kids
}

// revoke makes the change in one transaction. It generates the fresh keys before the transaction.
func (l *LifeCycle) revoke(ctx context.Context, by storage.Actor, v *view, leak Leak) (Revocation, error) {
	inserts, err := replacements(v, leak, by.Reason, func(reason string) (storage.SigningKey, error) {
		return l.generate(v.master, reason)
	}, l.ring.config())
	if err != nil {
		return Revocation{}, err
	}
	now := l.momentAfter(ctx, v.rows)
	change, done := l.revocation(v, leak, inserts, by.Reason, now)
	return done, l.change(ctx, by, v, change, now)
}

// PlanRevocation returns what Revoke would do, and changes nothing. A key that it would make has no kid.
func (l *LifeCycle) PlanRevocation(ctx context.Context, leak Leak) (Revocation, error) {
	v, err := l.revocable(ctx, leak)
	if err != nil {
		return Revocation{}, err
	}
	i := slices.IndexFunc(v.rows, func(k storage.SigningKey) bool { return k.KID == leak.KID })
	if i < 0 {
		return Revocation{}, fmt.Errorf("signing key %s: %w", leak.KID, storage.ErrNotFound)
	}
	if row := v.rows[i]; row.State == storage.KeyRevoked {
		return l.outcome(v.rows, revokedWith(v.rows, row), row.RevokedAt.Time, true), nil
	}
	now := l.momentAfter(ctx, v.rows)
	inserts, err := replacements(v, leak, "", func(string) (storage.SigningKey, error) {
		return storage.SigningKey{State: storage.KeyNext, PublishedAt: storage.At(now), PrivateKey: "to be made"}, nil
	}, l.ring.config())
	if err != nil {
		return Revocation{}, err
	}
	_, done := l.revocation(v, leak, inserts, "", now)
	return done, nil
}

// revocation returns what a revocation writes, and its outcome.
func (l *LifeCycle) revocation(
	v *view, leak Leak, inserts []storage.SigningKey, reason string, now time.Time,
) (storage.KeyChange, Revocation) {
	change := storage.KeyChange{
		Insert: publishedAt(inserts, l.ring.config(), now),
		Update: l.withdrawals(v, leak, len(inserts) == 1, reason, now),
	}
	if leak.Store { // the current row says so even if no other row is left
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
	return change, done
}

func namedFirst(kid, named string) int {
	if kid == named {
		return 0
	}
	return 1
}

// replacements returns the rows of the fresh keys: a next key, and a key that signs at once if no existing key may.
func replacements(
	v *view, leak Leak, reason string, generate func(reason string) (storage.SigningKey, error), c Config,
) ([]storage.SigningKey, error) {
	fresh, err := generate("next key")
	if err != nil {
		return nil, err
	}
	fresh.SafeFrom = storage.At(fresh.PublishedAt.Add(c.PublishLead))
	current, next := find(v.rows, storage.KeyCurrent), find(v.rows, storage.KeyNext)
	if !leak.Store && (current != nil && current.KID != leak.KID || next != nil && next.KID != leak.KID) {
		return []storage.SigningKey{fresh}, nil
	}
	signer, err := generate("signs after a revocation")
	return []storage.SigningKey{fresh, activated(signer, reason, signer.PublishedAt.Time)}, err
}

// withdrawals returns what a revocation does to the existing rows. Leaked keys are revoked. The next key signs if a
// signer is needed and it may sign; otherwise a fresh key replaces it. A row that leaves a state comes before the row
// that enters it.
func (l *LifeCycle) withdrawals(
	v *view, leak Leak, nextMaySign bool, reason string, now time.Time,
) []storage.KeyUpdate {
	current := find(v.rows, storage.KeyCurrent)
	needsSigner := current == nil || current.KID == leak.KID
	var updates, last []storage.KeyUpdate
	for _, row := range v.rows {
		switch {
		case row.KID == leak.KID && row.State != storage.KeyRevoked,
			v.altered != nil,
			leak.Store && row.State.Published():
			updates = append(updates, storage.KeyUpdate{From: row, To: revokedRow(row, reason, l.ring.config(), now)})
		case row.State == storage.KeyNext && needsSigner && nextMaySign:
			last = append(last, storage.KeyUpdate{From: row, To: activated(row, reason, now)})
		case row.State == storage.KeyNext:
			updates = append(updates, storage.KeyUpdate{From: row, To: retired(row, now)}) // it never signed
		}
	}
	return append(updates, last...)
}

// momentAfter returns the moment of a revocation: now, but not before any published key. If this machine's clock is far
// off, it uses the clock of the database, since a leak must not wait for a clock. If that clock cannot be read, it uses
// this machine's clock.
func (l *LifeCycle) momentAfter(ctx context.Context, rows []storage.SigningKey) time.Time {
	off, err := l.ring.ClockOff(ctx)
	now := l.ring.options.Now()
	if err == nil && clock.CheckOff(off) != nil {
		now = l.ring.options.Wall().Add(-off)
	}
	for _, row := range rows {
		if row.State.Published() && row.PublishedAt.Before(now.Add(clock.MaxOff)) {
			now = later(now, row.PublishedAt.Time)
		}
	}
	return now
}

// publishedAt sets the moment at which new keys are published, and sign, to that of the revocation: they must not be
// older.
func publishedAt(rows []storage.SigningKey, c Config, now time.Time) []storage.SigningKey {
	for i := range rows {
		rows[i].PublishedAt, rows[i].SafeFrom = storage.At(now), storage.At(now.Add(c.PublishLead))
		if rows[i].ActivatedAt != nil {
			rows[i].ActivatedAt = storage.AtPtr(now)
		}
	}
	return rows
}

// revokedRow returns the row of a leaked key.
func revokedRow(k storage.SigningKey, reason string, c Config, now time.Time) storage.SigningKey {
	if k.State == storage.KeyCurrent {
		k.DeactivatedAt = storage.AtPtr(now)
	}
	k.State, k.PrivateKey, k.RevokedAt, k.Reason = storage.KeyRevoked, "", storage.AtPtr(now), reason
	k.ExposedUntil = storage.AtPtr(now.Add(c.JWKSMaxAge + Skew))
	return k
}

// outcome describes the rows after a revocation at the given moment.
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
