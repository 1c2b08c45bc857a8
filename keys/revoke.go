package keys

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Revocation is the outcome of the revocation of a leaked key.
type Revocation struct {
	Revoked        []string   `json:"revoked"`            // kids; more than one with the store leaked
	RevokedAt      time.Time  `json:"revoked_at"`         // of the key that was named
	Already        bool       `json:"already"`            // it had been revoked before: nothing was changed
	Current        string     `json:"current"`            // the kid that signs now
	Next           string     `json:"next"`               // the kid that signs next
	SecondRotation *time.Time `json:"second_rotation_at"` // to a key that no verifier has cached; nil: none is needed, the current key is such
	ExposedUntil   time.Time  `json:"exposed_until"`      // until when verifiers that obey max-age may accept a token that was forged with any revoked key
}

// Revoke takes a leaked key out of the JWKS for good and lets another sign, in one transaction: the next key if the current one leaked.
// A fresh next key, which no verifier can have cached, takes over as soon as every verifier that obeys max-age knows it, because those
// that keep a key set for ever fetch it again only when they meet an unknown kid.
//
// With storeLeaked whoever copied the database and the master key may have every private half: all keys in the JWKS are thrown away, and
// a fresh key signs at once. That also mends rows that were altered: none of them is used again. ErrNotFound if there is no such key.
func (r *Ring) Revoke(ctx context.Context, by storage.Actor, kid string, storeLeaked bool) (Revocation, error) {
	for try := 1; ; try++ {
		v, err := r.revocable(ctx, storeLeaked)
		if err != nil {
			return Revocation{}, err
		}
		i := slices.IndexFunc(v.rows, func(k storage.SigningKey) bool { return k.KID == kid })
		if i < 0 {
			return Revocation{}, fmt.Errorf("signing key %s: %w", kid, storage.ErrNotFound)
		}
		if v.rows[i].State == storage.KeyRevoked && v.altered == nil {
			return r.outcome(v.rows, []string{kid}, true), nil
		}
		done, err := r.revoke(ctx, by, v, v.rows[i], storeLeaked)
		if !errors.Is(err, storage.ErrConflict) || try == 5 {
			return done, errors.Join(err, r.Poll(ctx))
		}
	}
}

// revocable reads the rows. Only when everything is thrown away may they be altered ones.
func (r *Ring) revocable(ctx context.Context, storeLeaked bool) (*view, error) {
	if err := r.Poll(ctx); err != nil {
		return nil, err
	}
	v := r.view.Load()
	if v.altered != nil && !storeLeaked {
		return nil, fmt.Errorf("%w: whoever can write the table may have read it: revoke with --store-leaked, which makes fresh keys", v.altered)
	}
	return v, nil
}

// revoke makes the change, in one transaction. The fresh keys are generated before it.
func (r *Ring) revoke(ctx context.Context, by storage.Actor, v *view, leaked storage.SigningKey, storeLeaked bool) (Revocation, error) {
	fresh, err := r.generateNext(v.master)
	if err != nil {
		return Revocation{}, err
	}
	inserts := []storage.SigningKey{fresh}
	signer := find(v.rows, storage.KeyNext)
	if storeLeaked || signer == nil || signer.KID == leaked.KID {
		signer = nil
	}
	needsSigner := storeLeaked || leaked.State == storage.KeyCurrent || find(v.rows, storage.KeyCurrent) == nil
	if needsSigner && signer == nil {
		row, err := r.generate(v.master, "signs after a revocation")
		if err != nil {
			return Revocation{}, err
		}
		inserts = append(inserts, activated(row, by.Reason, row.PublishedAt.Time))
	}
	now := r.options.Now()
	change := storage.KeyChange{Insert: publishedAt(inserts, now)}
	revoked := []string{leaked.KID}
	for _, row := range v.rows {
		to, changed := row, true
		switch {
		case row.KID == leaked.KID, v.altered != nil, storeLeaked && row.State.Published():
			to = revokedRow(row, by.Reason, r.config, now)
			if row.KID != leaked.KID {
				revoked = append(revoked, row.KID)
			}
		case row.State == storage.KeyNext && needsSigner:
			to = activated(row, by.Reason, now)
		case row.State == storage.KeyNext:
			to = retired(row, now) // it never signed; a fresh one takes its place
		default:
			changed = false
		}
		if changed {
			change.Update = append(change.Update, storage.KeyUpdate{From: row, To: to})
		}
	}
	loseFirst(change.Update)
	rows := apply(v.rows, change)
	if secondRotation(rows) {
		change.Insert[0].SafeFrom = storage.At(exposedUntil(rows))
		rows = apply(v.rows, change)
	}
	done := r.outcome(rows, revoked, false)
	change.Event = event("key.revoke", leaked.KID, map[string]any{"revoked": revoked, "current": done.Current, "next": done.Next,
		"store_leaked": storeLeaked, "exposed_until": storage.At(done.ExposedUntil)})
	return done, r.change(ctx, by, v, change, now)
}

// publishedAt is rows of new keys as published, and as coming to sign, at the moment given: that of a revocation, than which they are not older.
func publishedAt(rows []storage.SigningKey, now time.Time) []storage.SigningKey {
	for i := range rows {
		rows[i].PublishedAt = storage.At(now)
		if rows[i].ActivatedAt != nil {
			rows[i].ActivatedAt = storage.AtPtr(now)
		}
	}
	return rows
}

// revokedRow is the row of a key that has leaked.
func revokedRow(k storage.SigningKey, reason string, c Config, now time.Time) storage.SigningKey {
	if k.State == storage.KeyRevoked && k.RevokedAt != nil && k.ExposedUntil != nil {
		return k
	}
	if k.State == storage.KeyCurrent {
		k.DeactivatedAt = storage.AtPtr(now)
	}
	k.State, k.PrivateKey, k.RevokedAt, k.Reason = storage.KeyRevoked, "", storage.AtPtr(now), reason
	k.ExposedUntil = storage.AtPtr(now.Add(c.JWKSMaxAge + Skew))
	return k
}

// loseFirst puts the rows that give up a state before the one that takes it: the schema lets one key be current and one next.
func loseFirst(updates []storage.KeyUpdate) {
	slices.SortStableFunc(updates, func(a, b storage.KeyUpdate) int {
		rank := func(u storage.KeyUpdate) int {
			if u.To.State == storage.KeyCurrent {
				return 1
			}
			return 0
		}
		return rank(a) - rank(b)
	})
}

// outcome is what a revocation has led to. The key is one of the rows.
func (r *Ring) outcome(rows []storage.SigningKey, revoked []string, already bool) Revocation {
	i := slices.IndexFunc(rows, func(k storage.SigningKey) bool { return k.KID == revoked[0] })
	o := Revocation{Revoked: revoked, RevokedAt: rows[i].RevokedAt.Time, Already: already, Current: kidOf(find(rows, storage.KeyCurrent)),
		Next: kidOf(find(rows, storage.KeyNext)), ExposedUntil: exposedUntil(rows)}
	if secondRotation(rows) {
		second := rotatesAt(rows, r.config).UTC()
		o.SecondRotation = &second
	}
	return o
}
