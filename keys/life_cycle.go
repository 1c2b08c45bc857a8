package keys

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keyturn/keyturn/storage"
)

const eventBegin = "key.begin"

// Actors of the steps that the schedule takes.
var (
	itself     = storage.Actor{Name: "keyturn", Reason: "schedule"}
	afterALeak = storage.Actor{Name: "keyturn", Reason: "second rotation after a revocation"}
)

// LifeCycle changes the keys of a Ring: it takes the steps that are due, rotates, revokes and rewraps. It is safe for
// concurrent use, except that only one Maintain may run at a time.
type LifeCycle struct {
	ring   *Ring
	looked time.Time // when Maintain last searched for grants that need an old refresh key; Maintain alone uses it
	asked  time.Time // when Maintain last found verifiers that a rotation waits for; Maintain alone uses it
}

// Maintain reads the rows and takes the steps that are due. A step that another replica took first is no error.
func (l *LifeCycle) Maintain(ctx context.Context) error {
	v, err := l.ring.intact(ctx)
	if err != nil {
		return err
	}
	for range 4 { // a first start takes three rounds: begin, publish, nothing
		steps := Due(v.rows, l.ring.config(), l.ring.options.Now())
		if len(steps) == 0 {
			break
		}
		if err := l.ring.checkClock(ctx); err != nil {
			return err
		}
		waiting := false
		for _, step := range steps {
			err := l.take(ctx, step, v)
			waiting = waiting || errors.Is(err, errWaits)
			if err != nil && !errors.Is(err, storage.ErrConflict) && !errors.Is(err, errWaits) {
				return err
			}
			if v, err = l.ring.intact(ctx); err != nil {
				return err
			}
		}
		if waiting {
			break
		}
	}
	return l.maintainSecrets(ctx, v)
}

func (l *LifeCycle) take(ctx context.Context, step Step, v *view) error {
	switch step.Kind {
	case StepBegin:
		return l.begin(ctx, v)
	case StepPublish:
		return l.publish(ctx, v)
	case StepRotate:
		return l.rotateInTime(ctx, v)
	default:
		return l.retire(ctx, step.KID, v)
	}
}

// errWaits means that a rotation that is due waits for verifiers.
var errWaits = errors.New("the rotation waits for verifiers")

// askAgain is how long Maintain takes for granted that a rotation still waits for verifiers.
const askAgain = 10 * time.Second

// rotateInTime makes a rotation that is due. It waits for registered verifiers, up to the patience, if the
// configuration says so: then it returns errWaits. A second rotation after a leak does not wait.
func (l *LifeCycle) rotateInTime(ctx context.Context, v *view) error {
	c, now, by := l.ring.config(), l.ring.options.Now(), itself
	if secondRotation(v.rows) {
		by = afterALeak
	}
	if !waits(v.rows, c) {
		_, err := l.rotate(ctx, by, v, nil)
		return err
	}
	late := now.Sub(rotatesAt(v.rows, c)) >= c.Patience
	if !late && now.Sub(l.asked).Abs() < askAgain {
		return errWaits
	}
	var unready *NotReadyError
	err := l.checkReady(ctx, v, Gate{WhenReady: true})
	switch {
	case errors.As(err, &unready) && late:
		_, err = l.rotate(ctx, by, v, map[string]any{"not_ready": named(unready.Verifiers)})
	case errors.As(err, &unready):
		l.asked = now
		return errWaits
	case err == nil:
		_, err = l.rotate(ctx, by, v, nil)
	case !late && ctx.Err() == nil: // other steps do not wait for this one
		l.ring.options.Log.Warn("the readiness of verifiers could not be read: the rotation waits", "error", err)
		return errWaits
	case late && ctx.Err() == nil: // the rotation does not depend on the observations
		l.ring.options.Log.Warn("the readiness of verifiers could not be read: rotating after the patience",
			"error", err)
		_, err = l.rotate(ctx, by, v, nil)
	}
	return err
}

const problemRemoved = "there are no signing keys, and there were some: the rows were removed outside keyturn"

