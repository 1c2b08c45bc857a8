package engine

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"slices"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
	sqlite3 "modernc.org/sqlite/lib"
)

// How many connections a replica keeps: about eight do more than thirty-two. Those that read are counted apart, so
// that what is quick does not wait behind commits. Reports and migrations have two at most, and so has upkeep. Both go
// first.
const (
	writers = 5
	readers = 3
	reports = 2
)

// openPostgres opens small pools. Timeouts are those of the session, so a statement ends in the database as well, soon
// after keyturn has stopped waiting for it.
func openPostgres(s Source, schema Schema) (*DB, error) {
	c, err := pq.NewConnectorConfig(s.config)
	if err != nil {
		return nil, errURLEncoding
	}
	const deadline = 1500 * time.Millisecond
	const patience = deadline + deadline/3 // by then the server has had the time to cancel
	const most = writers + readers + reports
	db := &DB{kind: Postgres, deadline: deadline, schema: schema}
	db.sessions = &sessions{
		connector: c,
		setup:     s.setup(),
		patience:  patience,
		opened:    &db.opened,
		room:      most,
		most:      most,
	}
	db.write = db.pool(lending{patience: patience}, writers)
	db.read = db.pool(lending{patience: patience}, readers)
	db.upkeep = db.pool(lending{patience: patience, plain: true}, reports)
	db.slow = db.pool(lending{patience: migrationTimeout, plain: true}, reports)
	return db, nil
}

// pool lends the sessions, at most size at a time.
func (d *DB) pool(l lending, size int) *sqlx.DB {
	l.sessions = d.sessions
	pool := sqlx.NewDb(sql.OpenDB(&l), "postgres")
	pool.SetMaxOpenConns(size)
	pool.SetMaxIdleConns(-1) // none: they rest where every pool finds them
	return pool
}

func postgresCode(err error) (code string, ok bool) {
	var e *pq.Error
	if !errors.As(err, &e) {
		return "", false
	}
	return string(e.Code), true
}

// passing are the errors of a database that is away, or of a deadline that has passed. The last two come of one that
// passes between two statements.
var passing = []error{
	driver.ErrBadConn,
	io.EOF,
	io.ErrUnexpectedEOF,
	context.DeadlineExceeded,
	context.Canceled,
	sql.ErrTxDone,
	sql.ErrConnDone,
}

// isUnavailable tells a database that cannot answer now from one that was asked something wrong. SQLSTATE classes: 08
// connection, 25006 read-only (a standby), 40 repeat, 53 resources, 55 not in a state to answer, 57 operator, 58
// system.
func isUnavailable(err error) bool {
	if code, ok := sqliteCode(err); ok {
		return sqliteUnavailable(code)
	}
	var connecting *connectError
	if errors.As(err, &connecting) {
		return true
	}
	if code, ok := postgresCode(err); ok {
		switch code[:2] {
		case "08", "40", "53", "55", "57", "58":
			return true
		}
		return code == "25006"
	}
	var network net.Error
	return errors.As(err, &network) || slices.ContainsFunc(passing, func(e error) bool { return errors.Is(err, e) })
}

// isSchemaGone tells of tables, or rights to them, that were there when the database was opened: somebody is at work on
// it. SQLite has one code for every statement that it cannot prepare.
func isSchemaGone(err error) bool {
	if code, ok := sqliteCode(err); ok {
		return code == sqlite3.SQLITE_ERROR
	}
	switch code, _ := postgresCode(err); code {
	case "3D000", "3F000", "42501", "42703", "42704", "42883", "42P01":
		return true
	}
	return false
}

func isRepeatable(err error) bool {
	code, ok := postgresCode(err)
	return ok && (code == "40001" || code == "40P01")
}

// isReadOnly tells of a connection to a server that has become a standby.
func isReadOnly(err error) bool {
	code, ok := postgresCode(err)
	return ok && code == "25006"
}

func isUnique(err error) bool {
	if code, ok := sqliteCode(err); ok {
		return sqliteUnique(code)
	}
	code, ok := postgresCode(err)
	return ok && code == "23505"
}

// Clock is the time of the database: that of this machine for SQLite. Replicas on one PostgreSQL agree by it. The
// answer also shows whether the database takes writes.
func (d *DB) Clock(ctx context.Context) (time.Time, error) {
	if d.kind != Postgres {
		return time.Now(), nil
	}
	var answer struct {
		At       int64  `db:"at"` // unix milliseconds
		ReadOnly string `db:"read_only"`
	}
	err := d.getFrom(ctx, d.upkeep, "clock", &answer, `SELECT current_setting('transaction_read_only') AS read_only,
		CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS at`)
	if err == nil && answer.ReadOnly == "off" {
		d.takesAt.Store(time.Now().UnixNano())
	}
	if err != nil {
		return time.Time{}, err
	}
	return time.UnixMilli(answer.At).UTC(), nil
}

// Notify wakes those who listen to the channel, outside of any transaction: in one it would hold up every commit.
// Nobody relies on it.
func (d *DB) Notify(ctx context.Context, channel string) {
	if d.kind == Postgres {
		d.Change(ctx, "notify", `SELECT pg_notify($1, '')`, channel)
	}
}
