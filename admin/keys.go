package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/clock"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// refusal is the word of a safety guard, which force overrides.
type refusal struct{ error }

// ErrRefused tells whether a safety guard refused, which force overrides.
func ErrRefused(err error) bool {
	var young *keys.TooYoungError
	var unsure *clock.UnsureError
	var guard refusal
	return errors.As(err, &young) || errors.As(err, &unsure) || errors.As(err, &guard)
}

// List lists all signing keys, newest first.
func (a Keys) List() []SigningKey { return a.ring.Rows() }

// Intact tells how the rows of the signing keys were altered outside keyturn; nil if they were not.
func (a Keys) Intact() error { return a.ring.Intact() }

// LiveTokens counts, by kid, the grants whose newest access token is alive. Older tokens of a grant that was refreshed
// early are not counted: nothing is kept of them. ErrTooSlow.
func (a Keys) LiveTokens(ctx context.Context) (map[string]int64, error) {
	return a.db.Grants().LiveTokens(ctx, a.config.AccessTTL, a.now(), a.count)
}

// Lives tells the past and the planned future of all keys, oldest first.
func (a Keys) Lives() []KeyLife { return a.ring.Lives() }

// Status tells the health of the signing keys.
func (a Keys) Status(ctx context.Context) (KeyStatus, error) { return a.ring.LifeCycle().Status(ctx) }

// Rotate makes the next key the current one. It is refused (ErrRefused) while verifiers may not have seen that key,
// unless forced.
func (a Keys) Rotate(ctx context.Context, force bool) (Rotation, error) {
	if err := a.beginKeys(ctx); err != nil {
		return Rotation{}, err
	}
	return a.ring.LifeCycle().Rotate(ctx, a.by, force)
}

// PlanRotation tells what RotateKeys would do and the lives of the keys after it, and changes nothing.
func (a Keys) PlanRotation(ctx context.Context, force bool) (keys.PlannedRotation, error) {
	return a.ring.LifeCycle().PlanRotation(ctx, force)
}

// beginKeys makes the first keys of a database that no server has used yet.
func (a *core) beginKeys(ctx context.Context) error {
	if len(a.ring.Rows()) > 0 {
		return nil
	}
	return a.ring.LifeCycle().Maintain(ctx)
}

// concern is the grants that can have had a token of a key and were used since a moment. ErrNotFound if there is no
// such key; ok is false if the key has never signed.
func (a *core) concern(kid string, since time.Time) (c storage.KeyGrants, ok bool, err error) {
	i := slices.IndexFunc(a.ring.Rows(), func(k SigningKey) bool { return k.KID == kid })
	if i < 0 {
		return c, false, fmt.Errorf("signing key %s: %w", kid, ErrNotFound)
	}
	k := a.ring.Rows()[i]
	if k.ActivatedAt == nil {
		return c, false, nil
	}
	// A grant that was not used since the key signs has no token of it, but the clocks of replicas differ.
	if first := k.ActivatedAt.Add(-keys.Skew); since.Before(first) {
		since = first
	}
	c = storage.KeyGrants{KID: kid, Since: since}
	if k.DeactivatedAt != nil {
		until := k.DeactivatedAt.Add(keys.Skew)
		c.DeactivatedAt = &until
	}
	return c, true, nil
}

// Use counts what keys have signed for grants that are alive and were used since a moment, by client and audience. The
// zero moment takes all. Grants that EndGrants has ended since another moment, if there is one, count as alive. The
// counts of all keys share the time for one. ErrNotFound if there is no such key; ErrTooSlow.
func (a Keys) Use(ctx context.Context, kids []string, since time.Time, ended *time.Time) ([]KeyUse, error) {
	ctx, cancel := context.WithTimeout(ctx, a.count)
	defer cancel()
	all := []KeyUse{}
	for _, kid := range kids {
		c, ok, err := a.concern(kid, since)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		c.EndedSince = ended
		use, err := a.db.Grants().KeyUse(ctx, c, a.config.AccessTTL, a.now(), a.count)
		if err != nil {
			return nil, err
		}
		all = append(all, use...)
	}
	return all, nil
}

