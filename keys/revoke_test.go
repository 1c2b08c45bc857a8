package keys_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// exposure is how long a verifier that obeys max-age may trust a revoked key.
const exposure = 5*time.Minute + keys.Skew

// byState returns the kid of the first key in each state.
func byState(r *keys.Ring) map[storage.KeyState]string {
	kids := map[storage.KeyState]string{}
	for _, row := range r.Rows() {
		if kids[row.State] == "" {
			kids[row.State] = row.KID
		}
	}
	return kids
}

// inEveryState returns a ring with a key in each state except revoked.
func inEveryState(t *testing.T, db *storage.DB, c *clock) *keys.Ring {
	t.Helper()
	r := keystest.MustRing(t, db, c.now, keystest.Module())
	for range 2 {
		_, err := r.LifeCycle().Rotate(ctx, admin, keys.Gate{Force: true})
		must(t, err)
		c.step(24 * time.Hour)
		must(t, r.LifeCycle().Maintain(ctx))
	}
	_, err := r.LifeCycle().Rotate(ctx, admin, keys.Gate{})
	must(t, err)
	if got := states(r); !cmp.Equal(
		got,
		map[storage.KeyState]int{"retired": 2, "previous": 1, "current": 1, "next": 1},
	) {
		t.Fatal(got)
	}
	return r
}

// A key may leak in any state. It leaves the JWKS and its tokens are refused. After the max-age, a key signs that no
// verifier has cached.
func TestRevokeFromAnyState(t *testing.T) {
	t.Parallel()
	for _, state := range []storage.KeyState{storage.KeyNext, storage.KeyCurrent, storage.KeyPrevious,
		storage.KeyRetired} {
		t.Run(string(state), func(t *testing.T) {
			storagetest.Each(t, func(t *testing.T, db *storage.DB) {
				c := newClock()
				r := inEveryState(t, db, c)
				before := byState(r)
				token, _ := mustSign(t, r, c.now().Add(time.Minute))
				c.step(time.Second)
				done, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: before[state]})
				must(t, err)
				current := before[storage.KeyCurrent]
				if state == storage.KeyCurrent {
					current = before[storage.KeyNext]
				}
				second := c.now().Add(exposure)
				want := keys.Revocation{
					Revoked:        []string{before[state]},
					RevokedAt:      c.now(),
					Current:        current,
					Next:           byState(r)[storage.KeyNext],
					SecondRotation: &second,
					ExposedUntil:   c.now().Add(exposure),
				}
				if diff := cmp.Diff(want, done); diff != "" {
					t.Error(diff)
				}
				if set := published(t, r); set[before[state]] || !set[current] || !set[done.Next] ||
					r.JWKS().MaxAge != keys.IncidentMaxAge {
					t.Errorf("the JWKS holds %v for %v", set, r.JWKS().MaxAge)
				}
				if _, err := r.Verify(token); (state == storage.KeyCurrent) != errors.Is(err, keys.ErrRevoked) {
					t.Error("a token of the key before:", err)
				}
				secondRotation(t, r, c, done)
			})
		})
	}
}

// secondRotation steps the clock to the rotation that makes verifiers drop the leaked key, and checks the end of the
// incident.
func secondRotation(t *testing.T, r *keys.Ring, c *clock, done keys.Revocation) {
	t.Helper()
	c.step(exposure - time.Millisecond)
	must(t, r.LifeCycle().Maintain(ctx))
	if _, kid := mustSign(t, r, c.now()); kid != done.Current {
		t.Error("the second rotation came too early")
	}
	c.step(time.Millisecond)
	must(t, r.LifeCycle().Maintain(ctx))
	if _, kid := mustSign(t, r, c.now()); kid != done.Next {
		t.Error("the second rotation did not come")
	}
	if age := r.JWKS().MaxAge; age != keystest.Config.JWKSMaxAge {
		t.Errorf("after the incident max-age is %v", age)
	}
	again, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: done.Revoked[0]})
	if err != nil || !again.Already || !again.RevokedAt.Equal(done.RevokedAt) ||
		!again.ExposedUntil.Equal(done.ExposedUntil) ||
		again.SecondRotation != nil {
		t.Errorf("revoked again: %+v, %v", again, err)
	}
}

