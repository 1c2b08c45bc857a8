package keys

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyturn/keyturn/storage"
)

// Rewrapped counts what a rewrap has sealed anew. What an interrupted one had done before is not in it.
type Rewrapped struct {
	MasterKey   string `json:"master_key"`   // id of the new master key
	SigningKeys int    `json:"signing_keys"` // rows of signing keys
	SecretKeys  int    `json:"secret_keys"`  // rows of symmetric keys
	Left        int    `json:"left"`         // rows under any other master key, counted at the end: 0
}

// Rewrap seals everything under a new master key, row by row in small transactions. Every replica must be able to read the new key before:
// what it seals is under the new one from the first transaction on, and what it opens may be under either. One that was interrupted is
// finished by the next.
func (r *Ring) Rewrap(ctx context.Context, by storage.Actor, to *Master) (Rewrapped, error) {
	r.master.Store(r.master.Load().with(to))
	done := Rewrapped{MasterKey: to.ID()}
	for try := 1; ; try++ {
		err := r.rewrap(ctx, by, &done)
		if !errors.Is(err, storage.ErrConflict) || try == 10 {
			return done, err
		}
	}
}

// rewrap goes once over everything. ErrConflict if somebody else changed a row meanwhile.
func (r *Ring) rewrap(ctx context.Context, by storage.Actor, done *Rewrapped) error {
	if err := r.turnMaster(ctx, by, done.MasterKey); err != nil {
		return err
	}
	if err := r.resealSigningKeys(ctx, by, done); err != nil {
		return err
	}
	if err := r.resealSecretKeys(ctx, by, done); err != nil {
		return err
	}
	if err := r.resealCanary(ctx, by); err != nil {
		return err
	}
	left, err := r.underOthers(ctx)
	if done.Left = left; err == nil && left > 0 {
		err = fmt.Errorf("rewrap: %d rows are left: %w", left, storage.ErrConflict)
	}
	return err
}

// turnMaster makes the new master key the one that seals: that whose id the MAC of the set bears.
func (r *Ring) turnMaster(ctx context.Context, by storage.Actor, id string) error {
	v, err := r.intact(ctx)
	if err != nil || v.master.ID() == id && v.version > 0 {
		return err
	}
	turned := *v
	turned.master = v.master.sealing(id)
	if err := r.change(ctx, by, &turned, storage.KeyChange{Event: event("key.rewrap", "", map[string]any{"master_key": id})}, r.options.Now()); err != nil {
		return err
	}
	return r.Poll(ctx)
}

func (r *Ring) resealSigningKeys(ctx context.Context, by storage.Actor, done *Rewrapped) error {
	v, err := r.intact(ctx)
	if err != nil {
		return err
	}
	for _, row := range v.rows {
		if v.master.sealed(row) {
			continue
		}
		to, err := v.master.reseal(row)
		if err != nil {
			return err
		}
		change := storage.KeyChange{Event: event("key.rewrap", row.KID, map[string]any{"master_key": v.master.ID()}), Update: []storage.KeyUpdate{{From: row, To: to}}}
		if err := r.change(ctx, by, v, change, r.options.Now()); err != nil {
			return err
		}
		done.SigningKeys++
		if v, err = r.intact(ctx); err != nil {
			return err
		}
	}
	return nil
}

// sealed tells whether nothing of a row is under another key than the first.
func (m *Master) sealed(row storage.SigningKey) bool {
	return sealedUnder(row.MAC) == m.ID() && (row.PrivateKey == "" || sealedUnder(row.PrivateKey) == m.ID())
}

// reseal is a row with its private half, if it has one, under the first key.
func (m *Master) reseal(row storage.SigningKey) (storage.SigningKey, error) {
	if row.PrivateKey == "" {
		return row, nil
	}
	_, public, err := publicOf(row)
	if err != nil {
		return row, err
	}
	secret, err := m.open(purposeSigningKey, row.KID, public, row.PrivateKey)
	if err != nil {
		return row, err
	}
	row.PrivateKey = m.seal(purposeSigningKey, row.KID, public, secret)
	return row, nil
}

func (r *Ring) resealSecretKeys(ctx context.Context, by storage.Actor, done *Rewrapped) error {
	v, err := r.intact(ctx)
	if err != nil {
		return err
	}
	for _, purpose := range purposes {
		for _, k := range v.secrets.byPurpose[purpose] {
			if sealedUnder(k.row.Sealed) == v.master.ID() {
				continue
			}
			sealed := v.master.sealSecret(purpose, k.row.Number, k.key)
			if err := r.db.ResealSecretKey(ctx, by, k.row, sealed, r.options.Now()); err != nil {
				return err
			}
			done.SecretKeys++
		}
	}
	return r.Poll(ctx)
}

// resealCanary comes last: by the canary a server that starts knows which master key it needs at least.
func (r *Ring) resealCanary(ctx context.Context, by storage.Actor) error {
	m := r.view.Load().master
	sealed, err := r.db.Meta(ctx, metaCanary)
	if err != nil || sealedUnder(sealed) == m.ID() {
		return err
	}
	return r.db.ReplaceMeta(ctx, by, event("key.rewrap", metaCanary, map[string]any{"master_key": m.ID()}), metaCanary, sealed, m.sealCanary(), r.options.Now())
}

// underOthers counts, anew from the database, the rows under another master key than the one that seals.
func (r *Ring) underOthers(ctx context.Context) (int, error) {
	v, err := r.intact(ctx)
	if err != nil {
		return 0, err
	}
	canary, err := r.db.Meta(ctx, metaCanary)
	if err != nil {
		return 0, err
	}
	left := 0
	if sealedUnder(canary) != v.master.ID() {
		left++
	}
	for _, row := range v.rows {
		if !v.master.sealed(row) {
			left++
		}
	}
	for _, rows := range v.secrets.byPurpose {
		for _, k := range rows {
			if sealedUnder(k.row.Sealed) != v.master.ID() {
				left++
			}
		}
	}
	return left, nil
}
