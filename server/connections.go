package server

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// connections is a listener whose connections are bounded. Where there would be too many, the one that has been idle
// longest is closed for the new one. A connection is idle until a whole request has been read from it, and from the end
// of one request until the next has been read: one that sends slowly keeps nobody else out.
type connections struct {
	net.Listener
	name  string      // public or admin
	limit int         // 0: none
	tls   *tls.Config // nil: plaintext
	log   *slog.Logger

	acceptErrors, closedIdle, closedNew atomic.Int64
	failing, full                       seldom

	mu   sync.Mutex
	open int
	idle list.List // of *conn, that which has been idle longest first
}

// seldom is when the log was last told of something that it need not be told each time, in unix nanoseconds.
type seldom struct{ last atomic.Int64 }

// tellEvery is how often the log tells at most that connections fail or are too many.
const tellEvery = 10 * time.Second

// now reports whether it is time to tell again.
func (s *seldom) now(at time.Time, every time.Duration) bool {
	last, now := s.last.Load(), at.UnixNano()
	return (last == 0 || now-last >= int64(every) || now < last) && s.last.CompareAndSwap(last, now)
}

// Accept implements [net.Listener].
func (l *connections) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			l.failed(err)
			return nil, err
		}
		c := &conn{Conn: raw, raw: raw, of: l}
		switch {
		case !l.admit(c):
			raw.Close()
		case l.tls == nil:
			return c, nil
		default:
			c.Conn = tls.Server(raw, l.tls)
			return &tlsConn{c}, nil
		}
	}
}

// failed counts an error of Accept; net/http tries again, a little later each time.
func (l *connections) failed(err error) {
	if errors.Is(err, net.ErrClosed) {
		return
	}
	l.acceptErrors.Add(1)
	if l.failing.now(time.Now(), tellEvery) {
		l.log.Error("connections cannot be accepted", "event", "accept", "listener", l.name, "error", err.Error())
	}
}

// admit makes room for a new connection, unless every other one is busy with a request.
func (l *connections) admit(c *conn) bool {
	l.mu.Lock()
	longest, fits := l.room()
	if fits {
		l.open++
		c.idle = l.idle.PushBack(c)
	}
	l.mu.Unlock()
	if longest != nil {
		longest.raw.Close()
		l.closedIdle.Add(1)
	} else if !fits {
		l.closedNew.Add(1)
	}
	if (longest != nil || !fits) && l.full.now(time.Now(), tellEvery) {
		closed := "those that are idle are closed"
		if !fits {
			closed = "new ones are closed, since all have a request"
		}
		l.log.Warn("there are too many connections: "+closed,
			"event", "connections", "listener", l.name, "limit", l.limit)
	}
	return fits
}

// room tells whether there is room for a connection, and which is to be closed for it.
func (l *connections) room() (longest *conn, fits bool) {
	if l.limit == 0 || l.open < l.limit {
		return nil, true
	}
	first := l.idle.Front()
	if first == nil {
		return nil, false
	}
	longest = first.Value.(*conn)
	l.forget(longest)
	return longest, true
}

// forget is for a connection that is closed.
func (l *connections) forget(c *conn) {
	if c.forgotten {
		return
	}
	c.forgotten = true
	l.open--
	l.busy(c)
}

func (l *connections) busy(c *conn) {
	if c.idle != nil {
		l.idle.Remove(c.idle)
		c.idle = nil
	}
}

// conn is one connection. It is plaintext unless it is part of a tlsConn.
type conn struct {
	net.Conn // that which net/http reads and writes
	raw      net.Conn
	of       *connections
	framing  framing

	idle      *list.Element // nil: it has a request, or is closed
	forgotten bool          // both guarded by of.mu
}

// Read implements [net.Conn].
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.framing.follow(p[:n])
	return n, err
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	c.of.mu.Lock()
	c.of.forget(c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite lets net/http end an answer that a client has to read while it still sends.
func (c *conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// self finds the connection within a tlsConn.
func (c *conn) self() *conn { return c }

type tracked interface{ self() *conn }

// connKey finds the *conn of a request in its context.
type connKey struct{}

func connContext(ctx context.Context, nc net.Conn) context.Context {
	if c, ok := nc.(tracked); ok {
		return context.WithValue(ctx, connKey{}, c.self())
	}
	return ctx
}

// isRead notes that the whole request has been read: from now on until its answer the connection is not idle.
func isRead(r *http.Request) {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.of.busy(c)
}

// connState follows what net/http does with a connection.
func connState(nc net.Conn, state http.ConnState) {
	t, ok := nc.(tracked)
	if !ok {
		return
	}
	c := t.self()
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	switch {
	case c.forgotten || state != http.StateIdle:
	case c.idle == nil:
		c.idle = c.of.idle.PushBack(c)
	default:
		c.of.idle.MoveToBack(c.idle)
	}
}

// tlsConn is a connection over TLS.
type tlsConn struct{ *conn }

// ConnectionState is asked by net/http once, before it reads, on the goroutine of the connection. Since it shakes hands
// by itself only with a connection that it knows as one of crypto/tls, that is done here, within the same time.
func (c *tlsConn) ConnectionState() tls.ConnectionState {
	inner := c.Conn.(*tls.Conn)
	if err := c.SetDeadline(time.Now().Add(headerTimeout)); err != nil {
		return tls.ConnectionState{}
	}
	if err := inner.Handshake(); err != nil {
		refusePlaintext(err)
		c.Close()
		return tls.ConnectionState{}
	}
	c.SetDeadline(time.Time{}) // net/http sets its own
	return inner.ConnectionState()
}

// refusePlaintext answers a client that does not speak TLS but HTTP, as net/http does.
func refusePlaintext(err error) {
	var record tls.RecordHeaderError
	if !errors.As(err, &record) || record.Conn == nil {
		return
	}
	switch string(record.RecordHeader[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		io.WriteString(record.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
	}
}
