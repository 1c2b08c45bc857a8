package server

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/passwords"
	"github.com/keyturn/keyturn/passwords/passwordstest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// Who was imported logs in with the old password, once by the old hash, and from then on by ours.
func TestImportedUsersLogIn(t *testing.T) {
	t.Parallel()
	quick := passwordstest.Imported[7:] // those that do not take their time
	Each(t, func(t *testing.T, h *Harness) {
		var users []admin.ImportedUser
		for i, old := range quick {
			users = append(
				users,
				admin.ImportedUser{
					Row:      i + 1,
					Username: fmt.Sprintf("User%d@Example.org", i),
					Hash:     old.Text,
					Roles:    []string{"editor"},
				},
			)
		}
		done, err := h.Admin.Users().Import(ctx, users, admin.ImportOptions{})
		if err != nil || done.Imported != len(users) || len(done.Refused) > 0 {
			t.Fatalf("%+v, %v", done, err)
		}
		for i, old := range quick {
			name := fmt.Sprintf("user%d@example.ORG", i)
			login := func(password string) Reply {
				return h.Post("/token", "app", "grant_type", "password", "username", name, "password", password)
			}
			if r := login(passwordstest.Password + "x"); r.Code(t) != "invalid_grant" {
				t.Errorf("%s: a wrong password: %s", old.Name, r.Body)
			}
			first := login(passwordstest.Password).Tokens(t)
			u := Must(h.Admin.Users().Find(ctx, name))
			if !strings.HasPrefix(u.PasswordHash, "$argon2id$v=19$m=64,") ||
				!slices.Equal(u.Roles, []string{"editor"}) {
				t.Errorf("%s: %+v", old.Name, u)
			}
			login(passwordstest.Password).Tokens(t)
			if !h.Active("app", first.AccessToken) {
				t.Errorf("%s: the first login ended with the old hash", old.Name)
			}
			if r := login(passwordstest.Password + "x"); r.Code(t) != "invalid_grant" {
				t.Errorf("%s: a wrong password, later: %s", old.Name, r.Body)
			}
		}
		if n, err := h.Admin.Audit().Verify(ctx); err != nil {
			t.Error(n, err)
		}
		if records := Must(AllAudit(h.Admin, time.Time{}, "user.import")); len(records) != len(users) {
			t.Errorf("%d records", len(records))
		}
	})
}

// An import is all or nothing, tells of every row that it refuses, and with SkipBad makes the rest.
func TestImportRefuses(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		hash := passwordstest.Imported[0].Text
		users := []admin.ImportedUser{
			{Row: 1, Username: "bob", Hash: hash},
			{Row: 2, Username: "Alice", Hash: hash},
			{Row: 3, Username: "BOB", Hash: hash},
			{Row: 4, Username: "two words", Hash: hash},
			{Row: 5, Username: "carol", Hash: "md5$a$b"},
			{Row: 6, Username: "dave", Hash: hash, Roles: []string{"Site admins"}},
			{Row: 7, Username: "erin", Problem: "it is unreadable"},
			{Row: 8, Username: "frank", Hash: "", Disabled: true},
			{
				Row:      9,
				Username: "gina",
				Hash:     "$argon2id$v=19$m=1048576,t=1,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
			},
		}
		reasons := map[int]string{
			2: "is taken",
			3: "row 1 has the same",
			4: "RFC 8265",
			5: "md5 is no",
			6: `role "Site admins"`,
			7: "it is unreadable",
			9: "memory in KiB",
		}
		check := func(o admin.ImportOptions, want admin.Import, names ...string) {
			t.Helper()
			done, err := h.Admin.Users().Import(ctx, users, o)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range done.Refused {
				if want := reasons[r.Row]; want == "" || !strings.Contains(r.Reason, want) ||
					strings.Contains(r.Reason, "invalid: ") {
					t.Errorf("%+v", r)
				}
			}
			if n := len(done.Refused); n != len(want.Refused) {
				t.Errorf("%d refused", n)
			}
			done.Refused = want.Refused
			if !cmp.Equal(done, want) {
				t.Error(cmp.Diff(want, done))
			}
			var there []string
			for _, u := range Must(AllUsers(h.Admin)) {
				there = append(there, u.Username)
			}
			if !slices.Equal(there, names) {
				t.Errorf("%v", there)
			}
		}
		refused := make([]admin.RefusedUser, len(reasons))
		check(admin.ImportOptions{}, admin.Import{Refused: refused}, "alice")
		check(
			admin.ImportOptions{DryRun: true, SkipBad: true},
			admin.Import{Imported: 2, Disabled: 1, WithoutPassword: 1, Refused: refused},
			"alice",
		)
		check(
			admin.ImportOptions{SkipBad: true},
			admin.Import{Imported: 2, Disabled: 1, WithoutPassword: 1, Refused: refused},
			"alice",
			"bob",
			"frank",
		)
		if n, err := h.Admin.Audit().Verify(ctx); err != nil {
			t.Error(n, err)
		}
		reasons[1], reasons[8] = "is taken", "is taken"
		reasons[3] = "row 1 has the same"
		check(
			admin.ImportOptions{SkipBad: true},
			admin.Import{Refused: make([]admin.RefusedUser, len(reasons))},
			"alice",
			"bob",
			"frank",
		)
	})
}

