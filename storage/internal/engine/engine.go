package engine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
)

var (
	// ErrNotFound means that the named row does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict means that the name is taken, or another change came first.
	ErrConflict = errors.New("conflict")
	// ErrUnavailable means that the database does not answer, or the outcome of a statement is unknown. It is safe to
	// try again.
	ErrUnavailable = errors.New("database unavailable")
	// ErrBusy means that a caller waited too long for its turn, because the load exceeds what the database can do. It
	// wraps ErrUnavailable.
	ErrBusy = fmt.Errorf("%w: too much is asked of it at once", ErrUnavailable)
	// ErrRefused means that PostgreSQL, or a pooler in front of it, refused the first connection for a permanent
	// reason.
	ErrRefused = errors.New("connection refused")
	// ErrPooler means that PgBouncer refused the first connection. It has one code for permanent and transient reasons.
	// It wraps ErrRefused.
	ErrPooler = errors.New("connection refused by a pooler")
	// ErrEmpty means that the database has no tables yet, and neither Options.Create nor Options.Migrate is set.
	ErrEmpty = errors.New("the database is empty: there is nothing in it yet")
	// ErrNoDatabase means that the SQLite file does not exist and Options.Create is not set.
	ErrNoDatabase = errors.New("no database")
	// ErrSchema means that the schema is newer than this program, or is older and may not be migrated.
	ErrSchema = errors.New("schema version")
	// ErrBehind means that the schema is older than this program, and Options.Migrate is not set.
	ErrBehind = fmt.Errorf("%w: the database is behind", ErrSchema)
)

// Kind is one of the two databases.
type Kind string

// The databases that keyturn runs on.
const (
	SQLite   Kind = "sqlite"
	Postgres Kind = "postgres"
)

// Options say which database to open and what Open may do to it.
type Options struct {
	Source  Source
	Create  bool // make the SQLite file if there is none, and the schema of an empty database
	Migrate bool // bring an older schema up to date
	Schema  Schema
	// Guard runs before anything is written to a database that already has a schema.
	Guard func(context.Context, *DB) error
}

// DB is one open database. It is safe for concurrent use.
type DB struct {
	kind     Kind
	read     *sqlx.DB // SQLite: read-only
	write    *sqlx.DB // SQLite: one connection
	upkeep   *sqlx.DB // for the regular checks of a server, which must not wait behind clients; SQLite: read
	slow     *sqlx.DB // for reports and migrations; SQLite: one of the others
	commits  *commits // of SQLite
	deadline time.Duration
	sessions *sessions // PostgreSQL: what the pools share
	path     string    // SQLite: the file
	schema   Schema
	opened   atomic.Bool // it is in use: from now on, connection errors count as transient
	closed   atomic.Bool
	failing  atomic.Bool                    // the last write failed because the database was unavailable
	takesAt  atomic.Int64                   // when the database last accepted a write, unix nanoseconds
	files    [3]atomic.Pointer[os.FileInfo] // SQLite: the file that was opened, and those beside it
}

// Open opens the database, checks that its schema is the one this program knows and, with o.Migrate, brings an older
// one up to date.
func Open(ctx context.Context, o Options) (*DB, error) {
	db, err := connect(o)
	if err != nil {
		return nil, err
	}
	err = db.prepare(ctx, o)
	db.opened.Store(true)
	if err != nil {
		db.Close()
		if db.kind == SQLite {
			if Unusable(err) {
				err = errors.New(strings.ReplaceAll(err.Error(), ErrUnavailable.Error()+": ", ""))
			}
			err = fmt.Errorf("database %s: %w", db.path, err)
		}
		return nil, err
	}
	return db, nil
}

