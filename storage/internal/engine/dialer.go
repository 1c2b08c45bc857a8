package engine

import (
	"context"
	"database/sql/driver"
	"errors"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
)

// dialer opens connections on which nobody waits longer than patience for the other side. lib/pq alone waits for ever:
// it answers the end of a context by asking the server to cancel, which a server that does not answer does not do.
type dialer struct {
	net.Dialer
	patience time.Duration
	last     *atomic.Pointer[impatient] // the connection that was made last
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
	wire := &impatient{Conn: c}
	wire.patience.Store(int64(d.patience))
	d.last.Store(wire)
	return wire, nil
}

// impatient is a connection of a dialer.
type impatient struct {
	net.Conn
	patience atomic.Int64 // nanoseconds
	ahead    []byte       // was read, and not given on
	failed   atomic.Bool  // something could not be read or written in time, or at all
}

// await waits for something to read, for a while.
func (c *impatient) await(span time.Duration) error {
	if len(c.ahead) > 0 {
		return nil
	}
	if err := c.SetReadDeadline(time.Now().Add(span)); err != nil {
		return err
	}
	var b [1]byte
	n, err := c.Conn.Read(b[:])
	c.ahead = append(c.ahead, b[:n]...)
	if n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	c.failed.Store(true)
	return err
}

func (c *impatient) deadline() time.Time { return time.Now().Add(time.Duration(c.patience.Load())) }

func (c *impatient) Read(b []byte) (int, error) {
	if n := copy(b, c.ahead); n > 0 {
		c.ahead = c.ahead[n:]
		return n, nil
	}
	if err := c.SetReadDeadline(c.deadline()); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(b)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		c.failed.Store(true)
	}
	return n, err
}

func (c *impatient) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(c.deadline()); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		c.failed.Store(true)
	}
	return n, err
}

// connector tells that no connection could be made, for whatever reason of the moment: none of several hosts takes
// writes, say.
type connector struct {
	*pq.Connector
	opened *atomic.Bool
}

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	return conn, connectFault(err, c.opened)
}

// hopeless are the errors of connecting that no waiting mends: what is asked for is wrong. PgBouncer has 08P01 for all
// of them.
var hopeless = []string{"08P01", "22023", "3D000", "42501", "42704"}

// connectFault is an error of connecting as one that passes, unless nothing was ever asked of the database and waiting
// does not help.
func connectFault(err error, opened *atomic.Bool) error {
	if err == nil {
		return nil
	}
	code, ok := postgresCode(err)
	if ok && !opened.Load() && (code[:2] == "28" || slices.Contains(hopeless, code)) {
		return &refusedError{err}
	}
	return &connectError{err}
}

type connectError struct{ cause error }

func (e *connectError) Error() string { return e.cause.Error() }
func (e *connectError) Unwrap() error { return e.cause }

type refusedError struct{ cause error }

func (e *refusedError) Error() string { return e.cause.Error() }
func (e *refusedError) Unwrap() error { return e.cause }
func (e *refusedError) Is(target error) bool {
	code, _ := postgresCode(e.cause)
	return target == ErrRefused || target == ErrPooler && code == "08P01"
}
