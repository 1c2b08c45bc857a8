package storage

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/binary"
	"io/fs"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// The errors of this package. Each is found with [errors.Is].
var (
	// ErrNotFound means that the named row does not exist.
	ErrNotFound = engine.ErrNotFound
	// ErrConflict means that the name is taken, or another change came first.
	ErrConflict = engine.ErrConflict
	// ErrUnavailable means that the database does not answer, or the outcome of a statement is unknown. It is safe to
	// try again.
	ErrUnavailable = engine.ErrUnavailable
	// ErrBusy means that a caller waited too long for its turn, because the load exceeds what the database can do. It
	// wraps ErrUnavailable.
	ErrBusy = engine.ErrBusy
	// ErrRefused means that PostgreSQL, or a pooler in front of it, refused the first connection for a permanent
	// reason.
	ErrRefused = engine.ErrRefused
	// ErrPooler means that PgBouncer refused the first connection. It has one code for permanent and transient reasons.
	// It wraps ErrRefused.
	ErrPooler = engine.ErrPooler
	// ErrEmpty means that the database has no tables yet, and neither Options.Create nor Options.Migrate is set.
	ErrEmpty = engine.ErrEmpty
	// ErrNoDatabase means that the SQLite file does not exist and Options.Create is not set.
	ErrNoDatabase = engine.ErrNoDatabase
	// ErrSchema means that the schema is newer than this program, or is older and may not be migrated.
	ErrSchema = engine.ErrSchema
	// ErrBehind means that the schema is older than this program, and Options.Migrate is not set.
	ErrBehind = engine.ErrBehind
	// ErrTooSlow means that a query exceeded its time limit, although the database answers.
	ErrTooSlow = engine.ErrTooSlow
	// ErrReplaced means that the SQLite file is not the one that was opened. It wraps ErrUnavailable: what is written
	// now goes to a file that has no name any more.
	ErrReplaced = engine.ErrReplaced
	// ErrInUse means that another process has the database open.
	ErrInUse = engine.ErrInUse
)

// Unusable reports whether an error means that the SQLite file is damaged, or that this user may not use it.
func Unusable(err error) bool { return engine.Unusable(err) }

// Kind is one of the two databases.
type Kind = engine.Kind

// The databases that keyturn runs on.
const (
	SQLite   = engine.SQLite
	Postgres = engine.Postgres
)

// Options say which database to open and what Open may do to it.
type Options struct {
	Source  Source
	Create  bool // make the SQLite file if there is none, and the schema of an empty database
	Migrate bool // bring an older schema up to date
	// Guard runs before anything is written to a database that already has a schema.
	Guard func(context.Context, *DB) error
}

// engine returns the options of the engine.
func (o Options) engine() engine.Options {
	return engine.Options{
		Source:  o.Source,
		Create:  o.Create,
		Migrate: o.Migrate,
		Schema:  schema,
	}
}

//go:embed schema/*.sql
var schemaFiles embed.FS

// schema is what the engine creates and examines. The fill factor leaves room on each page of grants, so that a refresh
// updates its row in place (HOT update).
var schema = engine.Schema{
	Files:  must(fs.Sub(schemaFiles, "schema")),
	Tables: append(slices.Clone(copiedTables), "leases", "replicas"),
	Tune:   `ALTER TABLE grants SET (fillfactor = 90)`,
}

// must is for errors that only a broken build can have.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// DB is one open database. It is safe for concurrent use.
type DB struct {
	engine    *engine.DB
	tokens    *engine.Coalescer[tokenKey, TokenState]
	clients   *engine.Coalescer[string, *Client]
	ending    *engine.Coalescer[revocation, bool]
	rotations *engine.Coalescer[rotation, rotated]
	auditKey  atomic.Pointer[[]byte]
	audited   atomic.Int64 // appended records, including those of transactions that were rolled back
}

