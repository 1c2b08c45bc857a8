package engine

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
)

// maxPrepared bounds the prepared statements of a connection. Package storage has fewer texts than that.
const maxPrepared = 100

// preparing opens connections that prepare each statement with parameters on first use, and keep it: parsing and
// planning cost more than running.
type preparing struct {
	driver.Connector
	finalize bool // close statements before the connection, as SQLite requires
}

// Connect implements [driver.Connector].
func (p preparing) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := p.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &preparedConn{connection: c.(connection), finalize: p.finalize, statements: map[string]statement{}}, nil
}

// connection is what both drivers implement.
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
	plain      bool // run statements unprepared, and end them with their context
	statements map[string]statement
	latest     context.Context // of the last statement or transaction, if it ends with its context
}

// unhurried returns the context of a statement. With PostgreSQL it never ends: lib/pq would wait for its cancel
// request, on another connection, for longer than for the statement. The connection itself ends a wait that is too long
// (see dialer).
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
	t, err := c.connection.BeginTx(ctx, o)
	return t, beginFault(err)
}

// errStandby means that the server of a session has become a standby.
var errStandby = errors.New("the server has become a standby")

// beginFault marks the error of a standby. PostgreSQL has the code of an unsupported feature for it.
func beginFault(err error) error {
	if code, _ := postgresCode(err); code == "0A000" {
		return fmt.Errorf("%w: %w", errStandby, err)
	}
	return err
}

// prepared returns the prepared statement of a query; nil if the query should run unprepared.
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

// forget drops a statement that the database no longer runs, because its table has changed or a pooler has switched
// sessions. The statement has done nothing, and is prepared again.
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

// Unwrap returns the connection of the driver.
func (c *preparedConn) Unwrap() driver.Conn { return c.connection }
