package keys

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keyturn/keyturn/clock"
	"github.com/keyturn/keyturn/storage"
)

const eventBegin = "key.begin"

// Actors of the steps that come due by themselves.
var (
	itself     = storage.Actor{Name: "keyturn", Reason: "schedule"}
	afterALeak = storage.Actor{Name: "keyturn", Reason: "second rotation after a revocation"}
)

// Maintain polls, takes the steps that are due and polls again if there were any. That another replica was faster is a
// normal outcome.
func (r *Ring) Maintain(ctx context.Context) error {
	v, err := r.intact(ctx)
	if err != nil {
		return err
	}
	for range 4 { // a first start takes three rounds: begin, publish, nothing
		steps := Due(v.rows, r.config(), r.options.Now())
		if len(steps) == 0 {
			break
		}
		if err := r.checkClock(ctx); err != nil {
			return err
		}
		for _, step := range steps {
			if err := r.take(ctx, step, v); err != nil && !errors.Is(err, storage.ErrConflict) {
				return err
			}
			if v, err = r.intact(ctx); err != nil {
				return err
			}
		}
	}
	return r.maintainSecrets(ctx, v)
}

// checkClock reports whether this replica is sure of the time. *clock.UnsureError if not.
func (r *Ring) checkClock(ctx context.Context) error {
	if r.options.Sure != nil {
		return r.options.Sure(ctx)
	}
	off, err := r.ClockOff(ctx)
	if err == nil && off.Abs() > clock.MaxOff {
		err = &clock.UnsureError{Off: off}
	}
	return err
}

func (r *Ring) take(ctx context.Context, step Step, v *view) error {
	switch step.Kind {
	case StepBegin:
		return r.begin(ctx, v)
	case StepPublish:
		return r.publish(ctx, v)
	case StepRotate:
		by := itself
		if secondRotation(v.rows) {
			by = afterALeak
		}
		_, err := r.rotate(ctx, by, v)
		return err
	default:
		return r.retire(ctx, step.KID, v)
	}
}

// begin makes the first current key. Nobody can have cached a JWKS before it, so that it needs no lead. Where there
// were keys before, it makes none: somebody has taken them away.
func (r *Ring) begin(ctx context.Context, v *view) error {
	if begun, err := r.db.Audit().HasType(ctx, eventBegin); err != nil || begun {
		if v, e := r.intact(ctx); e != nil || err != nil || len(v.rows) > 0 {
			return cmp.Or(err, e, storage.ErrConflict) // another replica has just begun
		}
		return &AlteredError{
			Problems: []string{"there are no signing keys, and there were some: the rows were removed outside keyturn"},
		}
	}
	row, err := r.generate(v.master, "first key")
	if err != nil {
		return err
	}
	now := r.options.Now()
	return r.change(
		ctx,
		itself,
		v,
		storage.KeyChange{
			Event:  event(eventBegin, row.KID, nil),
			Insert: []storage.SigningKey{activated(row, row.Reason, now)},
		},
		now,
	)
}

// publish makes the next key.
func (r *Ring) publish(ctx context.Context, v *view) error {
	row, err := r.generateNext(v.master)
	if err != nil {
		return err
	}
	return r.change(
		ctx,
		itself,
		v,
		storage.KeyChange{Event: event("key.publish", row.KID, nil), Insert: []storage.SigningKey{row}},
		r.options.Now(),
	)
}

