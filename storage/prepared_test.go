package storage_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// A table that changes under prepared statements is no reason to fail.
func TestPreparedStatementsAreMadeAgain(t *testing.T) {
	t.Parallel()
	databaseURL := storagetest.PostgresReady(t)
	db, raw := storagetest.MustOpen(t, databaseURL), storagetest.Raw(t, databaseURL)
	mustClient(t, db, "app")
	for _, change := range []string{`ALTER TABLE clients ALTER COLUMN resource TYPE varchar(2000)`,
		`ALTER TABLE clients ALTER COLUMN resource TYPE TEXT`} {
		for range 20 { // every connection has prepared it
			if _, err := db.Clients().ByID(ctx, "app"); err != nil {
				t.Fatal(err)
			}
		}
		storagetest.MustExec(t, raw, change)
	}
	if _, err := db.Clients().ByID(ctx, "app"); err != nil {
		t.Error(err)
	}
}

// When the last connection ends, SQLite brings everything into the one file, which statements that are still prepared
// would prevent.
func TestCloseLeavesOneFile(t *testing.T) {
	t.Parallel()
	databaseURL := storagetest.SQLiteReady(t)
	db := storagetest.MustOpen(t, databaseURL)
	mustClient(t, db, "app")
	if _, err := db.Clients().ByID(ctx, "app"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(storagetest.SQLiteFile(databaseURL) + "-wal"); err == nil {
		t.Error("the log of the database is still there")
	}
}

// A database that swallows everything is not waited for longer because a statement was prepared.
func TestPreparedStatementsInAHole(t *testing.T) {
	t.Parallel()
	proxy := storagetest.NewProxy(t, storagetest.PostgresReady(t))
	db := storagetest.MustOpen(t, proxy.URL)
	mustClient(t, db, "app")
	if _, err := db.Clients().ByID(ctx, "app"); err != nil {
		t.Fatal(err)
	}
	proxy.Hole(true)
	var took time.Duration
	for range 3 { // a busy machine may be slow once
		began := time.Now()
		if _, err := db.Clients().ByID(ctx, "app"); !errors.Is(err, storage.ErrUnavailable) {
			t.Fatal(err)
		}
		if took = time.Since(began); took < 3*time.Second {
			return
		}
	}
	t.Errorf("it waits for %v", took)
}
