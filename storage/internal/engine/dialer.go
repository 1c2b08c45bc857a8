package engine

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"time"
)

// dialer opens connections that wait for the other side at most as long as patience. lib/pq alone waits forever: when a
// context ends, it asks the server to cancel, which a dead server does not do.
type dialer struct {
	net.Dialer
	patience time.Duration
	last     *atomic.Pointer[impatient] // the newest connection
}

// Dial implements [pq.Dialer].
func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialTimeout implements [pq.Dialer].
func (d dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// DialContext implements [pq.DialerContext].
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
	ahead    []byte       // was read ahead of the caller
	failed   atomic.Bool  // a read or write failed, or took too long
}

// await waits until there is something to read, or span has passed.
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

// Read implements [net.Conn].
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

// Write implements [net.Conn].
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

// hopeless are the connection errors that waiting does not resolve: the request itself is wrong. PgBouncer has 08P01
// for all of them.
var hopeless = []string{"08P01", "22023", "3D000", "42501", "42704"}

// connectFault marks a connection error as transient. It marks it as a refusal if the database was never in use and
// waiting does not help.
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

// connectError is a transient failure to connect.
type connectError struct{ cause error }

func (e *connectError) Error() string { return e.cause.Error() }
func (e *connectError) Unwrap() error { return e.cause }

// refusedError is a permanent failure to connect: ErrRefused, and ErrPooler if it is from PgBouncer.
type refusedError struct{ cause error }

func (e *refusedError) Error() string { return e.cause.Error() }
func (e *refusedError) Unwrap() error { return e.cause }
func (e *refusedError) Is(target error) bool {
	code, _ := postgresCode(e.cause)
	return target == ErrRefused || target == ErrPooler && code == "08P01"
}
