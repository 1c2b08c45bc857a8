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

// reportTimeout bounds a query that may read a whole table, for people and for background work: never on the path of a
// request.
const reportTimeout = 60 * time.Second

// Report is all for such a query.
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

// ReadOn lends a connection that reads, and again as for a single statement. use bounds itself; the context ends only
// the wait for the connection.
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

// GetForUpkeep is Get for what a server must know of itself, whatever its clients ask for.
func (d *DB) GetForUpkeep(ctx context.Context, op string, dest any, query string, args ...any) error {
	return d.getFrom(ctx, d.upkeep, op, dest, query, args...)
}

// AllForUpkeep is All for what a server must know of itself, whatever its clients ask for.
func (d *DB) AllForUpkeep(ctx context.Context, op string, dest any, query string, args ...any) error {
	return d.allFrom(ctx, d.upkeep, op, dest, query, args...)
}

func pause(ctx context.Context, span time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(span):
	}
}

// Change runs one autocommit statement and tells how many rows it changed.
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

// Change runs one statement and tells how many rows it changed.
func (t *Tx) Change(query string, args ...any) (int64, error) {
	res, err := t.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// ChangeOne is change for a row that must be there: otherwise ErrNotFound.
func (t *Tx) ChangeOne(query string, args ...any) error {
	n, err := t.Change(query, args...)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// ChangeAsRead is change for a row that must be as it was read: otherwise ErrConflict.
func (t *Tx) ChangeAsRead(query string, args ...any) error {
	n, err := t.Change(query, args...)
	if err == nil && n == 0 {
		err = ErrConflict
	}
	return err
}

// errBegun marks what went wrong in a transaction that had begun.
var errBegun = errors.New("in a transaction")

// InTx runs f in one transaction, and again when the database asks for it.
func (d *DB) InTx(ctx context.Context, op string, f func(*Tx) error) error {
	return d.InLongTx(ctx, op, d.deadline, f)
}

// InLongTx is inTx for what may take longer than an answer.
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
