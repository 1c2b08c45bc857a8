package engine

import (
	"context"
	"database/sql/driver"
	"errors"
)

// maxPrepared bounds the statements that a connection keeps prepared. There are fewer texts than that in this package.
const maxPrepared = 100

// preparing opens connections that prepare a statement with parameters the first time that they run it, and keep it:
// parsing and planning cost a database more than running does.
type preparing struct {
	driver.Connector
	finalize bool // before a connection is closed, as SQLite wants it and PostgreSQL does not
}

func (p preparing) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := p.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &preparedConn{connection: c.(connection), finalize: p.finalize, statements: map[string]statement{}}, nil
}

// connection is what both drivers can do.
type connection interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

type statement interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// preparedConn is one connection.
type preparedConn struct {
	connection
	finalize   bool
	plain      bool // statements are run as they are, and end with their context
	statements map[string]statement
	latest     context.Context // of the statement or transaction that was run last; nil if it does not end with it
}

// unhurried is the context of a statement. With PostgreSQL it is one that does not end: lib/pq would wait for its
// request to cancel, on a connection of its own, longer than for the statement. The connection ends a wait that is too
// long (see dialer).
func (c *preparedConn) unhurried(ctx context.Context) context.Context {
	if c.plain {
		c.latest = ctx
	}
	if c.finalize || c.plain {
		return ctx
	}
	return context.WithoutCancel(ctx)
}

// BeginTx implements [driver.ConnBeginTx].
func (c *preparedConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	if c.plain {
		c.latest = ctx
	}
	return c.connection.BeginTx(ctx, o)
}

// prepared is the statement of a query; nil for one that is better run as it is.
func (c *preparedConn) prepared(ctx context.Context, query string, args []driver.NamedValue) (statement, error) {
	if c.plain {
		return nil, nil
	}
	if s := c.statements[query]; s != nil || len(args) == 0 || len(c.statements) >= maxPrepared {
		return s, nil
	}
	s, err := c.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	c.statements[query] = s.(statement)
	return s.(statement), nil
}

// forget drops a statement that the database does not run any more, because a table has changed under it or because a
// pooler has put another session behind the connection: it did nothing, and is prepared again.
func (c *preparedConn) forget(query string, err error) bool {
	code, ok := postgresCode(err)
	if ok = ok && (code == "0A000" || code == "26000"); ok {
		delete(c.statements, query)
	}
	return ok
}

// QueryContext implements [driver.QueryerContext].
func (c *preparedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	ctx = c.unhurried(ctx)
	s, err := c.prepared(ctx, query, args)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.connection.QueryContext(ctx, query, args)
	}
	rows, err := s.QueryContext(ctx, args)
	if err != nil && c.forget(query, err) {
		return c.connection.QueryContext(ctx, query, args)
	}
	return rows, err
}

// ExecContext implements [driver.ExecerContext].
func (c *preparedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	ctx = c.unhurried(ctx)
	s, err := c.prepared(ctx, query, args)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.connection.ExecContext(ctx, query, args)
	}
	result, err := s.ExecContext(ctx, args)
	if err != nil && c.forget(query, err) {
		return c.connection.ExecContext(ctx, query, args)
	}
	return result, err
}

// CheckNamedValue implements [driver.NamedValueChecker].
func (c *preparedConn) CheckNamedValue(v *driver.NamedValue) error {
	if checker, ok := c.connection.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

// Close implements [driver.Conn].
func (c *preparedConn) Close() error {
	var err error
	if c.finalize {
		for _, s := range c.statements {
			err = errors.Join(err, s.Close())
		}
	}
	return errors.Join(err, c.connection.Close())
}

// Unwrap is the connection of the driver.
func (c *preparedConn) Unwrap() driver.Conn { return c.connection }
