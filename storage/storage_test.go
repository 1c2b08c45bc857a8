package storage_test

import (
	"context"
	"database/sql"
	"flag"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

func TestMain(m *testing.M) {
	if databaseURL := os.Getenv(openingEnv); databaseURL != "" {
		opening(databaseURL)
		return
	}
	// Many of these tests wait for time-outs. The command line may say otherwise.
	flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	storagetest.Main(m)
}

// mustEmpty deletes all rows, for another test in the same database.
func mustEmpty(t testing.TB, raw *sql.DB) {
	t.Helper()
	for _, table := range []string{"grants", "users", "clients", "audit"} {
		storagetest.MustExec(t, raw, `DELETE FROM `+table)
	}
	storagetest.MustExec(t, raw, `UPDATE audit_head SET seq = 0, hash = ''`)
}

var (
	ctx   = context.Background()
	noon  = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	admin = storage.Actor{Name: "os:test", Reason: "test"}
)

// mustUser creates a user of that name.
func mustUser(t testing.TB, db *storage.DB, name string) storage.User {
	t.Helper()
	u, err := db.Users().Create(
		ctx,
		admin,
		storage.User{
			Sub:          "usr_" + name,
			Username:     name,
			PasswordHash: "hash",
			Roles:        storage.List{"reader"},
			CreatedAt:    storage.At(noon),
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// mustClient creates a confidential client of that id.
func mustClient(t testing.TB, db *storage.DB, id string) storage.Client {
	t.Helper()
	if err := db.Clients().Create(ctx, admin, storage.Client{
		ID:         id,
		SecretHash: "hash",
		Grants:     storage.List{"password", "refresh_token"},
		Scope:      "a b",
		Audiences:  storage.List{"https://api.example"},
		CreatedAt:  storage.At(noon),
		UpdatedAt:  storage.At(noon),
	}); err != nil {
		t.Fatal(err)
	}
	return mustRead(t, db, id)
}

// mustRead reads a client.
func mustRead(t testing.TB, db *storage.DB, id string) storage.Client {
	t.Helper()
	c, err := db.Clients().ByID(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// mustGrant makes a login of the user at the client, at noon, for a day, resting for at most an hour.
func mustGrant(t testing.TB, db *storage.DB, u storage.User, c storage.Client) storage.Grant {
	t.Helper()
	expires := noon.Add(24 * time.Hour)
	g := storage.Grant{
		ID:            storage.NewGrantID(expires),
		UserID:        u.ID,
		UserEpoch:     u.Epoch,
		ClientID:      c.ID,
		ClientEpoch:   c.Epoch,
		FamilyHash:    "family",
		KID:           "kid",
		Scope:         "a b",
		Audience:      "https://api.example",
		CreatedAt:     storage.At(noon),
		ExpiresAt:     storage.At(expires),
		IdleExpiresAt: storage.At(noon.Add(time.Hour)),
	}
	if err := db.Grants().Create(ctx, g, nil); err != nil {
		t.Fatal(err)
	}
	return g
}

// A lease that a wrong clock has taken lies further ahead than any holder could have taken it: whoever is sure of the
// time takes it over.
func TestLeaseOfAWrongClock(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		lease := func(holder string, now time.Time) bool {
			t.Helper()
			mine, err := db.Leases().Take(ctx, "job", holder, 2*time.Minute, now)
			must(t, err)
			return mine
		}
		if !lease("ahead", noon.Add(16*24*time.Hour)) || !lease("right", noon) {
			t.Error("a lease of 16 days ahead holds")
		}
		if lease("other", noon) || lease("a little behind", noon.Add(-30*time.Second)) {
			t.Error("a lease that was taken rightly does not hold")
		}
		if !lease("other", noon.Add(2*time.Minute)) {
			t.Error("a lease does not lapse")
		}
	})
}
