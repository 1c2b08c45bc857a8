package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// ErrRefused tells whether a safety guard refused, which force overrides.
func ErrRefused(err error) bool {
	var young *keys.TooYoungError
	return errors.As(err, &young)
}

// SigningKeys lists all signing keys, newest first.
func (a *Admin) SigningKeys() []SigningKey { return a.ring.Rows() }

// KeysIntact tells how the rows of the signing keys were altered outside keyturn; nil if they were not.
func (a *Admin) KeysIntact() error { return a.ring.Intact() }

// LiveTokens counts, by kid, the grants whose newest access token is alive. Older tokens of a grant that was refreshed early are not
// counted: nothing is kept of them.
func (a *Admin) LiveTokens(ctx context.Context) (map[string]int64, error) {
	return a.db.LiveTokens(ctx, time.Duration(a.config.AccessTTL), a.now())
}

// KeyLives tells the past and the planned future of all keys, oldest first.
func (a *Admin) KeyLives() []KeyLife { return a.ring.Lives() }

// KeyStatus tells the health of the signing keys.
func (a *Admin) KeyStatus(ctx context.Context) (KeyStatus, error) { return a.ring.Status(ctx) }

// RotateKeys makes the next key the current one. It is refused (ErrRefused) while verifiers may not have seen that key, unless forced.
func (a *Admin) RotateKeys(ctx context.Context, force bool) (Rotation, error) {
	if err := a.beginKeys(ctx); err != nil {
		return Rotation{}, err
	}
	return a.ring.Rotate(ctx, a.by, force)
}

// PlanRotation tells what RotateKeys would do and the lives of the keys after it, and changes nothing.
func (a *Admin) PlanRotation(ctx context.Context, force bool) (keys.PlannedRotation, error) {
	return a.ring.PlanRotation(ctx, force)
}

// beginKeys makes the first keys of a database that no server has used yet.
func (a *Admin) beginKeys(ctx context.Context) error {
	if len(a.ring.Rows()) > 0 {
		return nil
	}
	return a.ring.Maintain(ctx)
}

// concern is the grants that can have had a token of a key and were used since a moment. ErrNotFound if there is no such key; ok is false
// if the key has never signed.
func (a *Admin) concern(kid string, since time.Time) (c storage.Concern, ok bool, err error) {
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
	c = storage.Concern{KID: kid, Since: since}
	if k.DeactivatedAt != nil {
		until := k.DeactivatedAt.Add(keys.Skew)
		c.DeactivatedAt = &until
	}
	return c, true, nil
}

// KeyUse tells what the key has signed for grants that are alive and were used since a moment, by client and audience. The zero moment
// takes all. ErrNotFound if there is no such key.
func (a *Admin) KeyUse(ctx context.Context, kid string, since time.Time) ([]KeyUse, error) {
	c, ok, err := a.concern(kid, since)
	if err != nil || !ok {
		return []KeyUse{}, err
	}
	return a.db.KeyUse(ctx, c, time.Duration(a.config.AccessTTL), a.now())
}

// RevokeKey takes a leaked key out of the JWKS for good and lets another sign. With storeLeaked every private half counts as leaked.
// ErrNotFound.
func (a *Admin) RevokeKey(ctx context.Context, kid string, storeLeaked bool) (Revocation, error) {
	return a.ring.Revoke(ctx, a.by, kid, storeLeaked)
}

// endBatch is how many grants EndKeyGrants looks at in one transaction.
const endBatch = 1000

// EndKeyGrants ends the grants that KeyUse counts, and tells how many there were. ErrNotFound if there is no such key.
func (a *Admin) EndKeyGrants(ctx context.Context, kid string, since time.Time) (ended int64, err error) {
	c, ok, err := a.concern(kid, since)
	if err != nil || !ok {
		return 0, err
	}
	for after := storage.GrantID(0); ; {
		next, n, err := a.db.EndConcerned(ctx, a.by, c, after, endBatch, a.now())
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

// Rewrap seals everything under the new master key of a file, which it first adds to the master key file, so that servers that read that
// file open what is sealed under either. It may be interrupted at any moment and run again.
func (a *Admin) Rewrap(ctx context.Context, newFile string) (done Rewrapped, plan RewrapPlan, err error) {
	plan.MasterKeyFile = a.config.masterKeyPath()
	to, err := keys.ReadMaster(newFile)
	if err != nil {
		return done, plan, err
	}
	if !to.Single() {
		return done, plan, invalid("%s holds several keys: the new master key is one", newFile)
	}
	have, err := keys.ReadMaster(plan.MasterKeyFile)
	if err != nil {
		return done, plan, err
	}
	if !have.Holds(to) {
		if err := keys.AppendMaster(plan.MasterKeyFile, newFile); err != nil {
			return done, plan, err
		}
		plan.Appended = true
	}
	done, err = a.ring.Rewrap(ctx, a.by, to)
	return done, plan, err
}
