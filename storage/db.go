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
	// ErrNotFound says that the row that was named does not exist.
	ErrNotFound = engine.ErrNotFound
	// ErrConflict says that the name is taken, or that somebody else made the change first.
	ErrConflict = engine.ErrConflict
	// ErrUnavailable says that the database could not be asked, or that the outcome of a statement is unknown. Trying
	// again is safe.
	ErrUnavailable = engine.ErrUnavailable
	// ErrBusy says that a caller waited in vain for its turn: more was asked at once than the database can do. It is
	// ErrUnavailable.
	ErrBusy = engine.ErrBusy
	// ErrRefused says that PostgreSQL, or a pooler in front of it, has refused the first connection, for a reason that
	// waiting does not mend.
	ErrRefused = engine.ErrRefused
	// ErrPooler is ErrRefused of PgBouncer, which has one code for all reasons, those among them that pass.
	ErrPooler = engine.ErrPooler
	// ErrNoDatabase says that there is no database yet and that Options.Create was not set.
	ErrNoDatabase = engine.ErrNoDatabase
	// ErrSchema says that the schema is newer than this program, or older and not to be migrated.
	ErrSchema = engine.ErrSchema
	// ErrBehind says that the schema is older than this program, which is not to migrate it: somebody else will.
	ErrBehind = engine.ErrBehind
	// ErrTooSlow says that a query was given up because it took too long, though the database answers.
	ErrTooSlow = engine.ErrTooSlow
	// ErrReplaced says that the file of an SQLite database is not the one that was opened. It is ErrUnavailable: what
	// is written now would be in a file that nobody finds again.
	ErrReplaced = engine.ErrReplaced
	// ErrInUse says that a server has the database open.
	ErrInUse = engine.ErrInUse
)

// Kind is one of the two databases.
type Kind = engine.Kind

// The databases that keyturn runs on.
const (
	SQLite   = engine.SQLite
	Postgres = engine.Postgres
)

// Options say which database to open and what may be done to it.
type Options struct {
	Source  Source
	Create  bool // make the SQLite file if there is none
	Migrate bool // bring an older schema up to date
	// Guard is asked before anything is written to a database that already has a schema.
	Guard func(context.Context, *DB) error
}

// engine is the options as the engine takes them.
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

// schema is what the engine makes and examines. Room on each page of grants lets a refresh rewrite its row in place
// (HOT update).
var schema = engine.Schema{
	Files:  must(fs.Sub(schemaFiles, "schema")),
	Tables: append(slices.Clone(copiedTables), "leases"),
	Tune:   `ALTER TABLE grants SET (fillfactor = 90)`,
}

// must is for what is part of the program.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// DB is one open database. It is safe for concurrent use.
type DB struct {
	engine   *engine.DB
	tokens   *engine.Coalescer[tokenKey, TokenState]
	clients  *engine.Coalescer[string, *Client]
	ending   *engine.Coalescer[revocation, bool]
	auditKey atomic.Pointer[[]byte]
	audited  atomic.Int64 // records that were appended, also by transactions that did not take place
}

func newDB(e *engine.DB) *DB {
	d := &DB{engine: e}
	d.tokens = engine.NewCoalescer(d.Grants().tokenStates)
	d.clients = engine.NewCoalescer(d.Clients().read)
	d.ending = engine.NewCoalescer(d.Grants().revokeAtOnce)
	return d
}

// Open opens the database, checks that its schema is the one this program knows and, with o.Migrate, brings an older
// one up to date.
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
	if db == nil { // there was nothing to guard
		db = newDB(e)
	}
	return db, nil
}

// SchemaStatus tells the version of the schema in the database and the newest that this program knows.
type SchemaStatus = engine.SchemaStatus

// StatusOf tells the version of the schema of a database that need not be one this program can open, and changes
// nothing.
func StatusOf(ctx context.Context, o Options) (SchemaStatus, error) {
	return engine.StatusOf(ctx, o.engine())
}

// SchemaStatus reads the versions and changes nothing.
func (d *DB) SchemaStatus(ctx context.Context) (SchemaStatus, error) {
	return d.engine.SchemaStatus(ctx)
}

// CheckSchema is ErrBehind if migrations are pending of a database that had a schema when it was opened.
func (d *DB) CheckSchema(ctx context.Context) error { return d.engine.CheckSchema(ctx) }

// Kind tells which database this is.
func (d *DB) Kind() Kind { return d.engine.Kind() }

// Close ends all connections.
func (d *DB) Close() error { return d.engine.Close() }

// Ping asks the database whether it answers and takes writes, through the connection that writes.
func (d *DB) Ping(ctx context.Context) error { return d.engine.Ping(ctx) }

// CheckRole tells whether PostgreSQL takes writes here. Connections to one that only reads, as the old primary does
// after a failover, would show what was: they are let go. ErrUnavailable if so.
func (d *DB) CheckRole(ctx context.Context) error { return d.engine.CheckRole(ctx) }

// Serves reports why the database takes no writes; nil if it does. It goes by what the last second has shown. If that
// is nothing, it asks. After a write that failed, only a write that goes through is an answer: a full disk refuses
// nothing else.
func (d *DB) Serves(ctx context.Context) error {
	return d.engine.Serves(ctx, func(ctx context.Context) error {
		return d.Meta().Set(ctx, "probe", timestampText(time.Now()))
	})
}

// Replaced is ErrReplaced if a file of an SQLite database is not the one that was opened, or one that lies beside it
// while it is open.
func (d *DB) Replaced() error { return d.engine.Replaced() }

// Connections is the state of the pools that answer requests, all together.
type Connections = engine.Connections

// Connections tells the state of the pools.
func (d *DB) Connections() Connections { return d.engine.Connections() }

// Patience is how long all that one request asks of the database may take together.
func (d *DB) Patience() time.Duration { return d.engine.Patience() }

// Clock is the time of the database: that of this machine for SQLite. Replicas on one PostgreSQL agree by it. The
// answer also shows whether the database takes writes.
func (d *DB) Clock(ctx context.Context) (time.Time, error) { return d.engine.Clock(ctx) }

// tx is one open transaction.
type tx struct {
	*engine.Tx
	db *DB
}

// inTx runs f in one transaction, and again when the database asks for it.
func (d *DB) inTx(ctx context.Context, op string, f func(*tx) error) error {
	return d.engine.InTx(ctx, op, func(t *engine.Tx) error { return f(&tx{t, d}) })
}

// inLongTx is inTx for what may take longer than an answer.
func (d *DB) inLongTx(ctx context.Context, op string, span time.Duration, f func(*tx) error) error {
	return d.engine.InLongTx(ctx, op, span, func(t *engine.Tx) error { return f(&tx{t, d}) })
}

// randomID is an id that is never handed out twice: 62 random bits.
func randomID() int64 {
	var b [8]byte
	rand.Read(b[:])
	return int64(binary.BigEndian.Uint64(b[:])&(math.MaxInt64>>1)) | 1
}
