package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// Clean-up deletes what has ended, in any number of batches, and nothing else.
func TestCleanUp(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		resting, revoked := h.Login("app"), h.Login("app")
		live := h.Login("app")
		h.Post("/revoke", "app", "token", revoked.RefreshToken)
		h.Post("/token", "app", "grant_type", "password", "username", "alice", "password", "wrong")
		count := func() int { return len(Must(AllGrants(h.Admin, "", ""))) }
		clean := func() {
			t.Helper()
			Must(0, h.Server.cleanUpOnce(ctx))
		}
		if clean(); count() != 3 {
			t.Fatalf("%d grants after the first round", count())
		}
		for range 8 {
			h.Step(2 * 24 * time.Hour)
			live = h.Refresh("app", live.RefreshToken).Tokens(t)
		}
		if clean(); count() != 1 {
			t.Errorf("%d grants; the revoked and the resting one should have gone", count())
		}
		if r := h.Refresh("app", resting.RefreshToken); r.Code(t) != "invalid_grant" {
			t.Error(r.Body)
		}
		h.Refresh("app", live.RefreshToken).Tokens(t)
		h.Step(91 * 24 * time.Hour)
		h.Login("app")
		if clean(); count() != 1 {
			t.Errorf("%d grants; the expired one should have gone", count())
		}
	})
}

// One replica at a time cleans up; when it stops, another takes over.
func TestLease(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		db, now := h.Server.db, h.Clock.Now()
		for _, c := range []struct {
			holder string
			after  time.Duration
			want   bool
		}{
			{"a", 0, true},
			{"b", time.Second, false},
			{"a", 30 * time.Second, true},
			{"b", 80 * time.Second, false},
			{"b", 90 * time.Second, true},
			{"a", 91 * time.Second, false},
		} {
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
	Each(t, func(t *testing.T, h *Harness) {
		alice := Must(h.Admin.Users().Find(ctx, "alice"))
		h.Server.hasher.Policy.Memory *= 2
		h.Login("app")
		again := Must(h.Admin.Users().Find(ctx, "alice"))
		if again.PasswordHash == alice.PasswordHash ||
			!strings.Contains(again.PasswordHash, fmt.Sprintf("m=%d,", 128)) {
			t.Errorf("the hash stays %s", again.PasswordHash)
		}
		tokens := h.Login("app")
		if Must(h.Admin.Users().Find(ctx, "alice")).PasswordHash != again.PasswordHash ||
			!h.Active("app", tokens.AccessToken) {
			t.Error("hashed again without need")
		}
	})
}

// Each record tells who made the change and why.
func TestAuditNamesWhoAndWhy(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		records := Must(AllAudit(h.Admin, time.Time{}, ""))
		if n, err := h.Admin.Audit().Verify(ctx); err != nil || n != int64(len(records)) || n < 5 {
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
	Each(t, func(t *testing.T, h *Harness) {
		keyless := Must(storage.Open(ctx, storage.Options{Source: storagetest.MustSource(t, h.Config.Database)}))
		defer keyless.Close()
		if err := keyless.Users().Disable(ctx, storage.Actor{Name: "os:test"}, "alice", h.Clock.Now()); err == nil {
			t.Fatal("changed without a record")
		}
		h.Login("app")
	})
}
