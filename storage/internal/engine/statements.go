package engine

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/jmoiron/sqlx"
)

// Get reads one row into dest. ErrNotFound if there is none.
func (d *DB) Get(ctx context.Context, op string, dest any, query string, args ...any) error {
	return d.getFrom(ctx, d.read, op, dest, query, args...)
}

func (d *DB) getFrom(ctx context.Context, pool *sqlx.DB, op string, dest any, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, d.deadline)
	defer cancel()
	return d.fault(op, d.again(ctx, func() error { return pool.GetContext(ctx, dest, query, args...) }))
}

// All reads all rows into dest, a pointer to a slice.
func (d *DB) All(ctx context.Context, op string, dest any, query string, args ...any) error {
	return d.allFrom(ctx, d.read, op, dest, query, args...)
}

func (d *DB) allFrom(ctx context.Context, pool *sqlx.DB, op string, dest any, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, d.deadline)
	defer cancel()
	return d.fault(op, d.again(ctx, func() error { return pool.SelectContext(ctx, dest, query, args...) }))
}

// reportTimeout bounds a query that may read a whole table, for people and background work, never for a request.
const reportTimeout = 60 * time.Second

// Report is All for a query that may read a whole table.
func (d *DB) Report(ctx context.Context, op string, dest any, query string, args ...any) error {
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

// runner runs statements: a connection or a transaction.
type runner interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	GetContext(ctx context.Context, dest any, query string, args ...any) error
	SelectContext(ctx context.Context, dest any, query string, args ...any) error
}

// writing runs one statement that writes. A caller that leaves before its turn has changed nothing. Once the statement
// runs, no context cancels it: PostgreSQL answers a COMMIT that is cancelled while it waits for its standby as if it
// were done. The connection itself ends a wait that is too long (see dialer), without an answer: the outcome is then
// unknown, but never wrong.
func (d *DB) writing(ctx context.Context, run func(context.Context, runner) error) error {
	unhurried := context.WithoutCancel(ctx)
	turn, cancel := context.WithTimeout(ctx, d.deadline)
	defer cancel()
	if d.kind == SQLite {
		return d.commits.do(turn, func(t *sqlx.Tx) error { return run(unhurried, t) })
	}
	return d.lent(turn, func(conn *sqlx.Conn) error { return run(unhurried, conn) })
}

// lent lends a PostgreSQL connection that writes. The context bounds the wait for the connection, not its use.
func (d *DB) lent(turn context.Context, use func(*sqlx.Conn) error) error {
	return d.again(turn, func() error {
		conn, err := d.write.Connx(turn)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := use(conn); err != nil {
			return err
		}
		return conn.Raw(replicated)
	})
}

// errUnreplicated means that somebody cancelled the wait of a commit for the standby. PostgreSQL then answers as if the
// commit were done, but a failover may lose it.
var errUnreplicated = errors.New("a commit did not wait for its standby: its outcome is unknown")

// replicated returns errUnreplicated if PostgreSQL has warned so on a leased connection.
func replicated(leasedConn any) error {
	if leasedConn.(*leased).session.unreplicated.Load() {
		return errUnreplicated
	}
	return nil
}

// again runs a statement or transaction, and repeats it where that is safe: up to twice after a serialization failure
// or deadlock, and once, on another connection, after a failover has made the server read-only. A cut connection may
// have been idle since a restart of PostgreSQL: a single statement, which must be repeatable, is sent again up to
// twice. A transaction that has begun is not: its outcome is unknown.
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

// ReadOn lends a connection that reads, and repeats use like a single statement. The context bounds the wait for the
// connection only.
func (d *DB) ReadOn(ctx context.Context, op string, use func(*sqlx.Conn) error) error {
	bounded, cancel := context.WithTimeout(ctx, d.deadline)
	defer cancel()
	return d.fault(op, d.again(bounded, func() error {
		conn, err := d.read.Connx(bounded)
		if err != nil {
			return err
		}
		defer conn.Close()
		return use(conn)
	}))
}

