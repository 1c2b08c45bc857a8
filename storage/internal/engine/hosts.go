package engine

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/lib/pq"
)

// headStart is how long a server may take to open a session before the next one is asked as well.
const headStart = 250 * time.Millisecond

// hosts opens sessions at one of the servers that a URL names. It asks the one that answered last first. lib/pq would
// ask them in the order of the URL each time, and wait for a dead one for longer than a request may take.
type hosts struct {
	servers  []server
	random   bool          // load_balance_hosts=random
	setup    string        // applies the settings of a session
	patience time.Duration // of a connection that is being opened
	opened   *atomic.Bool  // the database was in use before
	first    atomic.Int64  // index of the server that answered last
}

// server is one of the hosts.
type server struct {
	name      string // with its port, or the folder of a socket
	connector *pq.Connector
}

// servers returns a connector for each host of a URL.
func (s Source) servers() (all []server, err error) {
	for _, h := range s.hosts() {
		one := s.config
		one.Host, one.Hostaddr, one.Port, one.Multi = h.Host, h.Hostaddr, h.Port, nil
		c, err := pq.NewConnectorConfig(one)
		if err != nil {
			return nil, errURLEncoding
		}
		all = append(all, server{address(h), c})
	}
	return all, nil
}

// address returns the host that a connection goes to, with its port.
func address(h pq.ConfigMultihost) string {
	host := h.Host
	if h.Hostaddr.IsValid() {
		host = h.Hostaddr.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(h.Port)))
}

// attempt is the end of an attempt to open a session.
type attempt struct {
	at      int // index of the server
	session *session
	err     error
}

// connect opens a session and applies its settings. It asks the next server when one fails, or does not answer for a
// moment: the first session counts. If no server grants one, the error says why of each.
func (h *hosts) connect() (*session, error) {
	n := len(h.servers)
	if n == 1 {
		return h.connectTo(h.servers[0])
	}
	first := int(h.first.Load())
	if h.random {
		first = mathrand.IntN(n)
	}
	ended := make(chan attempt, n)
	slow := time.NewTimer(0)
	defer slow.Stop()
	begun, failed := 0, make([]error, n)
	next := func() {
		if begun < n {
			at := (first + begun) % n
			begun++
			slow.Reset(headStart)
			go func() {
				s, err := h.connectTo(h.servers[at])
				ended <- attempt{at, s, err}
			}()
		}
	}
	for over := 0; over < n; {
		select {
		case <-slow.C:
			next()
		case a := <-ended:
			over++
			if a.err == nil {
				h.first.Store(int64(a.at))
				go closeAll(ended, begun-over)
				return a.session, nil
			}
			failed[a.at] = a.err
			next()
		}
	}
	return nil, h.joined(first, failed)
}

// closeAll closes the sessions of n attempts that nobody waits for.
func closeAll(ended <-chan attempt, n int) {
	for range n {
		if a := <-ended; a.err == nil {
			a.session.connection.Close()
		}
	}
}

// joined returns one error, in one line, for those of all servers. Only the error of the server that was asked first
// counts: it is probably the one that accepts writes. It is no permanent refusal while another server may still answer.
func (h *hosts) joined(first int, failed []error) error {
	permanent := true
	all := fmt.Errorf("%s: %w", h.servers[first].name, failed[first])
	for i, err := range failed {
		var refused *refusedError
		permanent = permanent && errors.As(err, &refused)
		if i != first {
			all = fmt.Errorf("%w; %s: %v", all, h.servers[i].name, err)
		}
	}
	if permanent {
		return &refusedError{all}
	}
	return &connectError{all}
}

// connectTo opens a session at one server.
func (h *hosts) connectTo(s server) (*session, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*h.patience)
	defer cancel()
	var wire atomic.Pointer[impatient]
	own := *s.connector
	own.Dialer(dialer{patience: h.patience, last: &wire})
	c, err := own.Connect(ctx)
	if err != nil {
		return nil, connectFault(err, h.opened)
	}
	conn := c.(connection)
	if err := runSetup(ctx, conn, h.setup); err != nil {
		conn.Close()
		return nil, connectFault(err, h.opened)
	}
	prepared := &preparedConn{connection: conn, statements: map[string]statement{}}
	opened := &session{preparedConn: prepared, wire: wire.Load()}
	pq.SetNoticeHandler(conn, opened.hear)
	return opened, nil
}

func runSetup(ctx context.Context, conn connection, query string) error {
	rows, err := conn.QueryContext(context.WithoutCancel(ctx), query, nil)
	if err != nil {
		return err
	}
	values := make([]driver.Value, len(rows.Columns()))
	return errors.Join(rows.Next(values), rows.Close())
}
