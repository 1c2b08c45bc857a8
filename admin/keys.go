package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/clock"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// refusal is the error of a safety check, which force overrides.
type refusal struct{ error }

// ErrRefused reports whether a safety check refused, which force overrides.
func ErrRefused(err error) bool {
	var young *keys.TooYoungError
	var unsure *clock.UnsureError
	var guard refusal
	return errors.As(err, &young) || errors.As(err, &unsure) || errors.As(err, &guard) || NotReady(err)
}

// NotReady reports whether verifiers that are not ready were the reason of a refusal.
func NotReady(err error) bool {
	var unready *keys.NotReadyError
	return errors.As(err, &unready)
}

// List lists all signing keys, newest first.
func (a Keys) List() []SigningKey { return a.ring.Rows() }

// Words that name a signing key by its state.
const (
	KeyCurrent = string(storage.KeyCurrent)
	KeyNext    = string(storage.KeyNext)
)

// minKIDPrefix is the length of the shortest beginning of a kid that names a key: nobody revokes one by a slip.
const minKIDPrefix = 4

// Resolve returns the kid that a text names: a kid, the beginning of exactly one, or a state of one key. It returns
// ErrNotFound, or ErrInvalid for the beginning of several.
func (a Keys) Resolve(text string) (kid string, err error) {
	var found []string
	for _, k := range a.ring.Rows() {
		switch {
		case k.KID == text:
			return text, nil
		case text == string(k.State) && (text == KeyCurrent || text == KeyNext),
			len(text) >= minKIDPrefix && strings.HasPrefix(k.KID, text):
			found = append(found, k.KID)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%w: `keyturn keys list` lists the keys; %d characters of a kid are enough",
			&MissingError{What: "signing key", Name: text}, minKIDPrefix)
	case 1:
		return found[0], nil
	default:
		return "", invalid("signing key %q: it is the beginning of %s: type more of it", text,
			strings.Join(found, " and of "))
	}
}

// Intact returns an error if the rows of the signing keys were changed outside keyturn.
func (a Keys) Intact() error { return a.ring.Intact() }

// LiveTokens counts, by kid, the grants whose newest access token is alive. It does not count older tokens of a grant
// that was refreshed early: keyturn keeps no record of them. It may return ErrTooSlow.
func (a Keys) LiveTokens(ctx context.Context) (map[string]int64, error) {
	return a.db.Grants().LiveTokens(ctx, a.config.AccessTTL, a.now(), a.count)
}

// Lives returns the past and the planned future of all keys, oldest first.
func (a Keys) Lives() []KeyLife { return a.ring.Lives() }

// Incident returns the last incident; nil if no key was ever revoked.
func (a Keys) Incident() *keys.Incident { return a.ring.Incident() }

// Status returns the health of the signing keys.
func (a Keys) Status(ctx context.Context) (KeyStatus, error) { return a.ring.LifeCycle().Status(ctx) }

// Rotate makes the next key current. It refuses (ErrRefused) what the gate does not let through: a key that verifiers
// may not have seen, or verifiers that are not ready for it.
func (a Keys) Rotate(ctx context.Context, g Gate) (Rotation, error) {
	if err := a.beginKeys(ctx); err != nil {
		return Rotation{}, err
	}
	if err := a.checkGate(ctx, g); err != nil {
		return Rotation{}, err
	}
	_, refused := a.PlanRotation(ctx, Gate{})
	return a.ring.LifeCycle().Rotate(ctx, a.forced(g.Force && ErrRefused(refused)), g)
}

// PlanRotation returns what Rotate would do, with the lives of the keys after it. It changes nothing.
func (a Keys) PlanRotation(ctx context.Context, g Gate) (keys.PlannedRotation, error) {
	if err := a.checkGate(ctx, g); err != nil {
		return keys.PlannedRotation{}, err
	}
	return a.ring.LifeCycle().PlanRotation(ctx, g)
}

