package storage

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
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
	tokens   *coalescer[tokenKey, TokenState]
	clients  *coalescer[string, *Client]
	commits  *commits // of SQLite
	ending   *coalescer[revocation, bool]
	deadline time.Duration
	sessions *sessions // PostgreSQL: what the pools share
	path     string    // SQLite: the file
	auditKey atomic.Pointer[[]byte]
	opened   atomic.Bool // it has been asked something: what is wrong with a connection from now on may pass
	closed   atomic.Bool
	audited  atomic.Int64                   // records that were appended, also by transactions that did not take place
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
	db.tokens = &coalescer[tokenKey, TokenState]{ask: db.tokenStates}
	db.clients = &coalescer[string, *Client]{ask: db.readClients}
	db.ending = &coalescer[revocation, bool]{ask: db.revokeGrants}
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
	if err := d.examine(ctx); err != nil {
		return err
	}
	if err := d.prepareSchema(ctx, o); err != nil {
		return err
	}
	return d.examineTables(ctx)
}

// alone waits until no other process opens an SQLite database in the folder.
func (d *DB) alone(ctx context.Context) (unlock func(), err error) {
	if d.kind != SQLite {
		return func() {}, nil
	}
	return lockFolder(ctx, filepath.Dir(d.path))
}

func connect(o Options) (*DB, error) {
	kind, target, err := parseURL(o.Source.url)
	switch {
	case err != nil:
		return nil, err
	case kind == SQLite:
		return openSQLite(target, o.Create)
	default:
		return openPostgres(target, o.Source.insecure)
	}
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

// Audited counts the audit records that were written since the database was opened, a few of transactions that did not
// take place among them.
func (d *DB) Audited() int64 { return d.audited.Load() }

// Patience is how long all that one request asks of the database may take together.
func (d *DB) Patience() time.Duration { return d.deadline + d.deadline/5 }

// get reads one row into dest. ErrNotFound if there is none.
func (d *DB) get(ctx context.Context, op string, dest any, query string, args ...any) error {
	return d.getFrom(ctx, d.read, op, dest, query, args...)
}

func (d *DB) getFrom(ctx context.Context, pool *sqlx.DB, op string, dest any, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, d.deadline)
	defer cancel()
	return d.fault(op, d.again(ctx, func() error { return pool.GetContext(ctx, dest, query, args...) }))
}

// all reads all rows into dest, a pointer to a slice.
func (d *DB) all(ctx context.Context, op string, dest any, query string, args ...any) error {
	return d.allFrom(ctx, d.read, op, dest, query, args...)
}

func (d *DB) allFrom(ctx context.Context, pool *sqlx.DB, op string, dest any, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, d.deadline)
	defer cancel()
	return d.fault(op, d.again(ctx, func() error { return pool.SelectContext(ctx, dest, query, args...) }))
}

// reportTimeout bounds a query that may read a whole table, for people and for background work: never on the path of a
// request.
const reportTimeout = 60 * time.Second

// report is all for such a query.
func (d *DB) report(ctx context.Context, op string, dest any, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	pool := d.read
	if d.kind == Postgres {
		pool = d.slow
	}
	t, err := pool.BeginTxx(ctx, nil)
	if err != nil {
		return d.fault(op, err)
	}
	defer t.Rollback()
	if d.kind == Postgres {
		if _, err := t.ExecContext(ctx, fmt.Sprintf(`SET LOCAL statement_timeout =
			%d`, reportTimeout.Milliseconds())); err != nil {
			return d.fault(op, err)
		}
	}
	return d.fault(op, t.SelectContext(ctx, dest, query, args...))
}

// runner is where a statement runs.
type runner interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	GetContext(ctx context.Context, dest any, query string, args ...any) error
}

// writing runs one statement that writes. A caller that goes away while it waits for its turn has changed nothing. From
// then on nothing cuts the statement short: a COMMIT that is cancelled while PostgreSQL waits for its standby is
// answered as if it were done. There the connection itself ends the wait (see dialer), without an answer, so that the
// outcome is unknown and never wrong.
func (d *DB) writing(ctx context.Context, run func(context.Context, runner) error) error {
	unhurried := context.WithoutCancel(ctx)
	turn, cancel := context.WithTimeout(ctx, d.deadline)
	defer cancel()
	if d.kind == SQLite {
		return d.commits.do(turn, func(t *sqlx.Tx) error { return run(unhurried, t) })
	}
	return d.lent(turn, func(conn *sqlx.Conn) error { return run(unhurried, conn) })
}

// lent lends a connection to PostgreSQL that writes. The context ends the wait for it, not what is done with it.
func (d *DB) lent(turn context.Context, use func(*sqlx.Conn) error) error {
	return d.again(turn, func() error {
		conn, err := d.write.Connx(turn)
		if err != nil {
			return err
		}
		defer conn.Close()
		return use(conn)
	})
}