// Revoke takes a leaked key out of the JWKS for good and lets another sign. With storeLeaked every private half
// counts as leaked, kid may be "", and with newFile as well, everything is sealed under the new master key of that file
// from then on. ErrNotFound.
func (a Keys) Revoke(ctx context.Context, kid string, storeLeaked bool, newFile string) (Revocation, error) {
	leak := keys.Leak{KID: kid, Store: storeLeaked}
	var unplaced error // the new master key could not be put in place
	if newFile != "" {
		to, plan, err := a.newMaster(newFile)
		if to == nil {
			return Revocation{}, err
		}
		if err == nil {
			leak.NewMaster = to
		} else { // a leak does not wait for a file
			unplaced = fmt.Errorf("%w: make %s writable and run the same command again: %w", ErrSameMaster,
				plan.MasterKeyFile, err)
		}
	}
	done, err := a.ring.LifeCycle().Revoke(ctx, a.by, leak)
	if err != nil {
		return done, err
	}
	if leak.NewMaster != nil {
		if _, err = a.ring.LifeCycle().Rewrap(ctx, a.by, leak.NewMaster); err != nil {
			err = fmt.Errorf(
				"the key is revoked and fresh ones are sealed under the new master key, but the rest is not: run `keyturn "+
					"keys rewrap`: %w",
				err,
			)
		}
	}
	a.remember(ctx, true)
	return done, errors.Join(unplaced, err)
}

// ErrSameMaster says that a revocation was made, and that a new master key was not taken.
var ErrSameMaster = errors.New("the keys are revoked, but the fresh ones are sealed under the old master key, " +
	"since the new one could not be added to its file")

// Remember notes in the anchor of this host, if there is one, what this Admin has changed. That it could not is said,
// and no more.
func (a *Admin) Remember(ctx context.Context) {
	if a.db.Audit().Written() > 0 {
		a.remember(ctx, false)
	}
}

// remember moves the anchor on, so that this host knows at once what must never come back, and which records the trail
// has.
func (a *core) remember(ctx context.Context, make bool) {
	if err := a.ring.Anchor(a.place.AnchorFile).Note(ctx, make); err != nil && a.say != nil {
		a.say("keyturn: done, but this host could not note it beside the database: %v", err)
	}
}

// In is the kids of all keys in any of the states.
func (a Keys) In(states ...KeyState) (kids []string) {
	for _, k := range a.ring.Rows() {
		if slices.Contains(states, k.State) {
			kids = append(kids, k.KID)
		}
	}
	return kids
}

// endBatch is how many grants EndKeyGrants looks at in one transaction.
const endBatch = 1000

// EndGrants ends the grants that KeyUse counts, and tells how many there were. ErrNotFound if there is no such key.
func (a Keys) EndGrants(ctx context.Context, kid string, since time.Time) (ended int64, err error) {
	c, ok, err := a.concern(kid, since)
	if err != nil || !ok {
		return 0, err
	}
	for after := storage.GrantID(0); ; {
		next, n, err := a.db.Grants().EndKeyGrants(ctx, a.by, c, after, endBatch, a.now())
		ended += n
		if err != nil || next == 0 {
			return ended, err
		}
		after = next
	}
}

// RewrapPlan is what a rewrap does outside the database.
type RewrapPlan struct {
	MasterKeyFile string // that servers read now
	Appended      bool   // the new key was added to it
}

// errBringKey says that other hosts may have to be given the new master key before it seals anything.
var errBringKey = errors.New(
	"the new master key stands in the master key file of this host now: add it to that file on every other host that " +
		"serves this database, as a further line, " +
		"then run the same command again. Until they have it, those servers could not open what it seals, and would " +
		"stop signing",
)

// Rewrap seals everything under the new master key of a file. It first adds that key to the master key file, so that
// servers that read that file open what is sealed under either. On PostgreSQL, which may have servers on other hosts,
// the first run does no more (ErrRefused), unless forced. It may be interrupted at any moment and run again.
// ErrConflict if another rewrap goes on to a third key.
func (a Keys) Rewrap(ctx context.Context, newFile string, force bool) (done Rewrapped, plan RewrapPlan, err error) {
	to, plan, err := a.newMaster(newFile)
	if err != nil {
		return done, plan, err
	}
	if plan.Appended && a.db.Kind() == storage.Postgres && !force {
		return done, plan, refusal{errBringKey}
	}
	if done, err = a.ring.LifeCycle().Rewrap(ctx, a.by, to); err != nil && !errors.Is(err, ErrConflict) {
		err = fmt.Errorf("%w (run the same command again to go on)", err)
	}
	return done, plan, err
}

// newMaster reads the one new master key of a file and adds it to the master key file, unless it is there.
func (a *core) newMaster(newFile string) (to *keys.Master, plan RewrapPlan, err error) {
	plan.MasterKeyFile = a.place.MasterKeyFile
	if to, err = keys.ReadMaster(newFile); err != nil {
		return nil, plan, err
	}
	if !to.Single() {
		return nil, plan, invalid("%s holds several keys: the new master key is one", newFile)
	}
	have, err := keys.ReadMaster(plan.MasterKeyFile)
	if err != nil || have.Holds(to) {
		return to, plan, err
	}
	plan.Appended = true
	return to, plan, keys.AppendMaster(plan.MasterKeyFile, newFile)
}