// beginKeys makes the first keys of a new database.
func (a *core) beginKeys(ctx context.Context) error {
	if len(a.ring.Rows()) > 0 {
		return nil
	}
	return a.ring.LifeCycle().Maintain(ctx)
}

// concern selects the grants that can have had a token of a key and were used since a time. It returns ErrNotFound if
// there is no such key; ok is false if the key has never signed.
func (a *core) concern(kid string, since time.Time) (c storage.KeyGrants, ok bool, err error) {
	i := slices.IndexFunc(a.ring.Rows(), func(k SigningKey) bool { return k.KID == kid })
	if i < 0 {
		return c, false, fmt.Errorf("signing key %s: %w", kid, ErrNotFound)
	}
	k := a.ring.Rows()[i]
	if k.ActivatedAt == nil {
		return c, false, nil
	}
	// A grant without use since the activation of the key has no token of it. The clocks of replicas differ, though.
	if first := k.ActivatedAt.Add(-keys.Skew); since.Before(first) {
		since = first
	}
	// A key that signs counts as if it stopped now: a preview then counts what a revocation would end.
	until := a.now().Add(keys.Skew)
	if k.DeactivatedAt != nil {
		until = k.DeactivatedAt.Add(keys.Skew)
	}
	return storage.KeyGrants{KID: kid, Since: since, DeactivatedAt: &until}, true, nil
}

// Use counts, by client and audience, the live grants that have tokens of the keys and were used since a time; zero:
// ever. Grants that EndGrants has ended since another time, if given, count as live. One timeout bounds the counts of
// all keys. It may return ErrNotFound or ErrTooSlow.
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
		known, err := a.withEndings(ctx, use)
		if err != nil {
			return nil, err
		}
		all = append(all, known...)
	}
	return all, nil
}

// Revoke removes a leaked key from the JWKS for good and makes another key sign. With storeLeaked every private half
// counts as leaked, and kid may be "". With newFile, too, it seals everything under the new master key of that file. It
// may return ErrNotFound.
func (a Keys) Revoke(ctx context.Context, kid string, storeLeaked bool, newFile string) (Revocation, error) {
	leak := keys.Leak{KID: kid, Store: storeLeaked}
	if newFile != "" {
		to, _, err := a.newMaster(newFile)
		if err != nil {
			return Revocation{}, fmt.Errorf("%w (without --new-master-key-file the command revokes at once, under the "+
				"old master key)", err)
		}
		leak.NewMaster = to
	}
	done, err := a.ring.LifeCycle().Revoke(ctx, a.by, leak)
	if err != nil {
		return done, err
	}
	if leak.NewMaster != nil {
		if _, err = a.ring.LifeCycle().Rewrap(ctx, a.by, leak.NewMaster); err != nil {
			err = fmt.Errorf(
				"the key is revoked and the new keys are sealed under the new master key, but the rest is not: "+
					"run `keyturn keys rewrap`: %w",
				err,
			)
		}
	}
	a.remember(ctx, true)
	return done, err
}

// Aftermaths returns what is to be expected of registered verifiers after a revocation. It does not make the command
// wait for longer than a count may take.
func (a Keys) Aftermaths(ctx context.Context, done Revocation) ([]keys.Aftermath, error) {
	ctx, cancel := context.WithTimeout(ctx, a.count)
	defer cancel()
	return a.ring.LifeCycle().Aftermaths(ctx, done)
}

// Remember records the changes of this Admin in the anchor of this host, if there is one. A failure is only a message.
func (a *Admin) Remember(ctx context.Context) {
	if a.db.Audit().Written() > 0 {
		a.remember(ctx, false)
	}
}

// remember advances the anchor, so that this host detects an older database or a shorter audit trail.
func (a *core) remember(ctx context.Context, make bool) {
	if err := a.ring.Anchor(a.place.AnchorFile).Note(ctx, make); err != nil && a.say != nil {
		a.say("keyturn: done, but this host could not note it in its anchor file: %v", err)
	}
}

