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

// Rewrapped counts what a rewrap has sealed under the new master key. It does not count the work of an earlier run that
// was interrupted.
type Rewrapped struct {
	MasterKey   string `json:"master_key"`   // id of the new master key
	SigningKeys int    `json:"signing_keys"` // rows of signing keys
	SecretKeys  int    `json:"secret_keys"`  // rows of symmetric keys
	Left        int    `json:"left"`         // rows under any other master key at the end: 0
}

// errOtherRewrap means that another rewrap to a third master key is under way.
var errOtherRewrap = fmt.Errorf("another rewrap seals under another new master key: %w", storage.ErrConflict)

// ErrRetiredMaster refuses a master key from which an earlier rewrap moved away. Servers no longer trust it.
var ErrRetiredMaster = errors.New("this master key was replaced before, and servers no longer trust it: make a new one")

// rewrap is one run over all sealed values.
type rewrap struct {
	life *LifeCycle
	ring *Ring
	by   storage.Actor
	from string // id of the master key that sealed before
	done Rewrapped
}

// Rewrap seals everything under a new master key, row by row in small transactions. Give every replica the new master
// key first: from the first transaction on, rows may be under either. An interrupted rewrap is finished by the next
// one. ErrConflict if another rewrap to a third key is under way.
func (l *LifeCycle) Rewrap(ctx context.Context, by storage.Actor, to *Master) (Rewrapped, error) {
	w := rewrap{life: l, ring: l.ring, by: by, done: Rewrapped{MasterKey: to.ID()}}
	w.ring.masters.add(to)
	v, err := w.ring.intact(ctx)
	if err != nil {
		return w.done, err
	}
	w.ring.masters.add(to) // again: the poll may have dropped a key that seals nothing yet
	w.from = v.master.ID()
	if retired, _, err := w.retired(ctx); err != nil || slices.Contains(retired, to.ID()) {
		return w.done, cmp.Or(err, ErrRetiredMaster)
	}
	for try := 1; ; try++ {
		err := w.run(ctx)
		if !errors.Is(err, storage.ErrConflict) || errors.Is(err, errOtherRewrap) || try == 10 {
			return w.done, err
		}
	}
}

// run goes over everything once. ErrConflict if somebody else changed a row meanwhile.
func (w *rewrap) run(ctx context.Context) error {
	if err := w.turn(ctx); err != nil {
		return err
	}
	if w.from != w.done.MasterKey {
		if err := w.retire(ctx, w.from); err != nil {
			return err
		}
	}
	for _, name := range sealedMetas {
		if err := w.resealMeta(ctx, name); err != nil {
			return err
		}
	}
	if err := w.resealSigningKeys(ctx); err != nil {
		return err
	}
	if err := w.resealSecretKeys(ctx); err != nil {
		return err
	}
	if err := w.resealMeta(ctx, metaCanary); err != nil {
		return err
	}
	left, err := w.life.left(ctx, w.done.MasterKey)
	if w.done.Left = left; err == nil && left > 0 {
		err = fmt.Errorf("rewrap: %d rows are left: %w", left, storage.ErrConflict)
	}
	return err
}

// retired returns the ids of the master keys from which earlier rewraps moved away, and their sealed text; "" if there
// is none.
func (w *rewrap) retired(ctx context.Context) (ids []string, sealed string, err error) {
	sealed, err = w.ring.db.Meta().Value(ctx, metaRetired)
	if isNotFound(err) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	text, err := w.ring.masters.load().open(metaRetired, "1", nil, sealed)
	if err != nil {
		return nil, "", err
	}
	if err := json.Unmarshal(text, &ids); err != nil {
		return nil, "", fmt.Errorf("retired master keys: %w", err)
	}
	return ids, sealed, nil
}

// retire records that rewraps moved away from a master key. ErrConflict if another rewrap recorded one meanwhile.
func (w *rewrap) retire(ctx context.Context, id string) error {
	retired, sealed, err := w.retired(ctx)
	if err != nil || slices.Contains(retired, id) {
		return err
	}
	text, err := json.Marshal(append(retired, id))
	if err != nil {
		return fmt.Errorf("retired master keys: %w", err)
	}
	v := w.ring.view.Load()
	anew := v.master.seal(metaRetired, "1", nil, text)
	return w.ring.db.Meta().SwapSealed(ctx, metaRetired, sealed, anew, v.version)
}

