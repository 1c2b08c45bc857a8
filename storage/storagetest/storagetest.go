// Package storagetest gives tests a real SQLite and a real PostgreSQL.
//
// The PostgreSQL is a throwaway cluster, started from the installed server binaries at its first use in a test binary,
// on a Unix socket, and stopped by [Main]. Without server binaries its tests are skipped, loudly; with
// KEYTURN_TEST_POSTGRES=required, as `make test` sets it, they fail.
//
// Databases are in memory, in /dev/shm, if it has room, or else in a temporary folder. A test that needs an empty
// database uses [EachURL]. A test that needs one with the schema uses [EachReady], which is faster.
package storagetest

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyturn/keyturn/storage"
)

// Main runs the tests of a package and then stops the cluster that they have started. Call it from TestMain.
func Main(m *testing.M) {
	code := m.Run()
	Stop()
	os.Exit(code)
}

// Stop stops the cluster that tests have started, for a TestMain that is not Main.
func Stop() {
	if running != nil {
		running.Stop()
	}
	if folder := InMemory(); folder != "" {
		os.RemoveAll(folder)
	}
}

// AuditKey chains the audit trail of databases that Each opens.
var AuditKey = []byte("a key for the audit trail in tests")

// Each runs the test once on each kind of database, with a new schema.
func Each(t *testing.T, test func(t *testing.T, db *storage.DB)) {
	t.Helper()
	EachReady(t, func(t *testing.T, databaseURL string) { test(t, MustOpen(t, databaseURL)) })
}

// EachURL runs the test once on each kind of database, given by the URL of an empty one.
func EachURL(t *testing.T, test func(t *testing.T, databaseURL string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, SQLiteURL(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, PostgresURL(t)) })
}

// SQLiteURL names a file that does not exist yet. A benchmark gets one on a disk.
func SQLiteURL(t testing.TB) string {
	t.Helper()
	if _, measures := t.(*testing.B); measures || InMemory() == "" {
		return "sqlite:" + filepath.Join(t.TempDir(), "keyturn.db")
	}
	folder, err := os.MkdirTemp(InMemory(), "sqlite-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	return "sqlite:" + filepath.Join(folder, "keyturn.db")
}

var databases atomic.Int64

// PostgresURL names a new, empty database.
func PostgresURL(t testing.TB) string {
	t.Helper()
	return PostgresURLWith(t, "")
}

// CutOff makes a PostgreSQL database unreachable: it ends its connections and refuses new ones. Call the result to undo
// it.
func CutOff(t testing.TB, databaseURL string) (restore func()) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	name := u.Path[1:]
	exec := func(query string) {
		if _, err := mustCluster(t).admin.Exec(query); err != nil {
			t.Error(err)
		}
	}
	exec("ALTER DATABASE " + name + " ALLOW_CONNECTIONS false")
	exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '" + name + "'")
	return func() { exec("ALTER DATABASE " + name + " ALLOW_CONNECTIONS true") }
}

// MustOpen opens the database, creates its schema and sets a key for its audit trail. It is closed when the test ends.
func MustOpen(t testing.TB, databaseURL string) *storage.DB {
	t.Helper()
	db, err := storage.Open(context.Background(), storage.Options{Source: MustSource(t, databaseURL),
		Create: true, Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.Audit().UseKey(AuditKey)
	return db
}

// MustSource parses the URL of a database.
func MustSource(t testing.TB, databaseURL string) storage.Source {
	t.Helper()
	source, err := storage.ParseSource(databaseURL, true)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

// SQLiteFile is the file of a sqlite: URL, "" for another database.
func SQLiteFile(databaseURL string) string {
	source, err := storage.ParseSource(databaseURL, true)
	if err != nil {
		return ""
	}
	return source.File()
}

// Raw opens the database directly, without keyturn. It is closed when the test ends.
func Raw(t testing.TB, databaseURL string) *sql.DB {
	t.Helper()
	raw, err := OpenRaw(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	return raw
}

// OpenRaw is Raw without a test.
func OpenRaw(databaseURL string) (*sql.DB, error) {
	if file := SQLiteFile(databaseURL); file != "" {
		return sql.Open("sqlite", "file:"+(&url.URL{Path: file}).EscapedPath()+"?_busy_timeout=5000")
	}
	return sql.Open("postgres", databaseURL)
}

// MustExec runs statements on a database that Raw has opened.
func MustExec(t testing.TB, raw *sql.DB, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := raw.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// Another names another empty database of the same kind.
func Another(t testing.TB, databaseURL string) string {
	if SQLiteFile(databaseURL) != "" {
		return SQLiteURL(t)
	}
	return PostgresURL(t)
}

var (
	startCluster sync.Once
	running      *Cluster
	startErr     error
)

func mustCluster(t testing.TB) *Cluster {
	t.Helper()
	startCluster.Do(func() {
		if running, startErr = newCluster(InMemory(), fast); startErr == nil {
			startErr = running.copyFiles()
		}
	})
	if startErr == nil {
		return running
	}
	if os.Getenv("KEYTURN_TEST_POSTGRES") == "required" {
		t.Fatalf("PostgreSQL is required here: %v", startErr)
	}
	fmt.Fprintf(os.Stderr, "\n*** SKIPPED ON POSTGRESQL: %s: %v ***\n\n", t.Name(), startErr)
	t.Skipf("no PostgreSQL: %v", startErr)
	return nil
}

// copyFiles makes CREATE DATABASE copy files instead of logging each page, from PostgreSQL 15 on. Without fsync, this
// takes half the time.
func (c *Cluster) copyFiles() error {
	var version int
	err := c.admin.QueryRow(`SELECT CAST(current_setting('server_version_num') AS INTEGER)`).Scan(&version)
	if err == nil && version >= 150_000 {
		c.strategy = " STRATEGY file_copy"
	}
	return err
}

func (c *Cluster) url(database string) string {
	q := url.Values{"host": {c.folder}, "sslmode": {"disable"}}
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User("keyturn"),
		Path:     "/" + database,
		RawQuery: q.Encode(),
	}
	return u.String()
}

// Environ returns the environment for a program under test, without the variables of the tests, which keyturn would
// refuse as unknown.
func Environ() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "KEYTURN_TEST_") || strings.HasPrefix(variable, "KEYTURN_SOAK=")
	})
}