// In returns the kids of all keys in any of the states.
func (a Keys) In(states ...KeyState) (kids []string) {
	for _, k := range a.ring.Rows() {
		if slices.Contains(states, k.State) {
			kids = append(kids, k.KID)
		}
	}
	return kids
}

// endBatch is the number of grants that EndGrants reads in one transaction.
const endBatch = 1000

// EndGrants ends the grants that Use counts, and returns their number. It returns ErrNotFound if there is no such key.
func (a Keys) EndGrants(ctx context.Context, kid string, since time.Time) (ended int64, err error) {
	c, ok, err := a.concern(kid, since)
	if err != nil || !ok {
		return 0, err
	}
	// The record is written with the first batch. It has the number of grants to end, or null if they are too many to
	// count.
	record := map[string]any{"since": storage.At(c.Since), "grants": nil}
	if n, err := a.db.Grants().CountKeyGrants(ctx, c, a.now(), a.count); err == nil {
		record["grants"] = n
	}
	for after := storage.GrantID(0); ; {
		next, n, err := a.db.Grants().EndKeyGrants(ctx, a.by, c, record, after, endBatch, a.now())
		if ended += n; n > 0 && err == nil {
			record = nil // the first batch has written it
		}
		if err != nil || next == 0 {
			return ended, err
		}
		after = next
	}
}

// RewrapPlan describes the changes of a rewrap outside the database.
type RewrapPlan struct {
	MasterKeyFile string // the file that servers read now
	Appended      bool   // the new key was added to it
	ReadOnly      bool   // it cannot be written
}

// errBringKey reports that other hosts may need the new master key before it seals anything.
var errBringKey = errors.New(
	"the master key file of this host now has the new key: add the key as another line to that file on every " +
		"other host that serves this database, then repeat the command. A server without the new key could not open " +
		"what the key seals, and would stop signing",
)

// Rewrap seals everything under the new master key of a file. It first adds that key to the master key file, so that
// servers with that file can use both keys. PostgreSQL may have servers on other hosts: there, unless forced, the first
// run stops after that step (ErrRefused). An interrupted run can be repeated. It returns ErrConflict while another
// rewrap uses a third key.
func (a Keys) Rewrap(ctx context.Context, newFile string, force bool) (done Rewrapped, plan RewrapPlan, err error) {
	to, plan, err := a.newMaster(newFile)
	if err != nil {
		return done, plan, err
	}
	unsafe := plan.Appended && a.db.Kind() == storage.Postgres
	if unsafe && !force {
		return done, plan, refusal{errBringKey}
	}
	if done, err = a.ring.LifeCycle().Rewrap(ctx, a.forced(unsafe), to); err != nil && !errors.Is(err, ErrConflict) {
		err = fmt.Errorf("%w (repeat the command to continue)", err)
	}
	return done, plan, err
}

// newMaster reads the new master key of a file and adds it to the master key file, unless it is there.
func (a *core) newMaster(newFile string) (to *keys.Master, plan RewrapPlan, err error) {
	plan.MasterKeyFile = a.place.MasterKeyFile
	if to, err = keys.ReadMaster(newFile); err != nil {
		return nil, plan, err
	}
	if !to.Single() {
		return nil, plan, invalid("%s holds several keys: want only the new master key", newFile)
	}
	plan.ReadOnly = keys.CheckWritable(plan.MasterKeyFile) != nil
	have, err := keys.ReadMaster(plan.MasterKeyFile)
	if err != nil || have.Holds(to) {
		return to, plan, err
	}
	if err := keys.CheckWritable(plan.MasterKeyFile); err != nil {
		return nil, plan, err
	}
	err = keys.AppendMaster(plan.MasterKeyFile, newFile)
	plan.Appended = err == nil
	return to, plan, err
}
