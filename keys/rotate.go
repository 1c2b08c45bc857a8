package keys

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// itself is the actor of the steps that come due by schedule.
var itself = storage.Actor{Name: "keyturn", Reason: "schedule"}

// Maintain polls, takes the steps that are due and polls again if there were any. That another replica was faster is a normal outcome.
func (r *Ring) Maintain(ctx context.Context) error {
	if err := r.Poll(ctx); err != nil {
		return err
	}
	for range 4 { // a first start takes three steps: begin, publish, nothing
		v := r.view.Load()
		if len(v.problems) > 0 {
			return errors.New(v.problems[0]) // what is missing is not replaced silently
		}
		steps := Due(v.rows, r.config, r.options.Now())
		if len(steps) == 0 {
			return nil
		}
		for _, step := range steps {
			if err := r.take(ctx, step, v.rows); err != nil && !errors.Is(err, storage.ErrConflict) {
				return err
			}
		}
		if err := r.Poll(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (r *Ring) take(ctx context.Context, step Step, rows []storage.SigningKey) error {
	switch step.Kind {
	case StepBegin:
		return r.begin(ctx)
	case StepPublish:
		return r.publish(ctx)
	case StepRotate:
		_, err := r.rotate(ctx, itself, rows)
		return err
	default:
		return r.retire(ctx, step.KID, rows)
	}
}

// begin makes the first current key. Nobody can have cached a JWKS before it, so that it needs no lead.
func (r *Ring) begin(ctx context.Context) error {
	row, err := r.generate("first key")
	if err != nil {
		return err
	}
	now := r.options.Now()
	row.State, row.ActivatedAt = storage.KeyCurrent, storage.AtPtr(now)
	row.MAC = r.master.rowMAC(row)
	return r.change(ctx, itself, storage.KeyChange{Event: event("key.begin", row.KID, nil), Insert: []storage.SigningKey{row}}, now)
}

// publish makes the next key.
func (r *Ring) publish(ctx context.Context) error {
	row, err := r.generate("next key")
	if err != nil {
		return err
	}
	return r.change(ctx, itself, storage.KeyChange{Event: event("key.publish", row.KID, nil), Insert: []storage.SigningKey{row}}, r.options.Now())
}

func (r *Ring) retire(ctx context.Context, kid string, rows []storage.SigningKey) error {
	for _, from := range rows {
		if from.KID == kid {
			to := from
			to.State = storage.KeyRetired
			return r.change(ctx, itself, storage.KeyChange{Event: event("key.retire", kid, nil), Update: []storage.KeyUpdate{r.update(from, to)}}, r.options.Now())
		}
	}
	return nil
}

// Rotation is the outcome of a rotation: kids.
type Rotation struct {
	Previous string `json:"previous"`
	Current  string `json:"current"`
	Next     string `json:"next"`
}

// TooYoungError refuses a rotation to a key that verifiers may not have seen yet.
type TooYoungError struct {
	KID      string
	Earliest time.Time // when the rotation is safe
}

func (e *TooYoungError) Error() string {
	return fmt.Sprintf("the next key %s has not been published for key_publish_lead yet: verifiers may refuse its tokens; safe from %s on",
		e.KID, e.Earliest.UTC().Format(time.RFC3339))
}

// Rotate makes the next key the current one. Without force it refuses with *TooYoungError while that key is too young. ErrConflict if
// somebody else rotated first.
func (r *Ring) Rotate(ctx context.Context, by storage.Actor, force bool) (Rotation, error) {
	rows, err := r.rotatable(ctx, force)
	if err != nil {
		return Rotation{}, err
	}
	expected := kidOf(find(rows, storage.KeyNext))
	for try := 1; ; try++ {
		rotation, err := r.rotate(ctx, by, rows)
		if !errors.Is(err, storage.ErrConflict) || try == 5 {
			return rotation, errors.Join(err, r.Poll(ctx))
		}
		// Either somebody rotated, or the current key signed for a later moment than was read: then the same step is still to be made.
		if rows, err = r.rotatable(ctx, force); err != nil {
			return Rotation{}, err
		}
		if kidOf(find(rows, storage.KeyNext)) != expected {
			return Rotation{}, fmt.Errorf("rotate: %w: somebody else rotated at the same time", storage.ErrConflict)
		}
	}
}

// PlanRotation tells what Rotate would do, and changes nothing. Its Next is empty: that key would be made.
func (r *Ring) PlanRotation(ctx context.Context, force bool) (Rotation, error) {
	rows, err := r.rotatable(ctx, force)
	if err != nil {
		return Rotation{}, err
	}
	return Rotation{Previous: kidOf(find(rows, storage.KeyCurrent)), Current: find(rows, storage.KeyNext).KID}, nil
}

// rotatable reads the rows and tells whether next may become current.
func (r *Ring) rotatable(ctx context.Context, force bool) ([]storage.SigningKey, error) {
	if err := r.Poll(ctx); err != nil {
		return nil, err
	}
	v := r.view.Load()
	if len(v.problems) > 0 {
		return nil, errors.New(v.problems[0])
	}
	next := find(v.rows, storage.KeyNext)
	if next == nil {
		return nil, fmt.Errorf("rotate: there is no next key yet: start the server once: %w", storage.ErrConflict)
	}
	if earliest := next.PublishedAt.Add(r.config.PublishLead); !force && r.options.Now().Before(earliest) {
		return nil, &TooYoungError{next.KID, earliest}
	}
	return v.rows, nil
}

// rotate makes next current and current previous, whose private half it destroys, and publishes a new next, all in one transaction. The
// new key is generated before it.
func (r *Ring) rotate(ctx context.Context, by storage.Actor, rows []storage.SigningKey) (Rotation, error) {
	fresh, err := r.generate("next key")
	if err != nil {
		return Rotation{}, err
	}
	now := r.options.Now()
	next := *find(rows, storage.KeyNext)
	change := storage.KeyChange{Insert: []storage.SigningKey{fresh}}
	rotation := Rotation{Current: next.KID, Next: fresh.KID}
	if current := find(rows, storage.KeyCurrent); current != nil {
		rotation.Previous = current.KID
		change.Update = append(change.Update, r.update(*current, r.deactivated(*current, now)))
	}
	to := next
	to.State, to.ActivatedAt, to.Reason = storage.KeyCurrent, storage.AtPtr(now), by.Reason
	change.Update = append(change.Update, r.update(next, to))
	change.Event = event("key.rotate", rotation.Current, map[string]any{"previous": rotation.Previous, "next": rotation.Next})
	return rotation, r.change(ctx, by, change, now)
}

// deactivated is the row of a current key that stops signing now.
func (r *Ring) deactivated(k storage.SigningKey, now time.Time) storage.SigningKey {
	k.State, k.PrivateKey, k.DeactivatedAt = storage.KeyPrevious, "", storage.AtPtr(now)
	k.RetiresAt = storage.AtPtr(retirement(k, r.config, now))
	return k
}

func (r *Ring) generate(reason string) (storage.SigningKey, error) {
	private, err := r.options.Generate(r.config.Bits)
	if err != nil {
		return storage.SigningKey{}, fmt.Errorf("new key: %w", err)
	}
	return r.master.newRow(private, reason, r.options.Now())
}

func (r *Ring) update(from, to storage.SigningKey) storage.KeyUpdate {
	to.MAC = r.master.rowMAC(to)
	return storage.KeyUpdate{From: from, To: to}
}

func (r *Ring) change(ctx context.Context, by storage.Actor, c storage.KeyChange, now time.Time) error {
	err := r.db.ChangeKeys(ctx, by, c, now)
	if err == nil {
		r.options.Log.Info("signing keys changed", "event", c.Event.Type, "kid", c.Event.Target, "actor", by.Name, "details", c.Event.Details)
	}
	return err
}

func event(kind, kid string, details map[string]any) storage.Event {
	return storage.Event{Type: kind, Target: kid, Details: details}
}

func kidOf(k *storage.SigningKey) string {
	if k == nil {
		return ""
	}
	return k.KID
}
