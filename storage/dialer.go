package storage

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"net"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// dialer opens connections on which nobody waits longer than patience for the other side. lib/pq alone waits for ever: it answers the end of
// a context by asking the server to cancel, which a server that does not answer does not do.
type dialer struct {
	net.Dialer
	patience time.Duration
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

func (d dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.Dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return impatient{c, d.patience}, nil
}

// impatient is a connection of a dialer.
type impatient struct {
	net.Conn
	patience time.Duration
}

func (c impatient) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.patience)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c impatient) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// connector tells that no connection could be made, for whatever reason of the moment: none of several hosts takes writes, say.
type connector struct {
	*pq.Connector
	opened *atomic.Bool
}

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if code, ok := postgresCode(err); err == nil || !c.opened.Load() && ok && (code[:2] == "28" || code == "3D000") {
		return conn, err // who asks, or for what, is wrong from the start
	}
	return nil, &connectError{err}
}

type connectError struct{ cause error }

func (e *connectError) Error() string { return e.cause.Error() }
func (e *connectError) Unwrap() error { return e.cause }

// pool opens connections as they are needed, at most size. Those that are patient run what people wait for, which is cancelled when they go and
// is not worth preparing.
func (d *DB) pool(patience time.Duration, size int) (*sqlx.DB, error) {
	c, err := pq.NewConnector(d.dsn)
	if err != nil {
		return nil, err
	}
	c.Dialer(dialer{patience: patience})
	var opens driver.Connector = connector{c, &d.opened}
	if patience < migrationTimeout {
		opens = preparing{opens, false}
	}
	db := sqlx.NewDb(sql.OpenDB(opens), "postgres")
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return db, nil
}
