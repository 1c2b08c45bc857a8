package keys

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/keyturn/keyturn/storage"
)

// Rewrapped counts what a rewrap has sealed anew. What an interrupted one had done before is not in it.
type Rewrapped struct {
	MasterKey   string `json:"master_key"`   // id of the new master key
	SigningKeys int    `json:"signing_keys"` // rows of signing keys
	SecretKeys  int    `json:"secret_keys"`  // rows of symmetric keys
	Left        int    `json:"left"`         // rows under any other master key, counted at the end: 0
}

// errOtherRewrap says that another rewrap seals under a key of its own.
var errOtherRewrap = fmt.Errorf("another rewrap seals under another new master key: %w", storage.ErrConflict)

// Rewrap seals everything under a new master key, row by row in small transactions. Every replica must be able to read
// the new key before: what it seals is under the new one from the first transaction on, and what it opens may be under
// either. One that was interrupted is finished by the next. ErrConflict if another rewrap goes on to a third key.
func (r *Ring) Rewrap(ctx context.Context, by storage.Actor, to *Master) (Rewrapped, error) {
	r.master.Store(r.master.Load().with(to))
	done := Rewrapped{MasterKey: to.ID()}
	v, err := r.intact(ctx)
	if err != nil {
		return done, err
	}
	r.master.Store(r.master.Load().with(to)) // a key that seals nothing yet is not forgotten: it comes last
	from := v.master.ID()
	if retired, err := r.retiredMasters(ctx); err != nil || slices.Contains(retired, to.ID()) {
		return done, cmp.Or(err, ErrRetiredMaster)
	}
	for try := 1; ; try++ {
		err := r.rewrap(ctx, by, from, &done)
		if !errors.Is(err, storage.ErrConflict) || errors.Is(err, errOtherRewrap) || try == 10 {
			return done, err
		}
	}
}

// ErrRetiredMaster refuses a master key that another has taken over from before: servers do not believe it any more.
var ErrRetiredMaster = errors.New(
	"this master key was in use before, and servers that have seen it go do not believe it any more: make a new one",
)

// retiredMasters are the ids of master keys that others have taken over from.
func (r *Ring) retiredMasters(ctx context.Context) (ids []string, err error) {
	sealed, err := r.db.Meta().Value(ctx, metaRetired)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text, err := r.master.Load().open(metaRetired, "1", nil, sealed)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &ids); err != nil {
		return nil, fmt.Errorf("retired master keys: %w", err)
	}
	return ids, nil
}

// retireMaster notes that a master key has been taken over from.
func (r *Ring) retireMaster(ctx context.Context, id string) error {
	retired, err := r.retiredMasters(ctx)
	if err != nil || slices.Contains(retired, id) {
		return err
	}
	text, err := json.Marshal(append(retired, id))
	if err != nil {
		return fmt.Errorf("retired master keys: %w", err)
	}
	return r.db.Meta().Set(ctx, metaRetired, r.view.Load().master.seal(metaRetired, "1", nil, text))
}

// rewrap goes once over everything. ErrConflict if somebody else changed a row meanwhile.
func (r *Ring) rewrap(ctx context.Context, by storage.Actor, from string, done *Rewrapped) error {
	if err := r.turnMaster(ctx, by, from, done.MasterKey); err != nil {
		return err
	}
	if from != done.MasterKey {
		if err := r.retireMaster(ctx, from); err != nil {
			return err
		}
	}
	for _, name := range sealedMetas {
		if err := r.resealMeta(ctx, by, name); err != nil {
			return err
		}
	}
	if err := r.resealSigningKeys(ctx, by, done); err != nil {
		return err
	}
	if err := r.resealSecretKeys(ctx, by, done); err != nil {
		return err
	}
	if err := r.resealMeta(ctx, by, metaCanary); err != nil {
		return err
	}
	left, err := r.left(ctx, done.MasterKey)
	if done.Left = left; err == nil && left > 0 {
		err = fmt.Errorf("rewrap: %d rows are left: %w", left, storage.ErrConflict)
	}
	return err
}

// turnMaster makes the new master key the one that seals: that whose id the MAC of the set bears.
func (r *Ring) turnMaster(ctx context.Context, by storage.Actor, from, id string) error {
	v, err := r.intact(ctx)
	if err != nil || v.master.ID() == id && v.version > 0 {
		return err
	}
	if v.master.ID() != from {
		return errOtherRewrap
	}
	turned := *v
	turned.master = v.master.sealing(id)
	if err := r.change(ctx, by, &turned, storage.KeyChange{Event: event("key.rewrap", "",
		map[string]any{"master_key": id})}, r.options.Now()); err != nil {
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
		if sealedBy(row, v.master.ID()) {
			continue
		}
		to, err := v.master.reseal(row)
		if err != nil {
			return err
		}
		change := storage.KeyChange{
			Event:  event("key.rewrap", row.KID, map[string]any{"master_key": v.master.ID()}),
			Update: []storage.KeyUpdate{{From: row, To: to}},
		}
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

// sealedBy tells whether nothing of a row is under another key than the one of that id.
func sealedBy(row storage.SigningKey, id string) bool {
	return sealedUnder(row.MAC) == id && (row.PrivateKey == "" || sealedUnder(row.PrivateKey) == id)
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
			if err := r.db.SecretKeys().Reseal(ctx, by, k.row, sealed, r.options.Now()); err != nil {
				return err
			}
			done.SecretKeys++
		}
	}
	return r.Poll(ctx)
}

// resealMeta seals a named value anew, if there is one. The canary comes last: by it a server that starts knows which
// master key it needs at least.
func (r *Ring) resealMeta(ctx context.Context, by storage.Actor, name string) error {
	m := r.view.Load().master
	sealed, err := r.db.Meta().Value(ctx, name)
	if isNotFound(err) || err == nil && sealedUnder(sealed) == m.ID() {
		return nil
	}
	if err != nil {
		return err
	}
	anew := m.sealCanary() // what it says is known: it need not be opened
	if name != metaCanary {
		text, err := m.open(name, "1", nil, sealed)
		if err != nil {
			r.options.Log.Warn("a value could not be read, and is emptied", "name", name, "error", err)
		}
		anew = m.seal(name, "1", nil, text)
	}
	return r.db.Meta().Replace(
		ctx,
		by,
		event("key.rewrap", name, map[string]any{"master_key": m.ID()}),
		name,
		sealed,
		anew,
		r.options.Now(),
	)
}

// left counts, anew from the database, what is under another master key than the one of that id.
func (r *Ring) left(ctx context.Context, id string) (int, error) {
	v, err := r.intact(ctx)
	if err != nil {
		return 0, err
	}
	left := v.underOthers(id)
	for _, name := range append([]string{metaCanary}, sealedMetas...) {
		sealed, err := r.db.Meta().Value(ctx, name)
		if err != nil && !isNotFound(err) {
			return 0, err
		}
		if err == nil && sealedUnder(sealed) != id {
			left++
		}
	}
	return left, nil
}

// underOthers counts the rows of a view, and its set, that are under another master key than the one of that id.
func (v *view) underOthers(id string) (n int) {
	if v.version > 0 && sealedUnder(v.setMAC) != id {
		n++
	}
	for _, row := range v.rows {
		if !sealedBy(row, id) {
			n++
		}
	}
	for _, rows := range v.secrets.byPurpose {
		for _, k := range rows {
			if sealedUnder(k.row.Sealed) != id {
				n++
			}
		}
	}
	return n
}