func newDB(e *engine.DB) *DB {
	d := &DB{engine: e}
	d.tokens = engine.NewCoalescer(d.Grants().tokenStates)
	d.rotations = engine.NewPatientCoalescer(d.Grants().rotateAtOnce)
	d.clients = engine.NewCoalescer(d.Clients().read)
	d.ending = engine.NewCoalescer(d.Grants().revokeAtOnce)
	return d
}

// Open opens the database and checks its schema. With o.Migrate it migrates an older schema.
func Open(ctx context.Context, o Options) (*DB, error) {
	var db *DB
	options := o.engine()
	if o.Guard != nil {
		options.Guard = func(ctx context.Context, e *engine.DB) error {
			db = newDB(e)
			return o.Guard(ctx, db)
		}
	}
	e, err := engine.Open(ctx, options)
	if err != nil {
		return nil, err
	}
	if db == nil { // Guard did not run
		db = newDB(e)
	}
	return db, nil
}

// SchemaStatus is the schema version of a database and the newest that this program knows.
type SchemaStatus = engine.SchemaStatus

// StatusOf returns the schema version of a database, also of one that this program cannot use. It changes nothing.
func StatusOf(ctx context.Context, o Options) (SchemaStatus, error) {
	return engine.StatusOf(ctx, o.engine())
}

// SchemaStatus reads the schema version. It changes nothing.
func (d *DB) SchemaStatus(ctx context.Context) (SchemaStatus, error) {
	return d.engine.SchemaStatus(ctx)
}

// CheckSchema returns ErrBehind if migrations are pending.
func (d *DB) CheckSchema(ctx context.Context) error { return d.engine.CheckSchema(ctx) }

// Kind returns which database this is.
func (d *DB) Kind() Kind { return d.engine.Kind() }

// Close ends all connections.
func (d *DB) Close() error { return d.engine.Close() }

// Ping checks, through the connection that writes, that the database answers and accepts writes.
func (d *DB) Ping(ctx context.Context) error { return d.engine.Ping(ctx) }

// CheckRole returns ErrUnavailable if PostgreSQL is read-only, as the old primary is after a failover. It then drops
// the connections, which would read stale data.
func (d *DB) CheckRole(ctx context.Context) error { return d.engine.CheckRole(ctx) }

// Serves returns nil if the database accepts writes. Evidence from the last second is enough; without any, it asks the
// database. After a failed write, it writes a probe: a full disk refuses nothing but writes.
func (d *DB) Serves(ctx context.Context) error {
	return d.engine.Serves(ctx, func(ctx context.Context) error {
		return d.Meta().Set(ctx, "probe", timestampText(time.Now()))
	})
}

// Replaced returns ErrReplaced if the SQLite file, or one that SQLite keeps beside it, is not the one that was opened.
func (d *DB) Replaced() error { return d.engine.Replaced() }

// Connections is the state of the pools that serve requests, added up.
type Connections = engine.Connections

// Connections returns the state of the pools.
func (d *DB) Connections() Connections { return d.engine.Connections() }

// Patience is the time limit for everything that one request asks of the database.
func (d *DB) Patience() time.Duration { return d.engine.Patience() }

// Clock returns the time of the database, by which replicas agree. For SQLite that is the clock of this machine.
func (d *DB) Clock(ctx context.Context) (time.Time, error) { return d.engine.Clock(ctx) }

// tx is one open transaction.
type tx struct {
	*engine.Tx
	db *DB
}

// inTx runs f in a transaction, and repeats it on a serialization failure.
func (d *DB) inTx(ctx context.Context, op string, f func(*tx) error) error {
	return d.engine.InTx(ctx, op, func(t *engine.Tx) error { return f(&tx{t, d}) })
}

// inLongTx is inTx with another time limit.
func (d *DB) inLongTx(ctx context.Context, op string, span time.Duration, f func(*tx) error) error {
	return d.engine.InLongTx(ctx, op, span, func(t *engine.Tx) error { return f(&tx{t, d}) })
}

// randomID returns 62 random bits, which are never used twice.
func randomID() int64 {
	var b [8]byte
	rand.Read(b[:])
	return int64(binary.BigEndian.Uint64(b[:])&(math.MaxInt64>>1)) | 1
}