// again runs one statement, or one transaction, and again if the database says that it was rolled back and may be
// repeated (serialisation failure, deadlock: at most three times), or that this connection only reads, as after a
// failover (once, on another connection). A connection that was cut may be one that had rested since PostgreSQL was
// restarted: a single statement is sent again on another, twice at most, and must be one that may run twice. A
// transaction is not, once it has begun: whether it was committed is unknown.
func (d *DB) again(ctx context.Context, run func() error) error {
	reconnected := false
	for try := 1; ; try++ {
		err := run()
		switch {
		case isRepeatable(err) && try < 3:
			pause(ctx, time.Duration(mathrand.Int64N(int64(20*time.Millisecond)*int64(try))))
		case isReadOnly(err) && !reconnected:
			reconnected = true
			d.reconnect()
		case errors.Is(err, driver.ErrBadConn) && !errors.Is(err, errBegun) && try < 3 && ctx.Err() == nil:
		default:
			return err
		}
	}
}

func pause(ctx context.Context, span time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(span):
	}
}

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

// change runs one autocommit statement and tells how many rows it changed.
func (d *DB) change(ctx context.Context, op, query string, args ...any) (n int64, err error) {
	err = d.writing(ctx, func(ctx context.Context, r runner) error {
		res, err := r.ExecContext(ctx, query, args...)
		if err == nil {
			n, err = res.RowsAffected()
		}
		return err
	})
	return n, d.wrote(d.fault(op, err))
}

// changeReturning runs one autocommit statement with RETURNING and reads its one row into dest. ErrNotFound if it
// changed nothing.
func (d *DB) changeReturning(ctx context.Context, op string, dest any, query string, args ...any) error {
	return d.wrote(d.fault(op, d.writing(ctx, func(ctx context.Context, r runner) error {
		return r.GetContext(ctx, dest, query, args...)
	})))
}

// tx is one open transaction.
type tx struct {
	*sqlx.Tx
	ctx context.Context
	db  *DB
}

func (t *tx) get(dest any, query string, args ...any) error {
	return t.GetContext(t.ctx, dest, query, args...)
}

func (t *tx) all(dest any, query string, args ...any) error {
	return t.SelectContext(t.ctx, dest, query, args...)
}

// change runs one statement and tells how many rows it changed.
func (t *tx) change(query string, args ...any) (int64, error) {
	res, err := t.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// changeOne is change for a row that must be there: otherwise ErrNotFound.
func (t *tx) changeOne(query string, args ...any) error {
	n, err := t.change(query, args...)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// changeAsRead is change for a row that must be as it was read: otherwise ErrConflict.
func (t *tx) changeAsRead(query string, args ...any) error {
	n, err := t.change(query, args...)
	if err == nil && n == 0 {
		err = ErrConflict
	}
	return err
}

// errBegun marks what went wrong in a transaction that had begun.
var errBegun = errors.New("in a transaction")

// inTx runs f in one transaction, and again when the database asks for it.
func (d *DB) inTx(ctx context.Context, op string, f func(*tx) error) error {
	return d.inLongTx(ctx, op, d.deadline, f)
}

// inLongTx is inTx for what may take longer than an answer.
func (d *DB) inLongTx(ctx context.Context, op string, span time.Duration, f func(*tx) error) error {
	unhurried := context.WithoutCancel(ctx)
	turn, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	in := func(t *sqlx.Tx) error { return f(&tx{Tx: t, ctx: unhurried, db: d}) }
	if d.kind == SQLite {
		run := func(t *sqlx.Tx) error { return apart(t, func() error { return in(t) }) }
		return d.wrote(d.fault(op, d.commits.do(turn, run)))
	}
	return d.wrote(d.fault(op, d.lent(turn, func(conn *sqlx.Conn) error { return transact(unhurried, conn, in) })))
}

// transact runs one transaction on a connection. What has begun and lost its connection is marked by errBegun.
func transact(ctx context.Context, conn *sqlx.Conn, in func(*sqlx.Tx) error) error {
	t, err := conn.BeginTxx(ctx, nil)
	if err != nil {
		return err
	}
	if err = in(t); err != nil {
		t.Rollback()
	} else {
		err = t.Commit()
	}
	if errors.Is(err, driver.ErrBadConn) {
		err = fmt.Errorf("%w: %w", errBegun, err)
	}
	return err
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

// randomID is an id that is never handed out twice: 62 random bits.
func randomID() int64 {
	var b [8]byte
	rand.Read(b[:])
	return int64(binary.BigEndian.Uint64(b[:])&(math.MaxInt64>>1)) | 1
}
