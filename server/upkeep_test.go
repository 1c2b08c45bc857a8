package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// What is over goes, in whatever number of batches, and what is not over stays.
func TestCleanUp(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		resting, revoked := h.login("app"), h.login("app")
		live := h.login("app")
		h.post("/revoke", "app", "token", revoked.RefreshToken)
		h.post("/token", "app", "grant_type", "password", "username", "alice", "password", "wrong")
		count := func() int { return len(must(h.admin.Grants().All(ctx, "", ""))) }
		clean := func() {
			t.Helper()
			must(0, h.server.cleanUpOnce(ctx))
		}
		if clean(); count() != 3 {
			t.Fatalf("%d grants after the first round", count())
		}
		for range 8 {
			h.step(2 * 24 * time.Hour)
			live = h.refresh("app", live.RefreshToken).tokens(t)
		}
		if clean(); count() != 1 {
			t.Errorf("%d grants; the revoked and the resting one should have gone", count())
		}
		if r := h.refresh("app", resting.RefreshToken); r.code(t) != "invalid_grant" {
			t.Error(r.body)
		}
		h.refresh("app", live.RefreshToken).tokens(t)
		h.step(91 * 24 * time.Hour)
		h.login("app")
		if clean(); count() != 1 {
			t.Errorf("%d grants; the expired one should have gone", count())
		}
	})
}

// One replica at a time cleans up; when it stops, another takes over.
func TestLease(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		db, now := h.server.db, h.clock.now()
		for _, c := range []struct {
			holder string
			after  time.Duration
			want   bool
		}{{"a", 0, true}, {"b", time.Second, false}, {"a", 30 * time.Second, true}, {"b", 80 * time.Second, false}, {"b",
			90 * time.Second, true}, {"a", 91 * time.Second, false}} {
			got, err := db.Leases().Take(ctx, "job", c.holder, time.Minute, now.Add(c.after))
			if err != nil || got != c.want {
				t.Errorf("%+v: %v, %v", c, got, err)
			}
		}
	})
}

// A hash below the policy is replaced at login, once, by one of the same password.
func TestRehashAtLogin(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		alice := must(h.admin.Users().Find(ctx, "alice"))
		h.server.hasher.Policy.Memory *= 2
		h.login("app")
		again := must(h.admin.Users().Find(ctx, "alice"))
		if again.PasswordHash == alice.PasswordHash || !strings.Contains(again.PasswordHash, fmt.Sprintf("m=%d,", 128)) {
			t.Errorf("the hash stays %s", again.PasswordHash)
		}
		tokens := h.login("app")
		if must(h.admin.Users().Find(ctx, "alice")).PasswordHash != again.PasswordHash || !h.active("app", tokens.AccessToken) {
			t.Error("hashed again without need")
		}
	})
}

// Each record tells who made the change and why.
func TestAuditNamesWhoAndWhy(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		records := must(h.admin.Audit().All(ctx, time.Time{}, ""))
		if n, err := h.admin.Audit().Verify(ctx); err != nil || n != int64(len(records)) || n < 5 {
			t.Fatal(n, err)
		}
		for _, r := range records[2:] {
			if r.Actor != "os:test" || r.Reason != "test" || r.Target == "" {
				t.Errorf("%+v", r)
			}
		}
	})
}

// A change whose record cannot be written does not happen.
func TestNoRecordNoChange(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		keyless := must(storage.Open(ctx, storage.Options{Source: storagetest.MustSource(t, h.config.Database)}))
		defer keyless.Close()
		if err := keyless.Users().Disable(ctx, storage.Actor{Name: "os:test"}, "alice", h.clock.now()); err == nil {
			t.Fatal("changed without a record")
		}
		h.login("app")
	})
}
