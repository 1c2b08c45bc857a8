package server_test

import (
	"database/sql"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/server"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// mustFail counts failures of an account in a bucket.
func mustFail(t *testing.T, raw *sql.DB, bucket, account string, failures int64, last time.Time) {
	t.Helper()
	storagetest.MustExec(t, raw, fmt.Sprintf(`INSERT INTO throttle (bucket, failures, last_at, account)
		VALUES ('%s', %d, %d, '%s')`, bucket, failures, last.UnixMilli(), account))
}

// Throttle lists the state of an account by place, and the next login does what it says.
func TestThrottleIsTold(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		raw, account := storagetest.Raw(t, h.Config.Database), storage.AccountBucket("alice")
		if states := server.Must(h.Admin.Users().Throttle(ctx, "alice")); len(states) != 0 || states == nil {
			t.Errorf("at first: %+v", states)
		}
		mustFail(t, raw, account, "", 100, noon)
		mustFail(t, raw, "one familiar", account, 9, noon.Add(-time.Minute))
		mustFail(t, raw, "another familiar", account, 12, noon.Add(-2*time.Minute))
		mustFail(t, raw, "nothing is left of it", account, 0, noon)
		mustFail(t, raw, storage.AccountBucket("bob"), storage.AccountBucket("bob"), 50, noon)
		mustFail(t, raw, "an address", "", 50, noon)
		at := func(d time.Duration) storage.Time { return storage.At(noon.Add(d)) }
		next := at(58 * time.Minute) // a window of 15 minutes, twice doubled
		want := []admin.ThrottleState{
			{Place: admin.PlaceNew, Failures: 100, LastFailedAt: at(0), UntilUnlocked: true},
			{Place: admin.PlaceFamiliar, Failures: 9, LastFailedAt: at(-time.Minute)},
			{Place: admin.PlaceFamiliar, Failures: 12, LastFailedAt: at(-2 * time.Minute), NextTryAt: &next},
		}
		if diff := cmp.Diff(want, server.Must(h.Admin.Users().Throttle(ctx, "ALICE"))); diff != "" {
			t.Error(diff)
		}
	})
}

// Unlocking an account, giving it a password and enabling it lift every throttle of it, and of nobody else.
func TestUnlock(t *testing.T) {
	t.Parallel()
	for name, lift := range map[string]func(h *server.Harness) error{
		"unlock": func(h *server.Harness) error { return h.Admin.Users().Unlock(ctx, "Alice") },
		"passwd": func(h *server.Harness) error { return h.Admin.Users().SetPassword(ctx, "Alice", password) },
		"enable": func(h *server.Harness) error { return h.Admin.Users().Enable(ctx, "Alice") },
	} {
		t.Run(name, func(t *testing.T) {
			server.Each(t, func(t *testing.T, h *server.Harness) {
				raw, account := storagetest.Raw(t, h.Config.Database), storage.AccountBucket("alice")
				mustFail(t, raw, account, account, 100, noon)
				mustFail(t, raw, "familiar", account, 100, noon)
				mustFail(t, raw, "of bob", storage.AccountBucket("bob"), 1, noon)
				mustFail(t, raw, "an address", "", 1, noon)
				login := func() server.Reply {
					return h.Post("/token", "app", "grant_type", "password", "username", "alice", "password", password)
				}
				if r := login(); r.Code(t) != "invalid_grant" {
					t.Fatal("she is not throttled")
				}
				server.Must(0, lift(h))
				var left []string
				rows := server.Must(raw.Query(`SELECT bucket FROM throttle
					WHERE bucket IN ('familiar', 'of bob', 'an address', '` + account + `')`))
				defer rows.Close()
				for rows.Next() {
					var bucket string
					server.Must(0, rows.Scan(&bucket))
					left = append(left, bucket)
				}
				slices.Sort(left)
				if !slices.Equal(left, []string{"an address", "of bob"}) {
					t.Errorf("left: %q", left)
				}
				login().Tokens(t)
				records := server.Must(server.AllAudit(h.Admin, time.Time{}, "user."+name))
				if len(records) != 1 || records[0].Actor != "os:test" {
					t.Errorf("%+v", records)
				}
			})
		})
	}
}

// Nobody is unlocked who is not there.
func TestUnlockOfNobody(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		if err := h.Admin.Users().Unlock(ctx, "nobody"); err == nil {
			t.Error("unlocked")
		}
	})
}

// After a client is disabled and enabled again, its older grants stay ended, as those of a user do.
func TestEnabledClientHasNoOldGrants(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		tokens, others := h.Login("app"), h.Login("other")
		server.Must(0, h.Admin.Clients().Disable(ctx, "app"))
		server.Must(0, h.Admin.Clients().Enable(ctx, "app"))
		if r := h.Refresh("app", tokens.RefreshToken); r.Code(t) != "invalid_grant" {
			t.Error("a grant came back to life")
		}
		if h.Active("rs", tokens.AccessToken) {
			t.Error("an access token came back to life")
		}
		h.Login("app")
		h.Refresh("other", others.RefreshToken).Tokens(t)
	})
}