// prepare refuses an unsuitable database and migrates the schema. Processes that open the same SQLite file take turns:
// switching to WAL, or creating the tables, fails when several processes do it at once.
func (d *DB) prepare(ctx context.Context, o Options) error {
	unlock, err := d.alone(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	e, m := examiner{d}, migrator{d}
	if err := e.examine(ctx); err != nil {
		return err
	}
	if err := m.prepare(ctx, o); err != nil {
		return err
	}
	return e.mayUseTables(ctx)
}

// alone waits until no other process opens an SQLite database in the folder.
func (d *DB) alone(ctx context.Context) (unlock func(), err error) {
	if d.kind != SQLite {
		return func() {}, nil
	}
	return lockFolder(ctx, filepath.Dir(d.path))
}

func connect(o Options) (*DB, error) {
	switch o.Source.kind {
	case SQLite:
		return openSQLite(o.Source.file, o.Create, o.Schema)
	case Postgres:
		return openPostgres(o.Source, o.Schema)
	}
	return nil, errURLKind
}

// StatusOf returns the schema version of a database, also of one that this program cannot use. It changes nothing.
func StatusOf(ctx context.Context, o Options) (SchemaStatus, error) {
	db, err := connect(o)
	if err != nil {
		return SchemaStatus{}, err
	}
	defer db.Close()
	unlock, err := db.alone(ctx)
	if err != nil {
		return SchemaStatus{}, err
	}
	defer unlock()
	return db.SchemaStatus(ctx)
}

// Kind returns which database this is.
func (d *DB) Kind() Kind { return d.kind }

// Close ends all connections.
func (d *DB) Close() error {
	d.closed.Store(true)
	err := errors.Join(d.read.Close(), d.write.Close(), d.upkeep.Close(), d.slow.Close()) // a second Close does nothing
	if d.sessions != nil {
		d.sessions.close()
	}
	return err
}

// Ping checks, through the connection that writes, that the database answers and accepts writes.
func (d *DB) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.deadline)
	defer cancel()
	var readOnly string
	pool := d.write
	if d.kind == Postgres {
		pool = d.upkeep
	}
	err := pool.GetContext(ctx, &readOnly, `SELECT current_setting('transaction_read_only')`)
	if err != nil || readOnly == "off" {
		return d.fault("ping", err)
	}
	d.reconnect()
	return fmt.Errorf("ping: %w: it only reads, as a standby does", ErrUnavailable)
}

// Connections is the state of the pools that serve requests, added up.
type Connections struct {
	Open, InUse, Max int
	Waited           time.Duration // for a connection, since start
}

// Connections returns the state of the pools.
func (d *DB) Connections() (c Connections) {
	for _, pool := range []*sqlx.DB{d.read, d.write} {
		s := pool.Stats()
		c.Open, c.InUse = c.Open+s.OpenConnections, c.InUse+s.InUse
		c.Max, c.Waited = c.Max+s.MaxOpenConnections, c.Waited+s.WaitDuration
	}
	if d.sessions != nil {
		var waited time.Duration
		c.Open, c.InUse, c.Max, waited = d.sessions.stats()
		c.Waited += waited
	}
	return c
}

// Patience is the time limit for everything that one request asks of the database.
func (d *DB) Patience() time.Duration { return d.deadline + d.deadline/5 }

// reconnect closes every connection, those in use on their return to the pool: the role of a PostgreSQL server is only
// checked when a connection opens.
func (d *DB) reconnect() {
	if d.sessions != nil {
		d.sessions.renew()
	}
}

// CheckRole returns ErrUnavailable if PostgreSQL is read-only, as the old primary is after a failover. It then drops
// the connections, which would read stale data.
func (d *DB) CheckRole(ctx context.Context) error {
	if d.kind != Postgres {
		return nil
	}
	return d.Ping(ctx)
}

// fault adds the operation to an error and maps driver errors to those of this package.
func (d *DB) fault(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("%s: %w", op, ErrNotFound)
	case isUnique(err):
		return fmt.Errorf("%s: %w", op, ErrConflict)
	case errors.Is(err, ErrRefused):
		return fmt.Errorf("%s: %w", op, err)
	case err == context.DeadlineExceeded, errors.Is(err, errAllInUse): // still waiting for its turn
		return fmt.Errorf("%s: %w", op, ErrBusy)
	case isUnavailable(err), d.closed.Load(), d.opened.Load() && isSchemaGone(err):
		return fmt.Errorf("%s: %w: %w", op, ErrUnavailable, err)
	default:
		return fmt.Errorf("%s: %w", op, err)
	}
}

// Stale returns the error for an answer from a read-only database, which may be out of date, and drops the connections
// to it.
func (d *DB) Stale(op string) error {
	d.reconnect()
	return fmt.Errorf("%s: %w: it was read where nothing is written", op, ErrUnavailable)
}