// Another system hashed the password as it was typed. Until the user has logged in, this also holds for a hash in our
// own form.
func TestImportedHashOfAPasswordAsItWasTyped(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		typed := "correct horse ba\u0308ttery" // a with a combining mark, which is one letter in the canonical form
		hash := passwords.New(passwords.Policy{Memory: 20 << 10, Time: 2, Lanes: 1}, typed).String()
		Must(
			h.Admin.Users().
				Import(ctx, []admin.ImportedUser{{Row: 1, Username: "bob", Hash: hash}}, admin.ImportOptions{}),
		)
		login := func(password string) Reply {
			return h.Post("/token", "app", "grant_type", "password", "username", "bob", "password", password)
		}
		if r := login(passwordstest.Password); r.Status != 400 {
			t.Errorf("in another form than it was hashed in: %d", r.Status)
		}
		login(typed).Tokens(t)
		login(passwordstest.Password).Tokens(t)
		login(typed).Tokens(t)
		if u := Must(h.Admin.Users().Find(ctx, "bob")); !strings.HasPrefix(u.PasswordHash, "$argon2id$") {
			t.Error(u.PasswordHash)
		}
	})
}

// A hash that takes its time is no outage of the database, for which retries of refreshes stay safe for longer.
func TestSlowHashIsNoOutage(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		before := len(h.Server.ring.Outages())
		h.Server.hasher.Took = func(time.Duration) {
			h.Clock.at.Add(int64(time.Hour))
			h.Server.db.Close()
		}
		r := h.Post("/token", "app", "grant_type", "password", "username", "alice", "password", "wrong")
		if r.Status != 503 {
			t.Errorf("%d %s", r.Status, r.Body)
		}
		h.Clock.at.Add(int64(time.Second))
		outages := h.Server.ring.Outages()
		if len(outages) != before+1 || outages[before].To.Sub(outages[before].From) > time.Minute {
			t.Errorf("%v", outages)
		}
	})
}

// A name that nobody has costs what that of some user costs, always of the same one: imported hashes take their own
// time, which must not tell known names from unknown ones.
func TestUnknownNamesCostWhatKnownOnesDo(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		var users []admin.ImportedUser
		for i := range 30 {
			users = append(
				users,
				admin.ImportedUser{Row: i, Username: fmt.Sprintf("old%d", i), Hash: passwordstest.Imported[0].Text},
			)
		}
		Must(h.Admin.Users().Import(ctx, users, admin.ImportOptions{}))
		old, ours := 0, 0
		for i := range 60 {
			name := fmt.Sprintf("nobody%d", i)
			k := storage.NewLoginKey(name, "app", netip.MustParseAddr("192.0.2.1"))
			k.Stranger = h.Server.stranger(name)
			var before passwords.Hash
			for range 2 {
				hash, usable := h.Server.storedHash(Must(h.Server.db.Users().LoginView(ctx, k)))
				if usable || before != nil && hash.Cost() != before.Cost() {
					t.Errorf("%s: %v", name, usable)
				}
				before = hash
			}
			if _, isOurs := before.(passwords.Argon2id); isOurs {
				ours++
			} else {
				old++
			}
		}
		if old < 40 || ours > 20 {
			t.Errorf("of 31 users 30 have old hashes, and of 60 unknown names %d cost what those do", old)
		}
	})
}

// BenchmarkImportUsers imports a hundred thousand users.
func BenchmarkImportUsers(b *testing.B) {
	for name, databaseURL := range map[string]string{"sqlite": storagetest.SQLiteURL(b),
		"postgres": storagetest.PostgresURL(b)} {
		b.Run(name, func(b *testing.B) {
			h := OpenHarness(b, ConfigFor(databaseURL), nil)
			for i := range b.N {
				var users []admin.ImportedUser
				for j := range 100_000 {
					users = append(
						users,
						admin.ImportedUser{
							Row:      j,
							Username: fmt.Sprintf("user%d.%d", i, j),
							Hash:     passwordstest.Imported[0].Text,
							Roles:    []string{"editor"},
						},
					)
				}
				if done, err := h.Admin.Users().Import(ctx, users, admin.ImportOptions{}); err != nil ||
					done.Imported != len(users) {
					b.Fatal(done, err)
				}
			}
		})
	}
}
