package storagetest

import (
	"bytes"
	"encoding/binary"
	"math"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// When is the moment at which a proxy cuts a connection.
type When string

// The moments, seen from a statement.
const (
	Before When = "before" // the database never sees it
	During When = "during" // the database has it, nobody waits for it
	Lost   When = "lost"   // the database has answered, the answer does not arrive
	After  When = "after"  // the answer has arrived
)

// Proxy is between keyturn and a PostgreSQL, and disturbs connections on request.
type Proxy struct {
	URL    string // of the database, through the proxy
	socket atomic.Pointer[string]
	cut    atomic.Pointer[cut]
	cuts   atomic.Int64
	hole   atomic.Bool
	closed atomic.Bool
	more   atomic.Int64 // connections that it lets through
	delay  atomic.Int64
	denied atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// cut is an order to cut the connection of a statement.
type cut struct {
	text  []byte
	when  When
	times atomic.Int64 // how often
}

// NewProxy starts a proxy to the database on a loopback port. It ends with the test.
func NewProxy(t testing.TB, databaseURL string) *Proxy {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &Proxy{conns: map[net.Conn]bool{}}
	p.aim(u)
	p.LetThrough(math.MaxInt64)
	u.Host = l.Addr().String()
	u.RawQuery = "sslmode=disable"
	p.URL = u.String()
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(client)
		}
	}()
	return p
}

// aim sets where connections go.
func (p *Proxy) aim(database *url.URL) {
	socket := filepath.Join(database.Query().Get("host"), ".s.PGSQL.5432")
	p.socket.Store(&socket)
}

// Turn ends all connections and sends later ones to another server.
func (p *Proxy) Turn(databaseURL string) error {
	u, err := url.Parse(databaseURL)
	if err == nil {
		p.aim(u)
		p.drop()
	}
	return err
}

// Cut cuts the next connections, so many times, over which a statement with the text goes.
func (p *Proxy) Cut(text string, when When, times int) {
	c := &cut{text: []byte(text), when: when}
	c.times.Store(int64(times))
	p.cut.Store(c)
}

// LoseAnswer cuts the next connection over which a statement with the text goes, once the database has run it and
// before its answer is passed on.
func (p *Proxy) LoseAnswer(text string) { p.Cut(text, Lost, 1) }

// Cuts counts the connections that were cut at a statement.
func (p *Proxy) Cuts() int64 { return p.cuts.Load() }

// Hole drops everything in both directions, and leaves connections open: neither side notices.
func (p *Proxy) Hole(on bool) {
	p.hole.Store(on)
	if !on {
		p.drop() // what was swallowed is missing for good
	}
}

// Delay delays everything on its way to the database.
func (p *Proxy) Delay(d time.Duration) { p.delay.Store(int64(d)) }

// Close ends all connections and refuses new ones, until it is reversed.
func (p *Proxy) Close(on bool) {
	p.closed.Store(on)
	p.drop()
}

// LetThrough accepts so many more connections, refuses later ones, and leaves open ones alone.
func (p *Proxy) LetThrough(more int64) { p.more.Store(more) }

// Refused counts the refused connections.
func (p *Proxy) Refused() int64 { return p.denied.Load() }

func (p *Proxy) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *Proxy) track(c net.Conn, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on {
		p.conns[c] = true
	} else {
		delete(p.conns, c)
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	if p.closed.Load() {
		return
	}
	if p.more.Add(-1) < 0 {
		p.denied.Add(1)
		return
	}
	server, err := net.Dial("unix", *p.socket.Load())
	if err != nil {
		return
	}
	defer server.Close()
	p.track(client, true)
	defer p.track(client, false)
	var due atomic.Pointer[cut] // of this connection
	run := statements{}
	var both sync.WaitGroup
	both.Go(func() {
		defer server.Close()
		pump(server, client, func(b []byte) (pass, more bool) {
			time.Sleep(time.Duration(p.delay.Load()))
			c, texts := p.cut.Load(), run.in(b)
			if c == nil || !bytes.Contains(texts, c.text) || c.times.Add(-1) < 0 {
				return !p.hole.Load(), true
			}
			p.cuts.Add(1)
			due.Store(c)
			return c.when != Before, c.when == Lost || c.when == After
		})
	})
	both.Go(func() {
		defer client.Close()
		pump(client, server, func([]byte) (pass, more bool) {
			if c := due.Load(); c != nil {
				return c.when == After, false
			}
			return !p.hole.Load(), true
		})
	})
	both.Wait()
}

// statements are the texts of those that a connection has prepared, by name.
type statements map[string][]byte

// in is the texts of all statements that a client has run by what it sent: by their text alone, or prepared before.
// Preparing one is not running it.
func (s statements) in(sent []byte) (texts []byte) {
	for len(sent) > 5 {
		kind, size := sent[0], 1+int(binary.BigEndian.Uint32(sent[1:]))
		if size < 5 || size > len(sent) {
			return texts // what a client says first has another form
		}
		first, rest, _ := bytes.Cut(sent[5:size], []byte{0})
		second, _, _ := bytes.Cut(rest, []byte{0})
		sent = sent[size:]
		switch {
		case kind == 'Q': // query
			texts = append(texts, first...)
		case kind == 'P' && len(first) == 0: // parse, and bind and execute after it
			texts = append(texts, second...)
		case kind == 'P':
			s[string(first)] = bytes.Clone(second)
		case kind == 'B': // bind, and execute after it
			texts = append(texts, s[string(second)]...)
		}
	}
	return texts
}

// pump copies until either end closes. Of each piece it asks whether it may pass, and whether there may be more.
func pump(to, from net.Conn, ask func([]byte) (pass, more bool)) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			pass, more := ask(buffer[:n])
			if pass {
				if _, err := to.Write(buffer[:n]); err != nil {
					return
				}
			}
			if !more {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
