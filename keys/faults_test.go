package keys_test

import (
	"bytes"
	"database/sql"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

var keyTables = []string{"signing_keys", "key_set", "secret_keys", "meta", "audit", "audit_head"}

// interrupted is a change of the keys that a fault interrupts.
type interrupted struct {
	wait   time.Duration                                          // the time before the change
	act    func(t *testing.T, r *keys.Ring, current string) error // makes the change; current signs before it
	settle func(t *testing.T, r *keys.Ring)                       // checks the keys after the change
	least  int                                                    // the least number of writes
}

func newMaster(t *testing.T) *keys.Master { return keystest.MustMaster(t, 2) }

var interruptions = map[string]interrupted{
	"scheduled rotation": {
		wait:   keystest.Config.RotationInterval,
		act:    func(_ *testing.T, r *keys.Ring, _ string) error { return r.LifeCycle().Maintain(ctx) },
		settle: wantStates(map[storage.KeyState]int{"previous": 1, "current": 1, "next": 1}),
		least:  6,
	},
	"rotation by hand": {
		act: func(_ *testing.T, r *keys.Ring, _ string) error {
			_, err := r.LifeCycle().Rotate(ctx, admin, keys.Gate{Force: true})
			return err
		},
		settle: wantStates(map[storage.KeyState]int{"previous": 1, "current": 1, "next": 1}),
		least:  6,
	},
	"revocation": {
		act: func(_ *testing.T, r *keys.Ring, current string) error {
			_, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: current})
			return err
		},
		settle: wantStates(map[storage.KeyState]int{"revoked": 1, "current": 1, "next": 1}),
		least:  6,
	},
	"revocation of all": {
		act: func(_ *testing.T, r *keys.Ring, current string) error {
			_, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: current, Store: true})
			return err
		},
		settle: wantStates(map[storage.KeyState]int{"revoked": 2, "current": 1, "next": 1}),
		least:  7,
	},
	"rewrap": {
		act: func(t *testing.T, r *keys.Ring, _ string) error {
			_, err := r.LifeCycle().Rewrap(ctx, admin, newMaster(t))
			return err
		},
		settle: func(t *testing.T, r *keys.Ring) {
			done, err := r.LifeCycle().Rewrap(ctx, admin, newMaster(t))
			if err != nil || done != (keys.Rewrapped{MasterKey: newMaster(t).ID()}) {
				t.Errorf("not finished: %+v, %v", done, err)
			}
		},
		least: 20,
	},
}

func wantStates(want map[storage.KeyState]int) func(*testing.T, *keys.Ring) {
	return func(t *testing.T, r *keys.Ring) {
		if got := states(r); !cmp.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

// Rotation, revocation and rewrap are interrupted at every write. Each time, the keys are in the state before or after
// the change, a replica that starts then serves, and the same command finishes the change.
func TestInterruptedAtEveryWrite(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		db, raw := storagetest.MustOpen(t, url), storagetest.Raw(t, url)
		faults := storagetest.NewFaults(t, url, keyTables...)
		for name, i := range interruptions {
			t.Run(name, func(t *testing.T) {
				n := 1
				for ; i.cutShort(t, db, raw, faults, n); n++ {
				}
				if n <= i.least {
					t.Errorf("%d writes, at least %d are expected", n-1, i.least)
				}
			})
		}
	})
}

// cutShort makes the n-th write fail and reports whether there was one.
func (i interrupted) cutShort(t *testing.T, db *storage.DB, raw *sql.DB, faults storagetest.Faults, n int) bool {
	t.Helper()
	empty(t, raw)
	c, module := newClock(), keystest.Module()
	r := keystest.MustRing(t, db, c.now, module)
	token, current := mustSign(t, r, c.now().Add(time.Hour))
	before := r.JWKS().ETag
	c.step(i.wait)
	must(t, r.Poll(ctx))

	faults.Arm(n)
	err := i.act(t, r, current)
	faults.Disarm()
	met := err != nil
	if met && !strings.Contains(err.Error(), storagetest.Fault) {
		t.Fatalf("write %d: %v", n, err)
	}
	restarted := mustOpen(t, db, c, module)
	must(t, restarted.Healthy())
	if _, err := restarted.Verify(token); err != nil && restarted.JWKS().ETag == before {
		t.Errorf("write %d: a live token is refused: %v", n, err)
	}
	if met {
		must(t, i.act(t, restarted, current))
	}
	i.settle(t, restarted)
	must(t, r.LifeCycle().Maintain(ctx)) // the replica that was interrupted goes on as well
	if _, err := db.Audit().Verify(ctx); err != nil {
		t.Errorf("write %d: %v", n, err)
	}
	return met
}

// mustOpen opens a ring with both master keys of a rewrap.
func mustOpen(t *testing.T, db *storage.DB, c *clock, module keys.CryptoModule) *keys.Ring {
	t.Helper()
	both, err := keys.NewMaster(make32(1), make32(2))
	must(t, err)
	return mustRing(t, db, both, c.options(module))
}

func make32(b byte) []byte { return bytes.Repeat([]byte{b}, keys.MasterSize) }