// rewrapEvent is the audit event for a value that was sealed under the master key with the id.
func rewrapEvent(target, id string) storage.Event {
	return event("key.rewrap", target, map[string]any{"master_key": id})
}

// turn makes the new master key the one that seals. The MAC of the set names that key.
func (w *rewrap) turn(ctx context.Context) error {
	v, err := w.ring.intact(ctx)
	if err != nil || v.master.ID() == w.done.MasterKey && v.version > 0 {
		return err
	}
	if v.master.ID() != w.from {
		return errOtherRewrap
	}
	turned := *v
	turned.master = v.master.sealing(w.done.MasterKey)
	change := storage.KeyChange{Event: rewrapEvent("", w.done.MasterKey)}
	if err := w.life.change(ctx, w.by, &turned, change, w.ring.options.Now()); err != nil {
		return err
	}
	return w.ring.Poll(ctx)
}

func (w *rewrap) resealSigningKeys(ctx context.Context) error {
	v, err := w.ring.intact(ctx)
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
			Event:  rewrapEvent(row.KID, v.master.ID()),
			Update: []storage.KeyUpdate{{From: row, To: to}},
		}
		if err := w.life.change(ctx, w.by, v, change, w.ring.options.Now()); err != nil {
			return err
		}
		w.done.SigningKeys++
		if v, err = w.ring.intact(ctx); err != nil {
			return err
		}
	}
	return nil
}

// sealedBy reports whether a row is wholly under the master key with the id.
func sealedBy(row storage.SigningKey, id string) bool {
	return sealedUnder(row.MAC) == id && (row.PrivateKey == "" || sealedUnder(row.PrivateKey) == id)
}

// reseal returns a row whose private half, if it has one, is sealed under the first key.
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

func (w *rewrap) resealSecretKeys(ctx context.Context) error {
	v, err := w.ring.intact(ctx)
	if err != nil {
		return err
	}
	for _, purpose := range purposes {
		for _, k := range v.secrets.byPurpose[purpose] {
			if sealedUnder(k.row.Sealed) == v.master.ID() {
				continue
			}
			sealed := v.master.sealSecret(k.row, k.key)
			now := w.ring.options.Now()
			if err := w.ring.db.SecretKeys().Reseal(ctx, w.by, k.row, sealed, v.version, now); err != nil {
				return err
			}
			w.done.SecretKeys++
		}
	}
	return w.ring.Poll(ctx)
}

// resealMeta seals a named value anew, if there is one. The canary comes last: it names the master key that a starting
// server needs at least.
func (w *rewrap) resealMeta(ctx context.Context, name string) error {
	v := w.ring.view.Load()
	m := v.master
	sealed, err := w.ring.db.Meta().Value(ctx, name)
	if isNotFound(err) || err == nil && sealedUnder(sealed) == m.ID() {
		return nil
	}
	if err != nil {
		return err
	}
	anew := m.sealCanary() // its text is known
	if name != metaCanary {
		text, err := m.open(name, "1", nil, sealed)
		if err != nil {
			w.ring.options.Log.Warn("a value could not be read, and is emptied", "name", name, "error", err)
		}
		anew = m.seal(name, "1", nil, text)
	}
	e := rewrapEvent(name, m.ID())
	return w.ring.db.Meta().Reseal(ctx, w.by, e, name, sealed, anew, v.version, w.ring.options.Now())
}

// left counts in the database what is not under the master key with the id.
func (l *LifeCycle) left(ctx context.Context, id string) (int, error) {
	v, err := l.ring.intact(ctx)
	if err != nil {
		return 0, err
	}
	left := v.underOthers(id)
	for _, name := range append([]string{metaCanary}, sealedMetas...) {
		sealed, err := l.ring.db.Meta().Value(ctx, name)
		if err != nil && !isNotFound(err) {
			return 0, err
		}
		if err == nil && sealedUnder(sealed) != id {
			left++
		}
	}
	return left, nil
}

// underOthers counts the rows of a view, and its set, that are not under the master key with the id.
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