func (r *Ring) retire(ctx context.Context, kid string, v *view) error {
	now := r.options.Now()
	for _, from := range v.rows {
		if from.KID == kid && from.State == storage.KeyPrevious && !now.Before(from.RetiresAt.Time) {
			return r.change(
				ctx,
				itself,
				v,
				storage.KeyChange{
					Event:  event("key.retire", kid, nil),
					Update: []storage.KeyUpdate{{From: from, To: retired(from, now)}},
				},
				now,
			)
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

// Error names the key and the time from which a rotation is safe.
func (e *TooYoungError) Error() string {
	return fmt.Sprintf(
		"the next key %s is too young: verifiers that keep the JWKS may not know it and refuse its tokens; safe from %s on",
		e.KID,
		e.Earliest.UTC().Format(time.RFC3339),
	)
}

// Rotate makes the next key the current one. Without force it refuses with *TooYoungError while that key is too young.
// ErrConflict if somebody else rotated first.
func (r *Ring) Rotate(ctx context.Context, by storage.Actor, force bool) (Rotation, error) {
	v, err := r.rotatable(ctx, force)
	if err != nil {
		return Rotation{}, err
	}
	expected := kidOf(find(v.rows, storage.KeyNext))
	for try := 1; ; try++ {
		rotation, err := r.rotate(ctx, by, v)
		if !errors.Is(err, storage.ErrConflict) || try == 5 {
			r.pollAfter(ctx, err)
			return rotation, err
		}
		// Either somebody changed the keys, or the current key signed for a later moment than was read: then the same step is
		// still to be made.
		if v, err = r.rotatable(ctx, force); err != nil {
			return Rotation{}, err
		}
		if kidOf(find(v.rows, storage.KeyNext)) != expected {
			return Rotation{}, fmt.Errorf("rotate: %w: somebody else rotated at the same time", storage.ErrConflict)
		}
	}
}

// pollAfter brings the view up to date after a change, if it was made. That it could not be read does not undo the
// change.
func (r *Ring) pollAfter(ctx context.Context, err error) {
	if err != nil {
		return
	}
	if err := r.Poll(ctx); err != nil {
		r.options.Log.Warn("signing keys: changed, but not read again", "error", err)
	}
}

// PlannedRotation is what Rotate would do, and the lives of the keys after it.
type PlannedRotation struct {
	Rotation
	Lives []Life `json:"lives"`
}

// PlanRotation tells what Rotate would do, and changes nothing. Its Next is empty: that key would be made.
func (r *Ring) PlanRotation(ctx context.Context, force bool) (PlannedRotation, error) {
	v, err := r.rotatable(ctx, force)
	if err != nil {
		return PlannedRotation{}, err
	}
	now := r.options.Now()
	rotation, updates := r.turn(v.rows, "", now)
	after := apply(
		v.rows,
		storage.KeyChange{Update: updates, Insert: []storage.SigningKey{{State: storage.KeyNext, Alg: string(signingAlg),
			Bits: r.config().Bits, PublishedAt: storage.At(now),
			SafeFrom: storage.At(now.Add(r.config().PublishLead)), PrivateKey: "to be made"}}},
	)
	return PlannedRotation{rotation, Lives(after, r.config(), now)}, nil
}

// rotatable reads the rows and tells whether next may become current.
func (r *Ring) rotatable(ctx context.Context, force bool) (*view, error) {
	v, err := r.intact(ctx)
	if err != nil {
		return nil, err
	}
	next := find(v.rows, storage.KeyNext)
	if next == nil {
		return nil, fmt.Errorf("rotate: there is no next key yet: start the server once: %w", storage.ErrConflict)
	}
	if force {
		return v, nil
	}
	if earliest := safeFrom(v.rows, r.config()); r.options.Now().Before(earliest) {
		return nil, &TooYoungError{next.KID, earliest}
	}
	return v, r.checkClock(ctx)
}

// rotate makes next current and current previous, whose private half it destroys, and publishes a new next, all in one
// transaction. The new key is generated before it.
func (r *Ring) rotate(ctx context.Context, by storage.Actor, v *view) (Rotation, error) {
	fresh, err := r.generateNext(v.master)
	if err != nil {
		return Rotation{}, err
	}
	now := r.options.Now()
	rotation, updates := r.turn(v.rows, by.Reason, now)
	rotation.Next = fresh.KID
	return rotation, r.change(ctx, by, v, storage.KeyChange{Insert: []storage.SigningKey{fresh}, Update: updates,
		Event: event(
			"key.rotate",
			rotation.Current,
			map[string]any{"previous": rotation.Previous, "next": rotation.Next},
		)}, now)
}

// turn is what a rotation does to the rows that are there.
func (r *Ring) turn(rows []storage.SigningKey, reason string, now time.Time) (Rotation, []storage.KeyUpdate) {
	next := *find(rows, storage.KeyNext)
	rotation := Rotation{Current: next.KID}
	var updates []storage.KeyUpdate
	if current := find(rows, storage.KeyCurrent); current != nil {
		rotation.Previous = current.KID
		updates = append(updates, storage.KeyUpdate{From: *current, To: deactivated(*current, r.config(), now)})
	}
	return rotation, append(updates, storage.KeyUpdate{From: next, To: activated(next, reason, now)})
}

// activated is the row of a key that begins to sign.
func activated(k storage.SigningKey, reason string, now time.Time) storage.SigningKey {
	k.State, k.ActivatedAt, k.Reason = storage.KeyCurrent, storage.AtPtr(now), reason
	return k
}

// deactivated is the row of a current key that stops signing.
func deactivated(k storage.SigningKey, c Config, now time.Time) storage.SigningKey {
	k.State, k.PrivateKey, k.DeactivatedAt = storage.KeyPrevious, "", storage.AtPtr(now)
	k.RetiresAt = storage.AtPtr(retirement(k, c, now))
	return k
}

// retired is the row of a key that leaves the JWKS: a previous one whose time has come, or a next one that is not
// wanted any more.
func retired(k storage.SigningKey, now time.Time) storage.SigningKey {
	k.State, k.PrivateKey, k.RetiredAt = storage.KeyRetired, "", storage.AtPtr(now)
	return k
}

// generateNext makes the row of a next key that may sign after key_publish_lead.
func (r *Ring) generateNext(m *Master) (storage.SigningKey, error) {
	row, err := r.generate(m, "next key")
	row.SafeFrom = storage.At(row.PublishedAt.Add(r.config().PublishLead))
	return row, err
}

// generate makes a key. A kid that begins with - is not taken: on a command line it would be a flag.
func (r *Ring) generate(m *Master, reason string) (storage.SigningKey, error) {
	for {
		private, err := r.options.Generate(r.config().Bits)
		if err != nil {
			return storage.SigningKey{}, fmt.Errorf("new key: %w", err)
		}
		row, err := m.newRow(private, reason, r.options.Now())
		if err != nil || !strings.HasPrefix(row.KID, "-") {
			return row, err
		}
	}
}

// change makes one step on the rows of a view. The rows that it writes get their MAC here, and the set its own.
func (r *Ring) change(ctx context.Context, by storage.Actor, v *view, c storage.KeyChange, now time.Time) error {
	for i := range c.Update {
		to := &c.Update[i].To
		if ofFirstSchema(*to) {
			to.SafeFrom = to.PublishedAt
		}
		to.MAC = v.master.rowMAC(*to)
	}
	for i := range c.Insert {
		c.Insert[i].MAC = v.master.rowMAC(c.Insert[i])
	}
	c.Version, c.NextVersion = v.version, max(v.version+1, v.leastVersion)
	if v.altered != nil { // the version may be altered too: the next one must be later than any that a replica has seen
		c.NextVersion = max(c.NextVersion, now.UnixMilli())
	}
	c.SetMAC = v.master.setMAC(c.NextVersion, apply(v.rows, c))
	err := r.db.SigningKeys().Change(ctx, by, c, now)
	if err == nil {
		r.options.Log.Info(
			"signing keys changed",
			"event",
			c.Event.Type,
			"kid",
			c.Event.Target,
			"actor",
			by.Name,
			"details",
			c.Event.Details,
		)
	}
	return err
}

// apply is the rows as a change leaves them.
func apply(rows []storage.SigningKey, c storage.KeyChange) []storage.SigningKey {
	after := append([]storage.SigningKey{}, c.Insert...)
	for _, row := range rows {
		for _, u := range c.Update {
			if u.From.KID == row.KID {
				row = u.To
			}
		}
		after = append(after, row)
	}
	return after
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
