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
	databaseURL := storagetest.PostgresURL(t)
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
	databaseURL := storagetest.SQLiteURL(t)
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
	proxy := storagetest.NewProxy(t, storagetest.PostgresURL(t))
	db := storagetest.MustOpen(t, proxy.URL)
	mustClient(t, db, "app")
	if _, err := db.Clients().ByID(ctx, "app"); err != nil {
		t.Fatal(err)
	}
	proxy.Hole(true)
	began := time.Now()
	_, err := db.Clients().ByID(ctx, "app")
	if !errors.Is(err, storage.ErrUnavailable) || time.Since(began) > 3*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}
