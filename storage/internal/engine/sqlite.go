package engine

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/jmoiron/sqlx"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// openSQLite opens the file with one connection that writes and a pool that reads. All settings are in the data source
// name, because a PRAGMA by Exec reaches only one connection of a pool. WAL with synchronous=FULL loses no answered
// commit in a power cut. secure_delete overwrites a destroyed private key.
func openSQLite(path string, create bool, schema Schema) (*DB, error) {
	if err := ensureFile(path, create); err != nil {
		return nil, err
	}
	write, err := sqlitePool(sqliteDSN(path, "&_txlock=immediate"), 1)
	if err != nil {
		return nil, err
	}
	read, err := sqlitePool(sqliteDSN(path, "&_query_only=1"), readers)
	if err != nil {
		write.Close()
		return nil, err
	}
	file, err := os.Stat(path)
	if err != nil {
		return nil, errors.Join(err, read.Close(), write.Close())
	}
	db := &DB{
		kind:     SQLite,
		read:     read,
		write:    write,
		upkeep:   read,
		slow:     write,
		commits:  &commits{pool: write},
		deadline: 5 * time.Second,
		path:     path,
		schema:   schema,
	}
	db.files[0].Store(&file)
	return db, nil
}

// PostgreSQL reports by current_setting whether it accepts writes. This adds the function to SQLite, so that one SQL
// text serves both.
func init() {
	sqlite.MustRegisterScalarFunction(
		"current_setting",
		1,
		func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) { return "off", nil },
	)
}

func sqlitePool(dsn string, size int) (*sqlx.DB, error) {
	c, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	pool := sqlx.NewDb(sql.OpenDB(preparing{c, true}), "sqlite")
	pool.SetMaxOpenConns(size)
	pool.SetMaxIdleConns(size)
	return pool, nil
}

func sqliteDSN(path, extra string) string {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath()}
	u.RawQuery = "_busy_timeout=5000&_journal_mode=WAL&_foreign_keys=1&_synchronous=FULL" +
		"&_pragma=secure_delete(1)" + extra
	return u.String()
}

// Unusable reports whether an error of SQLite says that trying again does not help.
func Unusable(err error) bool {
	code, ok := sqliteCode(err)
	return ok && isUnusable(code)
}

// isUnusable reports that a file is no intact database, or may not be used by this user: trying again does not help.
func isUnusable(code int) bool {
	switch code & 0xff {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN,
		sqlite3.SQLITE_PERM:
		return true
	}
	return false
}

func isBusy(code int) bool { return code&0xff == sqlite3.SQLITE_BUSY }

// ensureFile creates the database file before SQLite does. The file, and the -wal and -shm files beside it, which
// inherit its mode, are thus 0600 under every umask.
func ensureFile(path string, create bool) error {
	info, err := os.Stat(path)
	if err == nil {
		if info.IsDir() {
			return fmt.Errorf("database %s is a folder: name a file", path)
		}
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("database: %w", err)
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		return fmt.Errorf("database %s: its folder does not exist: make it first", path)
	}
	if !create {
		return fmt.Errorf(
			"%w at %s: `keyturn migrate up` or `keyturn serve` makes one, --database names another",
			ErrNoDatabase,
			path,
		)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	return f.Close()
}

func sqliteCode(err error) (code int, ok bool) {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return 0, false
	}
	return e.Code(), true
}

func sqliteUnavailable(code int) bool {
	switch code & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY,
		sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_CORRUPT,
		sqlite3.SQLITE_NOTADB:
		return true
	}
	return false
}

func sqliteUnique(code int) bool {
	return code == sqlite3.SQLITE_CONSTRAINT_UNIQUE || code == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
}
