package engine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
)

var (
	// ErrNotFound says that the row that was named does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict says that the name is taken, or that somebody else made the change first.
	ErrConflict = errors.New("conflict")
	// ErrUnavailable says that the database could not be asked, or that the outcome of a statement is unknown. Trying
	// again is safe.
	ErrUnavailable = errors.New("database unavailable")
	// ErrBusy says that a caller waited in vain for its turn: more was asked at once than the database can do. It is
	// ErrUnavailable.
	ErrBusy = fmt.Errorf("%w: too much is asked of it at once", ErrUnavailable)
	// ErrRefused says that PostgreSQL, or a pooler in front of it, has refused the first connection, for a reason that
	// waiting does not mend.
	ErrRefused = errors.New("connection refused")
	// ErrPooler is ErrRefused of PgBouncer, which has one code for all reasons, those among them that pass.
	ErrPooler = errors.New("connection refused by a pooler")
	// ErrNoDatabase says that there is no database yet and that Options.Create was not set.
	ErrNoDatabase = errors.New("no database")
	// ErrSchema says that the schema is newer than this program, or older and not to be migrated.
	ErrSchema = errors.New("schema version")
	// ErrBehind says that the schema is older than this program, which is not to migrate it: somebody else will.
	ErrBehind = fmt.Errorf("%w: the database is behind", ErrSchema)
)

// Kind is one of the two databases.
type Kind string

// The databases that keyturn runs on.
const (
	SQLite   Kind = "sqlite"
	Postgres Kind = "postgres"
)

// Options say which database to open and what may be done to it.
type Options struct {
	Source  Source
	Create  bool // make the SQLite file if there is none
	Migrate bool // bring an older schema up to date
	Schema  Schema
	// Guard is asked before anything is written to a database that already has a schema.
	Guard func(context.Context, *DB) error
}

// DB is one open database. It is safe for concurrent use.
type DB struct {
	kind     Kind
	read     *sqlx.DB // SQLite: read-only
	write    *sqlx.DB // SQLite: one connection
	upkeep   *sqlx.DB // for what a server must know of itself each second, whatever its clients ask for; SQLite: read
	slow     *sqlx.DB // for reports and migrations; SQLite: one of the others
	commits  *commits // of SQLite
	deadline time.Duration
	sessions *sessions // PostgreSQL: what the pools share
	path     string    // SQLite: the file
	schema   Schema
	opened   atomic.Bool // it has been asked something: what is wrong with a connection from now on may pass
	closed   atomic.Bool
	failing  atomic.Bool                    // the last write failed for want of a database
	takesAt  atomic.Int64                   // when the database last showed that it takes writes, unix nanoseconds
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
			err = fmt.Errorf("database %s: %w", db.path, err)
		}
		return nil, err
	}
	return db, nil
}

// prepare refuses a database that does not do and brings its schema up to date. One process at a time does so with an
// SQLite file: several that switch it to WAL, or make its tables, at once would fail.
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

// MigrateTo makes a database, or brings an older one, to a version of its schema, and does nothing else.
func MigrateTo(ctx context.Context, o Options, version int64) error {
	db, err := connect(o)
	if err != nil {
		return err
	}
	defer db.Close()
	p, err := migrator{db}.migrations()
	if err == nil {
		_, err = p.UpTo(ctx, version)
	}
	return err
}

// StatusOf tells the version of the schema of a database that need not be one this program can open, and changes
// nothing.
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

// Kind tells which database this is.
func (d *DB) Kind() Kind { return d.kind }

// Close ends all connections.
func (d *DB) Close() error {
	d.closed.Store(true)
	err := errors.Join(d.read.Close(), d.write.Close(), d.upkeep.Close(), d.slow.Close()) // closing twice does nothing
	if d.sessions != nil {
		d.sessions.close()
	}
	return err
}

// Ping asks the database whether it answers and takes writes, through the connection that writes.
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

// Connections is the state of the pools that answer requests, all together.
type Connections struct {
	Open, InUse, Max int
	Waited           time.Duration // for a connection, since the start
}

// Connections tells the state of the pools.
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

// Patience is how long all that one request asks of the database may take together.
func (d *DB) Patience() time.Duration { return d.deadline + d.deadline/5 }

// reconnect lets go of every connection, those in use when they come back: a role is asked of PostgreSQL only when one
// is opened.
func (d *DB) reconnect() {
	if d.sessions != nil {
		d.sessions.renew()
	}
}

// CheckRole tells whether PostgreSQL takes writes here. Connections to one that only reads, as the old primary does
// after a failover, would show what was: they are let go. ErrUnavailable if so.
func (d *DB) CheckRole(ctx context.Context) error {
	if d.kind != Postgres {
		return nil
	}
	return d.Ping(ctx)
}

// fault names the operation and tells the errors of this package from those of the driver.
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
	case err == context.DeadlineExceeded, errors.Is(err, errAllInUse): // it waited for its turn
		return fmt.Errorf("%s: %w", op, ErrBusy)
	case isUnavailable(err), d.closed.Load(), d.opened.Load() && isSchemaGone(err):
		return fmt.Errorf("%s: %w: %w", op, ErrUnavailable, err)
	default:
		return fmt.Errorf("%s: %w", op, err)
	}
}

// Stale is the error of an answer from a database that takes no writes: it shows what was. Such connections are let go.
func (d *DB) Stale(op string) error {
	d.reconnect()
	return fmt.Errorf("%s: %w: it was read where nothing is written", op, ErrUnavailable)
}
