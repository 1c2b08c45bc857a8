package keys

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Rotation names the keys after a rotation by kid.
type Rotation struct {
	Previous string `json:"previous"`
	Current  string `json:"current"`
	Next     string `json:"next"`
}

// TooYoungError refuses a rotation to a key that some verifiers may not know yet.
type TooYoungError struct {
	KID      string
	Earliest time.Time // when the rotation is safe
}

// Error names the key and the moment from which a rotation is safe.
func (e *TooYoungError) Error() string {
	return fmt.Sprintf(
		"the next key %s is too young: verifiers that keep the JWKS may not know it and refuse its tokens; safe "+
			"from %s on",
		e.KID,
		e.Earliest.UTC().Format(time.RFC3339),
	)
}

// Gate says what a rotation waits for.
type Gate struct {
	Force     bool     // do not wait until every verifier that obeys max-age knows the next key
	WhenReady bool     // refuse while registered verifiers do not have the next key
	Except    []string // verifiers that do not count for WhenReady
}

// Rotate makes the next key the current one. It may return a *TooYoungError or a *NotReadyError, as the gate says.
// ErrConflict if somebody else rotated first, ErrChanged if the actor saw another key set.
func (l *LifeCycle) Rotate(ctx context.Context, by storage.Actor, g Gate) (Rotation, error) {
	v, err := l.rotatable(ctx, g)
	if err = cmp.Or(err, v.seenBy(by)); err != nil {
		return Rotation{}, err
	}
	var details map[string]any
	if len(g.Except) > 0 {
		details = map[string]any{"except": g.Except}
	}
	expected := kidOf(find(v.rows, storage.KeyNext))
	for try := 1; ; try++ {
		rotation, err := l.rotate(ctx, by, v, details)
		if !errors.Is(err, storage.ErrConflict) || try == 5 {
			l.pollAfter(ctx, err)
			return rotation, err
		}
		// Either somebody changed the keys, or the current key signed for longer than was read. In the second case the
		// rotation is still to be made.
		if v, err = l.rotatable(ctx, g); err != nil {
			return Rotation{}, err
		}
		if err := v.seenBy(by); err != nil {
			return Rotation{}, err
		}
		if kidOf(find(v.rows, storage.KeyNext)) != expected {
			return Rotation{}, fmt.Errorf("rotate: %w: somebody else rotated at the same time", storage.ErrConflict)
		}
	}
}

// PlannedRotation is what Rotate would do, and the lives of the keys after it.
type PlannedRotation struct {
	Rotation
	Lives []Life `json:"lives"`
}

// PlanRotation returns what Rotate would do and changes nothing. Next is empty, since Rotate would make that key.
func (l *LifeCycle) PlanRotation(ctx context.Context, g Gate) (PlannedRotation, error) {
	v, err := l.rotatable(ctx, g)
	if err != nil {
		return PlannedRotation{}, err
	}
	c, now := l.ring.config(), l.ring.options.Now()
	rotation, updates := turn(v.rows, c, "", now)
	next := storage.SigningKey{
		State:       storage.KeyNext,
		Alg:         string(signingAlg),
		Bits:        c.Bits,
		PublishedAt: storage.At(now),
		SafeFrom:    storage.At(now.Add(c.PublishLead)),
		PrivateKey:  "to be made",
	}
	after := apply(v.rows, storage.KeyChange{Update: updates, Insert: []storage.SigningKey{next}})
	return PlannedRotation{rotation, Lives(after, c, now)}, nil
}

// rotatable reads the rows again and returns an error if the next key may not become current.
func (l *LifeCycle) rotatable(ctx context.Context, g Gate) (*view, error) {
	v, err := l.ring.intact(ctx)
	if err != nil {
		return nil, err
	}
	next := find(v.rows, storage.KeyNext)
	if next == nil {
		return nil, fmt.Errorf("rotate: there is no next key yet: start the server once: %w", storage.ErrConflict)
	}
	if err := l.checkReady(ctx, v, g); err != nil {
		return nil, err
	}
	if g.Force {
		return v, nil
	}
	if earliest := safeFrom(v.rows, l.ring.config()); l.ring.options.Now().Before(earliest) {
		return nil, &TooYoungError{next.KID, earliest}
	}
	return v, l.ring.checkClock(ctx)
}

// checkReady returns a *NotReadyError if the gate waits for verifiers that are not ready.
func (l *LifeCycle) checkReady(ctx context.Context, v *view, g Gate) error {
	if !g.WhenReady {
		return nil
	}
	o, err := l.observe(ctx, v.rows)
	if err != nil {
		return err
	}
	unready := o.Judge(l.ring.config(), l.ring.options.Now()).Unready(g.Except)
	if len(unready) > 0 {
		return &NotReadyError{unready}
	}
	return nil
}

// rotate makes next current and current previous, destroys the private half of the latter, and publishes a new next
// key, all in one transaction. It generates the new key before the transaction. more goes to the audit record.
func (l *LifeCycle) rotate(
	ctx context.Context, by storage.Actor, v *view, more map[string]any,
) (Rotation, error) {
	fresh, err := l.generateNext(v.master)
	if err != nil {
		return Rotation{}, err
	}
	now := l.ring.options.Now()
	rotation, updates := turn(v.rows, l.ring.config(), by.Reason, now)
	rotation.Next = fresh.KID
	details := map[string]any{"previous": rotation.Previous, "next": rotation.Next}
	maps.Copy(details, more)
	change := storage.KeyChange{
		Event:  event("key.rotate", rotation.Current, details),
		Insert: []storage.SigningKey{fresh},
		Update: updates,
	}
	return rotation, l.change(ctx, by, v, change, now)
}

// turn returns what a rotation does to the existing rows.
func turn(rows []storage.SigningKey, c Config, reason string, now time.Time) (Rotation, []storage.KeyUpdate) {
	next := *find(rows, storage.KeyNext)
	rotation := Rotation{Current: next.KID}
	var updates []storage.KeyUpdate
	if current := find(rows, storage.KeyCurrent); current != nil {
		rotation.Previous = current.KID
		updates = append(updates, storage.KeyUpdate{From: *current, To: deactivated(*current, c, now)})
	}
	return rotation, append(updates, storage.KeyUpdate{From: next, To: activated(next, reason, now)})
}

// activated returns the row of a key that begins to sign.
func activated(k storage.SigningKey, reason string, now time.Time) storage.SigningKey {
	k.State, k.ActivatedAt, k.Reason = storage.KeyCurrent, storage.AtPtr(now), reason
	return k
}

// deactivated returns the row of a current key that stops signing.
func deactivated(k storage.SigningKey, c Config, now time.Time) storage.SigningKey {
	k.State, k.PrivateKey, k.DeactivatedAt = storage.KeyPrevious, "", storage.AtPtr(now)
	k.RetiresAt = storage.AtPtr(retirement(k, c, now))
	return k
}

// retired returns the row of a key that leaves the JWKS: a previous key whose time has come, or a next key that another
// replaces.
func retired(k storage.SigningKey, now time.Time) storage.SigningKey {
	k.State, k.PrivateKey, k.RetiredAt = storage.KeyRetired, "", storage.AtPtr(now)
	return k
}
