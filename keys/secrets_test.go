package keys_test

import (
	"testing"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// mustLogin makes a grant for alice at the given moment, as a login would.
func mustLogin(t *testing.T, db *storage.DB, at time.Time, ttl time.Duration) storage.Grant {
	t.Helper()
	u, err := db.Users().ByUsername(ctx, "alice")
	if err != nil {
		u, err = db.Users().Create(ctx, admin, storage.User{Sub: "usr_x", Username: "alice", CreatedAt: storage.At(at)})
		must(t, err)
		client := storage.Client{ID: "app", CreatedAt: storage.At(at), UpdatedAt: storage.At(at)}
		must(t, db.Clients().Create(ctx, admin, client))
	}
	client, err := db.Clients().ByID(ctx, "app")
	must(t, err)
	g := storage.Grant{
		ID:            storage.NewGrantID(at.Add(ttl)),
		UserID:        u.ID,
		UserEpoch:     u.Epoch,
		ClientID:      "app",
		ClientEpoch:   client.Epoch,
		FamilyHash:    "x",
		CreatedAt:     storage.At(at),
		ExpiresAt:     storage.At(at.Add(ttl)),
		IdleExpiresAt: storage.At(at.Add(ttl)),
	}
	must(t, db.Grants().Create(ctx, g, nil))
	return g
}

// The key of refresh tokens changes by schedule. Every replica knows a new key before its first token. An old key is
// deleted once no grant can present a token under it.
func TestRefreshKeyTurns(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, db := newClock(), storagetest.MustOpen(t, url)
		module := keystest.Module()
		r := keystest.MustRing(t, db, c.now, module)
		other := keystest.MustRing(t, storagetest.MustOpen(t, url), c.now, module)
		first, _ := r.Secrets().RefreshKey(c.now())
		interval, lead := keystest.Config.RotationInterval, time.Hour
		mustLogin(t, db, c.now().Add(interval-time.Minute), 30*24*time.Hour)

		c.step(interval - lead - time.Millisecond)
		must(t, r.LifeCycle().Maintain(ctx))
		if n, _ := r.Secrets().RefreshKey(c.now().Add(2 * lead)); n != first {
			t.Error("a new key came too early")
		}
		c.step(time.Millisecond)
		must(t, r.LifeCycle().Maintain(ctx))
		must(t, other.LifeCycle().Maintain(ctx))
		turn := noon.Add(interval)
		for name, replica := range map[string]*keys.Ring{"the one that made it": r, "another": other} {
			before, _ := replica.Secrets().RefreshKey(turn.Add(-time.Millisecond))
			after, key := replica.Secrets().RefreshKey(turn)
			if before != first || after == first || len(key) != 32 ||
				string(replica.Secrets().RefreshKeyByNumber(after)) != string(key) {
				t.Errorf("%s: key %d before the turn, %d after it", name, before, after)
			}
		}
		// The grant from before the turn lives for 30 days.
		for range 29 {
			c.step(24 * time.Hour)
			must(t, r.LifeCycle().Maintain(ctx))
		}
		if r.Secrets().RefreshKeyByNumber(first) == nil {
			t.Fatal("the key of a live grant is gone")
		}
		c.step(2 * 24 * time.Hour)
		must(t, r.LifeCycle().Maintain(ctx))
		if r.Secrets().RefreshKeyByNumber(first) != nil {
			t.Error("the old key is kept for nobody")
		}
		if _, err := db.Audit().Verify(ctx); err != nil {
			t.Error(err)
		}
	})
}

// The number of a key is one byte. After the last number comes the first one again, unless it is still in use.
func TestRefreshKeyNumbersComeAgain(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, db := newClock(), storagetest.MustOpen(t, url)
		r := keystest.MustRing(t, db, c.now, keystest.Module())
		seen := map[byte]int{}
		mustLogin(t, db, c.now(), 10*365*24*time.Hour) // holds key 1 for ten years
		config := keystest.Config
		for range 12 {
			c.step(config.RotationInterval)
			must(t, r.LifeCycle().Maintain(ctx))
			c.step(time.Hour)
			n, key := r.Secrets().RefreshKey(c.now())
			if seen[n]++; seen[n] > 1 || n == 0 || key == nil {
				t.Fatalf("key %d is used again while it is in use", n)
			}
		}
		if r.Secrets().RefreshKeyByNumber(1) == nil {
			t.Error("the key of a live grant is gone")
		}
	})
}