// If the store leaked, no old private half is used again, and no second rotation is needed.
func TestRevokeWithTheStoreLeaked(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		t.Parallel()
		c := newClock()
		r := inEveryState(t, db, c)
		before, known := byState(r), map[string]bool{}
		for _, row := range r.Rows() {
			known[row.KID] = true
		}
		done, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: before[storage.KeyPrevious], Store: true})
		must(t, err)
		if len(done.Revoked) != 3 || done.Revoked[0] != before[storage.KeyPrevious] || known[done.Current] ||
			known[done.Next] ||
			done.SecondRotation != nil {
			t.Errorf("%+v", done)
		}
		if set := published(t, r); len(set) != 2 || !set[done.Current] || !set[done.Next] {
			t.Errorf("the JWKS holds %v", set)
		}
		for _, row := range r.Rows() {
			if known[row.KID] && row.PrivateKey != "" {
				t.Errorf("the private half of %s is kept", row.KID)
			}
		}
		c.step(exposure)
		must(t, r.LifeCycle().Maintain(ctx))
		if got := byState(r); got[storage.KeyCurrent] != done.Current {
			t.Error("rotated without need")
		}
	})
}

// First one key leaks, then the store: the second revocation revokes all keys, whatever the first one did.
func TestStoreLeakedAfterAKeyLeaked(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		t.Parallel()
		c := newClock()
		r := keystest.MustRing(t, db, c.now, keystest.Module())
		c.step(time.Hour)
		first, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: byState(r)[storage.KeyCurrent]})
		must(t, err)
		c.step(time.Second)
		all, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: first.Revoked[0], Store: true})
		must(t, err)
		if all.Already || all.Current == first.Current || all.Next == first.Next ||
			!slices.Contains(all.Revoked, first.Current) ||
			!slices.Contains(all.Revoked, first.Next) {
			t.Errorf("%+v after %+v", all, first)
		}
		again, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: first.Current})
		if err != nil || !again.Already || len(again.Revoked) != 2 {
			t.Errorf("%+v, %v", again, err)
		}
	})
}

// The old master key opens no key that is made after a leak of the store.
func TestStoreLeakedWithItsMaster(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, db := newClock(), storagetest.MustOpen(t, url)
		r := keystest.MustRing(t, db, c.now, keystest.Module())
		_, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{Store: true, NewMaster: newMaster(t)})
		must(t, err)
		var under int
		query := `SELECT COUNT(*) FROM signing_keys WHERE private_key LIKE 'v1.` + keystest.MustMaster(t, 1).ID() + `%'`
		must(t, storagetest.Raw(t, url).QueryRow(query).Scan(&under))
		if under != 0 {
			t.Errorf("%d fresh keys are sealed under the leaked master key", under)
		}
		done, err := r.LifeCycle().Rewrap(ctx, admin, newMaster(t))
		if err != nil || done.Left != 0 {
			t.Errorf("%+v, %v", done, err)
		}
	})
}

// A key takes time to module. A key made for a revocation is still not older than the revocation.
func TestRevokeWhileTimeGoesBy(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		t.Parallel()
		c := newClock()
		ticking := func() time.Time {
			c.step(time.Millisecond)
			return c.now()
		}
		r := keystest.MustRing(t, db, ticking, keystest.Module())
		done, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: byState(r)[storage.KeyCurrent], Store: true})
		must(t, err)
		if done.SecondRotation != nil {
			t.Errorf("%+v", done)
		}
		for _, row := range r.Rows() {
			if row.State.Published() && row.PublishedAt.Before(done.RevokedAt) {
				t.Errorf("%s key is older than the revocation", row.State)
			}
		}
	})
}

// A second leak during an incident delays the second rotation: its key must be newer than both leaks.
func TestRevokeTwice(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		t.Parallel()
		c := newClock()
		r := keystest.MustRing(t, db, c.now, keystest.Module())
		c.step(time.Hour)
		first, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: byState(r)[storage.KeyCurrent]})
		must(t, err)
		c.step(time.Minute)
		must(t, r.LifeCycle().Maintain(ctx))
		second, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: first.Next})
		must(t, err)
		if second.SecondRotation == nil || !second.SecondRotation.Equal(c.now().Add(exposure)) ||
			second.Current != first.Current ||
			second.Next == first.Next {
			t.Errorf("%+v", second)
		}
		secondRotation(t, r, c, second)
	})
}

