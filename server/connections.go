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

// connections is a listener with a limited number of connections. At the limit, a new connection replaces the one that
// has been idle longest. A connection is busy from the last byte of a request to the end of its response, and idle at
// any other time. So a client that sends slowly does not keep others out.
type connections struct {
	net.Listener
	name  string      // public or admin
	limit int         // 0: no limit
	tls   *tls.Config // nil: plaintext
	log   *slog.Logger

	acceptErrors, closedIdle, closedNew atomic.Int64
	failing, full                       seldom

	mu   sync.Mutex
	open int
	idle list.List // of *conn; the one that has been idle longest is first
}

// seldom limits how often a condition is logged. last is the time of the latest log line, in unix nanoseconds.
type seldom struct{ last atomic.Int64 }

// connectionsWarning is the shortest time between two log lines about connections.
const connectionsWarning = 10 * time.Second

// now reports whether to log the condition again.
func (s *seldom) now(at time.Time, every time.Duration) bool {
	last, now := s.last.Load(), at.UnixNano()
	due := last == 0 ||
		now-last >= int64(every) ||
		now < last
	return due && s.last.CompareAndSwap(last, now)
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

// failed counts an error of Accept. net/http tries again, after a growing delay.
func (l *connections) failed(err error) {
	if errors.Is(err, net.ErrClosed) {
		return
	}
	l.acceptErrors.Add(1)
	if l.failing.now(time.Now(), connectionsWarning) {
		l.log.Error("connections cannot be accepted", "event", "accept", "listener", l.name, "error", err.Error())
	}
}

// admit makes room for a new connection, unless all others are busy.
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
	full := longest != nil || !fits
	if full && l.full.now(time.Now(), connectionsWarning) {
		closed := "idle ones are closed"
		if !fits {
			closed = "new ones are closed, because all others are busy"
		}
		l.log.Warn("there are too many connections: "+closed,
			"event", "connections", "listener", l.name, "limit", l.limit)
	}
	return fits
}

// room reports whether a new connection fits, and which one to close for it. l.mu is held.
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

// forget removes a closed connection. l.mu is held.
func (l *connections) forget(c *conn) {
	if c.forgotten {
		return
	}
	c.forgotten = true
	l.open--
	l.busy(c)
}

// busy removes a connection from the idle ones. l.mu is held.
func (l *connections) busy(c *conn) {
	if c.idle != nil {
		l.idle.Remove(c.idle)
		c.idle = nil
	}
}

// conn is one connection. A tlsConn wraps it for TLS.
type conn struct {
	net.Conn // for net/http: raw, or TLS over raw
	raw      net.Conn
	of       *connections
	framing  framing

	idle      *list.Element // nil: busy or closed; of.mu guards it
	forgotten bool          // closed; of.mu guards it
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

// CloseWrite lets net/http end a response while the client still sends.
func (c *conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// self returns the conn inside a tlsConn.
func (c *conn) self() *conn { return c }

type tracked interface{ self() *conn }

// connKey is the context key of the *conn of a request.
type connKey struct{}

func connContext(ctx context.Context, nc net.Conn) context.Context {
	if c, ok := nc.(tracked); ok {
		return context.WithValue(ctx, connKey{}, c.self())
	}
	return ctx
}

// isRead marks the connection as busy: the whole request has been read.
func isRead(r *http.Request) {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.of.busy(c)
}

// connState marks a connection as idle when net/http has finished a request.
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

// ConnectionState makes the TLS handshake. net/http calls it once, before it reads, on the goroutine of the connection.
// net/http itself makes the handshake only for a *tls.Conn.
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
	c.SetDeadline(time.Time{}) // net/http sets its own deadline
	return inner.ConnectionState()
}

// refusePlaintext answers a client that speaks plain HTTP, in the way of net/http.
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
