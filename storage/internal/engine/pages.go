package engine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jmoiron/sqlx"
)

// ErrTooSlow means that a query exceeded its time limit, although the database answers.
var ErrTooSlow = errors.New("the database took too long")

const (
	// PageRows is the size of a page of a list.
	PageRows = 1000
	// SparseRows is how many rows a page examines where only some of them belong to the list.
	SparseRows = 5 * PageRows
	// PageTimeout bounds one page of a list.
	PageTimeout = 60 * time.Second
)

// InPages reads rows page by page and hands each page to do. Each page is a short statement of its own, so that memory
// stays flat and no snapshot stays open. read gets the last row of the previous page, or nil.
func InPages[T any](read func(last *T) ([]T, error), do func([]T) error) error {
	var last *T
	for {
		page, err := read(last)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := do(page); err != nil || len(page) < PageRows {
			return err
		}
		last = &page[len(page)-1]
	}
}

// ReadSlowly reads all rows of a query that may take a while, for people and background work, never for a request. It
// returns ErrTooSlow after span at the latest, whatever the database does.
func ReadSlowly[T any](ctx context.Context, d *DB, span time.Duration, op, query string, args ...any) ([]T, error) {
	bounded, cancel := context.WithTimeout(ctx, span)
	type outcome struct {
		rows []T
		err  error
	}
	done := make(chan outcome, 1)
	go func() { // a driver may wait for the server's answer to its cancellation
		defer cancel()
		rows := []T{}
		err := d.slowly(bounded, span, func(t *sqlx.Tx) error {
			return t.SelectContext(bounded, &rows, query, args...)
		})
		done <- outcome{rows, d.slowFault(bounded, op, span, err)}
	}()
	select {
	case o := <-done:
		return o.rows, o.err
	case <-bounded.Done():
	}
	select {
	case o := <-done: // both were ready
		return o.rows, o.err
	default:
		return nil, d.slowFault(bounded, op, span, bounded.Err())
	}
}

// slowly runs a read in a transaction of its own, with span as its timeouts in PostgreSQL.
func (d *DB) slowly(ctx context.Context, span time.Duration, read func(*sqlx.Tx) error) error {
	pool := d.read
	if d.kind == Postgres {
		pool = d.slow
	}
	t, err := pool.BeginTxx(ctx, &sql.TxOptions{})
	if err != nil {
		return err
	}
	defer t.Rollback()
	if d.kind == Postgres {
		ms := max(span.Milliseconds(), 1) // 0 would be no limit
		timeouts := fmt.Sprintf(`SET LOCAL statement_timeout = %d; SET LOCAL lock_timeout = %d`, ms, ms)
		if _, err := t.ExecContext(ctx, timeouts); err != nil {
			return err
		}
	}
	return read(t)
}

// slowFault is fault, but returns ErrTooSlow for a query that took too long or waited for a lock.
func (d *DB) slowFault(ctx context.Context, op string, span time.Duration, err error) error {
	code, _ := postgresCode(err)
	late := err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded)
	if late || code == "57014" || code == "55P03" {
		return fmt.Errorf("%s: %w: given up after %v", op, ErrTooSlow, span)
	}
	return d.fault(op, err)
}