func TestRevokeUnknownKey(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		t.Parallel()
		r := keystest.MustRing(t, db, newClock().now, keystest.Module())
		if _, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: "nobody"}); !errors.Is(err, storage.ErrNotFound) {
			t.Error(err)
		}
	})
}

// The answer to COMMIT is lost: the command fails, and the same command again finds that the change was made once.
func TestCommitWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	proxy := storagetest.NewProxy(t, storagetest.PostgresURL(t))
	db := storagetest.MustOpen(t, proxy.URL)
	c := newClock()
	r := keystest.MustRing(t, db, c.now, keystest.Module())
	kid := byState(r)[storage.KeyCurrent]
	c.step(25 * time.Hour)

	proxy.LoseAnswer("COMMIT")
	if _, err := r.LifeCycle().Rotate(ctx, admin, keys.Gate{}); !errors.Is(err, storage.ErrUnavailable) {
		t.Error("rotated:", err)
	}
	var young *keys.TooYoungError
	_, err := r.LifeCycle().Rotate(ctx, admin, keys.Gate{})
	if !errors.As(err, &young) || states(r)[storage.KeyPrevious] != 1 {
		t.Error("rotated twice:", err)
	}
	proxy.LoseAnswer("COMMIT")
	if _, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: kid}); !errors.Is(err, storage.ErrUnavailable) {
		t.Error("revoked:", err)
	}
	if done, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: kid}); err != nil || !done.Already {
		t.Errorf("%+v, %v", done, err)
	}
	proxy.LoseAnswer("COMMIT")
	if _, err := r.LifeCycle().Rewrap(ctx, admin, newMaster(t)); !errors.Is(err, storage.ErrUnavailable) {
		t.Error("rewrapped:", err)
	}
	if done, err := r.LifeCycle().Rewrap(ctx, admin, newMaster(t)); err != nil || done.Left != 0 {
		t.Errorf("%+v, %v", done, err)
	}
	if proxy.Cuts() != 3 {
		t.Errorf("%d answers were lost", proxy.Cuts())
	}
	if _, err := db.Audit().Verify(ctx); err != nil {
		t.Error(err)
	}
}

// A revocation succeeds even if the time of the database cannot be read and the announcement cannot be sent.
func TestRevokeWithoutTimeOrAnnouncement(t *testing.T) {
	t.Parallel()
	proxy := storagetest.NewProxy(t, storagetest.PostgresURL(t))
	db := storagetest.MustOpen(t, proxy.URL)
	c := newClock()
	module := keystest.Module()
	keystest.MustRing(t, db, c.now, module)
	timeless := func(context.Context) (time.Time, error) { return time.Time{}, errors.New("no time") }
	o := c.options(module)
	o.DatabaseNow = timeless
	r := mustRing(t, db, keystest.MustMaster(t, 1), o)
	proxy.Cut("pg_notify", storagetest.Before, 100)
	kid := byState(r)[storage.KeyCurrent]
	done, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: kid})
	must(t, err)
	if !done.RevokedAt.Equal(noon) || published(t, r)[kid] || proxy.Cuts() == 0 {
		t.Errorf("%+v, %d announcements were cut", done, proxy.Cuts())
	}
}

// The search for grants of an old key of refresh tokens times out: the key stays, and Maintain succeeds.
func TestOldRefreshKeyThatCannotBeLookedUp(t *testing.T) {
	t.Parallel()
	url := storagetest.PostgresURL(t)
	db := storagetest.MustOpen(t, url)
	c := newClock()
	o := c.options(keystest.Module())
	o.LookTimeout = 50 * time.Millisecond
	r := mustRing(t, db, keystest.MustMaster(t, 1), o)
	for range 2 {
		c.step(keystest.Config.RotationInterval)
		must(t, r.LifeCycle().Maintain(ctx))
	}
	c.step(24 * time.Hour)
	lock, err := storagetest.Raw(t, url).Begin()
	must(t, err)
	defer lock.Rollback()
	_, err = lock.Exec(`LOCK TABLE grants IN ACCESS EXCLUSIVE MODE`)
	must(t, err)
	must(t, r.LifeCycle().Maintain(ctx))
}