// GetForUpkeep is Get for the regular checks of a server, which do not wait behind clients.
func (d *DB) GetForUpkeep(ctx context.Context, op string, dest any, query string, args ...any) error {
	return d.getFrom(ctx, d.upkeep, op, dest, query, args...)
}

// AllForUpkeep is All for the regular checks of a server, which do not wait behind clients.
func (d *DB) AllForUpkeep(ctx context.Context, op string, dest any, query string, args ...any) error {
	return d.allFrom(ctx, d.upkeep, op, dest, query, args...)
}

func pause(ctx context.Context, span time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(span):
	}
}

// Change runs one autocommit statement and returns how many rows it changed.
func (d *DB) Change(ctx context.Context, op, query string, args ...any) (n int64, err error) {
	err = d.writing(ctx, func(ctx context.Context, r runner) error {
		res, err := r.ExecContext(ctx, query, args...)
		if err == nil {
			n, err = res.RowsAffected()
		}
		return err
	})
	return n, d.wrote(d.fault(op, err))
}

// ChangeReturning runs one autocommit statement with RETURNING and reads its one row into dest. ErrNotFound if it
// changed nothing.
func (d *DB) ChangeReturning(ctx context.Context, op string, dest any, query string, args ...any) error {
	return d.wrote(d.fault(op, d.writing(ctx, func(ctx context.Context, r runner) error {
		return r.GetContext(ctx, dest, query, args...)
	})))
}

// ChangeReturningAll is ChangeReturning for any number of rows. dest points to a slice.
func (d *DB) ChangeReturningAll(ctx context.Context, op string, dest any, query string, args ...any) error {
	return d.wrote(d.fault(op, d.writing(ctx, func(ctx context.Context, r runner) error {
		return r.SelectContext(ctx, dest, query, args...)
	})))
}

// Tx is one open transaction.
type Tx struct {
	*sqlx.Tx
	ctx context.Context
}

// Get reads one row into dest.
func (t *Tx) Get(dest any, query string, args ...any) error {
	return t.GetContext(t.ctx, dest, query, args...)
}

// All reads all rows into dest, a pointer to a slice.
func (t *Tx) All(dest any, query string, args ...any) error {
	return t.SelectContext(t.ctx, dest, query, args...)
}

// Change runs one statement and returns how many rows it changed.
func (t *Tx) Change(query string, args ...any) (int64, error) {
	res, err := t.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// ChangeOne is Change for a row that must exist: otherwise ErrNotFound.
func (t *Tx) ChangeOne(query string, args ...any) error {
	n, err := t.Change(query, args...)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// ChangeAsRead is Change for a row that must still be as it was read: otherwise ErrConflict.
func (t *Tx) ChangeAsRead(query string, args ...any) error {
	n, err := t.Change(query, args...)
	if err == nil && n == 0 {
		err = ErrConflict
	}
	return err
}

// errBegun marks an error of a transaction that had begun.
var errBegun = errors.New("in a transaction")

// InTx runs f in a transaction, and repeats it where that is safe.
func (d *DB) InTx(ctx context.Context, op string, f func(*Tx) error) error {
	return d.InLongTx(ctx, op, d.deadline, f)
}

// InLongTx is InTx with another time limit.
func (d *DB) InLongTx(ctx context.Context, op string, span time.Duration, f func(*Tx) error) error {
	unhurried := context.WithoutCancel(ctx)
	turn, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	in := func(t *sqlx.Tx) error { return f(&Tx{Tx: t, ctx: unhurried}) }
	if d.kind == SQLite {
		run := func(t *sqlx.Tx) error { return apart(t, func() error { return in(t) }) }
		return d.wrote(d.fault(op, d.commits.do(turn, run)))
	}
	return d.wrote(d.fault(op, d.lent(turn, func(conn *sqlx.Conn) error { return transact(unhurried, conn, in) })))
}

// transact runs one transaction on a connection. It marks the loss of the connection with errBegun.
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
