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

const (
	// writers, readers and reports are the sizes of the pools of a replica. Eight connections do more work than
	// thirty-two. Readers are separate, so that fast reads do not wait behind commits. Migrations share the pool of
	// reports, and upkeep has one of the same size; both have priority.
	writers = 5
	readers = 3
	reports = 2
)

// openPostgres opens small pools. The timeouts are settings of the session, so that a statement also ends in the
// database soon after keyturn stops waiting for it.
func openPostgres(s Source, schema Schema) (*DB, error) {
	servers, err := s.servers()
	if err != nil {
		return nil, err
	}
	const deadline = 1500 * time.Millisecond
	const patience = deadline + deadline/3 // leaves the server time to cancel
	const most = writers + readers + reports
	db := &DB{kind: Postgres, deadline: deadline, schema: schema}
	db.sessions = &sessions{
		hosts: &hosts{
			servers:  servers,
			random:   s.config.LoadBalanceHosts == pq.LoadBalanceHostsRandom,
			setup:    s.setup(),
			patience: patience,
			opened:   &db.opened,
		},
		room: most,
		most: most,
	}
	db.write = db.pool(lending{patience: patience}, writers)
	db.read = db.pool(lending{patience: patience}, readers)
	db.upkeep = db.pool(lending{patience: patience, plain: true}, reports)
	db.slow = db.pool(lending{patience: migrationTimeout, plain: true}, reports)
	return db, nil
}

// pool returns a pool that leases at most size sessions.
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

// passing are the errors of an unreachable database or a missed deadline. The last two occur when a deadline passes
// between two statements.
var passing = []error{
	driver.ErrBadConn,
	io.EOF,
	io.ErrUnexpectedEOF,
	context.DeadlineExceeded,
	context.Canceled,
	sql.ErrTxDone,
	sql.ErrConnDone,
	errUnreplicated,
}

// isUnavailable reports whether the database cannot answer now. SQLSTATE classes: 08 connection, 25006 read-only (a
// standby), 40 repeat, 53 resources, 55 not in a state to answer, 57 operator, 58 system.
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
		return isReadOnly(err)
	}
	var network net.Error
	return errors.As(err, &network) || slices.ContainsFunc(passing, func(e error) bool { return errors.Is(err, e) })
}

// isSchemaGone reports whether a table, or a right to one, has disappeared since the database was opened: an operator
// is at work on it. SQLite has one code for every statement that it cannot prepare.
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

// RolledBack reports whether PostgreSQL itself refused a statement: then it has changed nothing.
func RolledBack(err error) bool {
	_, ok := postgresCode(err)
	return ok
}

// isReadOnly reports whether the server has become a standby.
func isReadOnly(err error) bool {
	code, ok := postgresCode(err)
	return ok && code == "25006" || errors.Is(err, errStandby)
}

func isUnique(err error) bool {
	if code, ok := sqliteCode(err); ok {
		return sqliteUnique(code)
	}
	code, ok := postgresCode(err)
	return ok && code == "23505"
}

// Clock returns the time of the database, by which replicas agree. For SQLite that is the clock of this machine. The
// answer also shows whether the database accepts writes.
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

// Notify wakes the listeners of the channel, outside of any transaction, in which it would delay every commit. Delivery
// is not guaranteed.
func (d *DB) Notify(ctx context.Context, channel string) {
	if d.kind == Postgres {
		d.Change(ctx, "notify", `SELECT pg_notify($1, '')`, channel)
	}
}