// begin makes the first current key. It signs without a lead, since no verifier has a JWKS yet. If there were keys
// before, begin makes none: somebody removed them.
func (l *LifeCycle) begin(ctx context.Context, v *view) error {
	if begun, err := l.ring.db.Audit().HasType(ctx, eventBegin); err != nil || begun {
		if v, e := l.ring.intact(ctx); e != nil || err != nil || len(v.rows) > 0 {
			return cmp.Or(err, e, storage.ErrConflict) // another replica has just begun
		}
		return &AlteredError{Problems: []string{problemRemoved}}
	}
	row, err := l.generate(v.master, "first key")
	if err != nil {
		return err
	}
	now := l.ring.options.Now()
	change := storage.KeyChange{
		Event:  event(eventBegin, row.KID, nil),
		Insert: []storage.SigningKey{activated(row, row.Reason, now)},
	}
	return l.change(ctx, itself, v, change, now)
}

// publish makes the next key.
func (l *LifeCycle) publish(ctx context.Context, v *view) error {
	row, err := l.generateNext(v.master)
	if err != nil {
		return err
	}
	change := storage.KeyChange{Event: event("key.publish", row.KID, nil), Insert: []storage.SigningKey{row}}
	return l.change(ctx, itself, v, change, l.ring.options.Now())
}

// retire removes a previous key from the JWKS.
func (l *LifeCycle) retire(ctx context.Context, kid string, v *view) error {
	now := l.ring.options.Now()
	for _, from := range v.rows {
		if from.KID == kid && from.State == storage.KeyPrevious && !now.Before(from.RetiresAt.Time) {
			change := storage.KeyChange{
				Event:  event("key.retire", kid, nil),
				Update: []storage.KeyUpdate{{From: from, To: retired(from, now)}},
			}
			return l.change(ctx, itself, v, change, now)
		}
	}
	return nil
}

// generateNext makes the row of a next key, which may sign after key_publish_lead.
func (l *LifeCycle) generateNext(m *Master) (storage.SigningKey, error) {
	row, err := l.generate(m, "next key")
	row.SafeFrom = storage.At(row.PublishedAt.Add(l.ring.config().PublishLead))
	return row, err
}

// generate makes a key. It skips a kid that begins with -, which a command line would take for a flag.
func (l *LifeCycle) generate(m *Master, reason string) (storage.SigningKey, error) {
	for {
		private, err := l.ring.options.Module.Make(l.ring.config().Bits)
		if err != nil {
			return storage.SigningKey{}, fmt.Errorf("new key: %w", err)
		}
		row, err := m.newRow(private, reason, l.ring.options.Now())
		private.Close()
		if err != nil || !strings.HasPrefix(row.KID, "-") {
			return row, err
		}
	}
}

// change writes one change of the rows of a view. It makes the MACs of the written rows and of the set. ErrConflict if
// the rows changed after the view was read.
func (l *LifeCycle) change(ctx context.Context, by storage.Actor, v *view, c storage.KeyChange, now time.Time) error {
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
	if v.altered != nil { // the version may be altered too: use one above any that a replica has seen
		c.NextVersion = max(c.NextVersion, now.UnixMilli())
	}
	c.SetMAC = v.master.setMAC(c.NextVersion, apply(v.rows, c))
	if err := l.ring.db.SigningKeys().Change(ctx, by, c, now); err != nil {
		return err
	}
	l.ring.options.Log.Info(
		"signing keys changed",
		"event", c.Event.Type,
		"kid", c.Event.Target,
		"actor", by.Name,
		"details", c.Event.Details,
	)
	l.destroyForgotten(v.master, c.Update)
	return nil
}

// destroyForgotten destroys the private halves whose secrets a change has removed from the rows. The change is made, so
// that a failure is no more than a line of log.
func (l *LifeCycle) destroyForgotten(m *Master, updates []storage.KeyUpdate) {
	for _, u := range updates {
		if u.From.PrivateKey == "" || u.To.PrivateKey != "" {
			continue
		}
		secret, err := m.secretOf(u.From)
		if err != nil {
			l.ring.options.Log.Warn("the secret of a key that is no longer used cannot be opened: if a device made "+
				"the key, its private half is still there", "kid", u.From.KID, "error", err)
			continue
		}
		if err := l.ring.options.Module.Destroy(secret); err != nil {
			l.ring.options.Log.Warn("a private half may be left in its module", "kid", u.From.KID, "error", err)
		}
		clear(secret)
	}
}

// pollAfter reads the rows after a change that was made (err is nil). A failed read does not undo the change.
func (l *LifeCycle) pollAfter(ctx context.Context, err error) {
	if err != nil {
		return
	}
	if err := l.ring.Poll(ctx); err != nil {
		l.ring.options.Log.Warn("signing keys: changed, but not read again", "error", err)
	}
}

// apply returns the rows as a change leaves them.
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
