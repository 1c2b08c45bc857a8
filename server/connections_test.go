package server

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage/storagetest"
)

// limited is a server on a listener with few connections.
type limited struct {
	*connections
	address string
	log     *Buffer
}

func serveLimited(t *testing.T, limit int, h http.Handler, config *tls.Config) *limited {
	t.Helper()
	inner := Must(net.Listen("tcp", "127.0.0.1:0"))
	l := &limited{address: inner.Addr().String(), log: &Buffer{}}
	l.connections = &connections{
		Listener: inner,
		name:     "public",
		limit:    limit,
		tls:      config,
		log:      slog.New(slog.NewJSONHandler(l.log, nil)),
	}
	server := httpServer(h)
	go server.Serve(l.connections)
	t.Cleanup(func() { server.Close() })
	return l
}

// counts waits until so many connections are open, and so many of them idle.
func (l *limited) counts(t *testing.T, open, idle int) {
	t.Helper()
	waitUntil(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.open == open && l.idle.Len() == idle
	})
}

// client is one connection of a client.
type client struct {
	t *testing.T
	net.Conn
	*bufio.Reader
}

func dial(t *testing.T, address string) *client {
	t.Helper()
	conn := Must(net.Dial("tcp", address))
	t.Cleanup(func() { conn.Close() })
	Must(0, conn.SetDeadline(time.Now().Add(20*time.Second)))
	return &client{t, conn, bufio.NewReader(conn)}
}

func (c *client) send(text string) { c.Conn.Write([]byte(text)) }

// answered sends a request and reports whether an answer comes.
func (c *client) answered() bool {
	c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	return c.answers()
}

func (c *client) answers() bool {
	c.t.Helper()
	res, err := http.ReadResponse(c.Reader, nil)
	if isTimeout(err) {
		c.t.Error("neither an answer nor an end")
	}
	if err != nil {
		return false
	}
	io.Copy(io.Discard, res.Body)
	return true
}

// ended waits for the end of the connection.
func (c *client) ended() bool {
	_, err := c.ReadByte()
	return err != nil && !isTimeout(err)
}

var okHandler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { isRead(r) })

// Where there are too many connections, the one that has been idle longest ends, whether it has sent a request or
// nothing, or half a request.
func TestLongestIdleConnectionEnds(t *testing.T) {
	t.Parallel()
	l := serveLimited(t, 3, okHandler, nil)
	silent := dial(t, l.address)
	l.counts(t, 1, 1)
	half := dial(t, l.address)
	half.send("GET / HTT")
	l.counts(t, 2, 2)
	used := dial(t, l.address)
	if !used.answered() {
		t.Fatal("no answer")
	}
	l.counts(t, 3, 3)
	for i, longest := range []*client{silent, half, used} {
		if !dial(t, l.address).answered() || !longest.ended() {
			t.Errorf("%d: not the one that has been idle longest", i)
		}
		l.counts(t, 3, 3)
	}
	if l.closedIdle.Load() != 3 || l.closedNew.Load() != 0 {
		t.Errorf("%d idle, %d new ones were closed", l.closedIdle.Load(), l.closedNew.Load())
	}
	if got := strings.Count(l.log.String(), `"event":"connections"`); got != 1 {
		t.Errorf("%d lines: %s", got, l.log.String())
	}
}

// A connection that has just been used is not the first to end.
func TestUseKeepsAConnection(t *testing.T) {
	t.Parallel()
	l := serveLimited(t, 2, okHandler, nil)
	first := dial(t, l.address)
	l.counts(t, 1, 1)
	second := dial(t, l.address)
	l.counts(t, 2, 2)
	if !first.answered() {
		t.Fatal("no answer")
	}
	l.counts(t, 2, 2)
	dial(t, l.address)
	if !second.ended() || !first.answered() {
		t.Error("the one that was used has ended")
	}
}

// Connections with a request are left alone; a new one ends when there are no others. When they are done there is room
// again.
func TestBusyConnectionsAreLeftAlone(t *testing.T) {
	t.Parallel()
	leave := make(chan struct{})
	var served atomic.Int64
	l := serveLimited(t, 2, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		isRead(r)
		served.Add(1)
		<-leave
	}), nil)
	var busy []*client
	for i := range 2 {
		c := dial(t, l.address)
		c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		busy = append(busy, c)
		waitUntil(t, func() bool { return served.Load() == int64(i+1) })
	}
	if !dial(t, l.address).ended() {
		t.Error("a new one is served")
	}
	if l.closedNew.Load() != 1 || l.closedIdle.Load() != 0 {
		t.Errorf("%d idle, %d new ones were closed", l.closedIdle.Load(), l.closedNew.Load())
	}
	close(leave)
	for _, c := range busy {
		if !c.answers() {
			t.Error("one with a request has ended")
		}
	}
	l.counts(t, 2, 2)
	if !dial(t, l.address).answered() {
		t.Error("there is no room again")
	}
	for _, c := range busy {
		c.Close()
	}
}

// Connections that end leave their place.
func TestEndedConnectionsLeaveTheirPlace(t *testing.T) {
	t.Parallel()
	l := serveLimited(t, 4, okHandler, nil)
	for range 20 {
		c := dial(t, l.address)
		if !c.answered() {
			t.Fatal("no answer")
		}
		c.Close()
		l.counts(t, 0, 0)
	}
	if l.closedIdle.Load()+l.closedNew.Load() != 0 {
		t.Error("connections were closed")
	}
}

// failing is a listener without descriptors for a while.
type failing struct {
	net.Listener
	left atomic.Int64
}

func (f *failing) Accept() (net.Conn, error) {
	if f.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return f.Listener.Accept()
}

// Without descriptors the listener waits for some, counts, and says so once in a while.
func TestAcceptErrors(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		log := &Buffer{}
		c := ConfigFor(databaseURL)
		if strings.HasPrefix(databaseURL, "postgres") {
			c.MasterKeyFile = MasterFile(t)
		}
		s := Must(OpenServer(ctx, c, Options{Log: slog.New(slog.NewJSONHandler(log, nil))}))
		defer s.Close()
		public := &failing{Listener: Must(net.Listen("tcp", "127.0.0.1:0"))}
		public.left.Store(4)
		l := Listeners{Public: public, Admin: Must(net.Listen("tcp", "127.0.0.1:0"))}
		f := Must(newListeners(c, l, s.log, s.PublicHandler(), s.AdminHandler()))
		s.listeners.Store(f)
		defer f.stop(time.Second, slog.New(slog.DiscardHandler))
		if r := Must(http.Get("http://" + public.Addr().String() + "/livez")); r.StatusCode != http.StatusOK {
			t.Error(r.Status)
		}
		r := Must(http.Get("http://" + l.Admin.Addr().String() + "/metrics"))
		defer r.Body.Close()
		text := string(Must(io.ReadAll(r.Body)))
		for _, want := range []string{
			`keyturn_accept_errors_total{listener="public"} 4`,
			`keyturn_accept_errors_total{listener="admin"} 0`,
			`keyturn_connections_closed_total{listener="public",reason="idle"} 0`,
			`keyturn_connections_closed_total{listener="admin",reason="new"} 0`,
			"keyturn_log_lines_dropped_total 0",
		} {
			if !strings.Contains(text, want+"\n") {
				t.Errorf("no %s", want)
			}
		}
		if got := strings.Count(log.String(), "too many open files"); got != 1 {
			t.Errorf("%d lines: %s", got, log.String())
		}
	})
}

// A line is told once in a while, also after the clock was set back.
func TestSeldom(t *testing.T) {
	t.Parallel()
	var s seldom
	begin := time.Unix(1_800_000_000, 0)
	var told int
	for i := range 100 {
		if s.now(begin.Add(time.Duration(i)*time.Second), 10*time.Second) {
			told++
		}
	}
	if told != 10 {
		t.Errorf("%d times", told)
	}
	if !s.now(begin.Add(-time.Hour), 10*time.Second) {
		t.Error("a clock that was set back silences it")
	}
}

// The public listener leaves descriptors to the admin listener and the database.
func TestLimitsOfListeners(t *testing.T) {
	t.Parallel()
	for files, want := range map[int][2]int{
		0:     {0, 0},
		2:     {1, 1},
		64:    {32, 8},
		256:   {192, 16},
		1024:  {896, 32},
		65536: {57344, 64},
	} {
		if public, admin := (Listeners{MaxFiles: files}).limits(); public != want[0] || admin != want[1] {
			t.Errorf("%d: %d, %d", files, public, admin)
		}
	}
}

// certificateForTests is one of this machine, and who trusts it.
func certificateForTests(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	defer server.Close()
	trusted := x509.NewCertPool()
	trusted.AddCert(server.Certificate())
	return server.TLS.Certificates[0], trusted
}

// Over TLS handlers see the state of the connection, requests of ambiguous length are refused, silence ends in time,
// and HTTP/2 is not spoken.
func TestConnectionsOverTLS(t *testing.T) {
	t.Parallel()
	certificate, trusted := certificateForTests(t)
	f := &listeners{}
	f.certificate.Store(&certificate)
	config := withTLS(&f.certificate, nil)
	s := Must(OpenServer(ctx, ConfigFor(SQLiteURL(t)), Options{}))
	defer s.Close()
	var version atomic.Int64
	l := serveLimited(t, 3, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && r.TLS.HandshakeComplete {
			version.Store(int64(r.TLS.Version))
		}
		s.PublicHandler().ServeHTTP(w, r)
	}), config)
	connect := func() (*client, string) {
		conn := Must(tls.Dial("tcp", l.address, &tls.Config{RootCAs: trusted, NextProtos: []string{"h2", "http/1.1"}}))
		t.Cleanup(func() { conn.Close() })
		Must(0, conn.SetDeadline(time.Now().Add(20*time.Second)))
		return &client{t, conn, bufio.NewReader(conn)}, conn.ConnectionState().NegotiatedProtocol
	}
	c, protocol := connect()
	if !c.answered() || version.Load() != tls.VersionTLS13 || protocol != "http/1.1" {
		t.Errorf("version %x, %s", version.Load(), protocol)
	}
	c.send("POST /token HTTP/1.1\r\nHost: x\r\n" + misframedRequests["both"])
	res := Must(http.ReadResponse(c.Reader, nil))
	if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusBadRequest || !c.ended() {
		t.Errorf("%d %s %v", res.StatusCode, body, err)
	}
	plain := dial(t, l.address)
	plain.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if b, _ := io.ReadAll(plain.Reader); !strings.HasPrefix(string(b), "HTTP/1.0 400 ") {
		t.Errorf("%q", b)
	}
	began := time.Now()
	silent := dial(t, l.address)
	if !silent.ended() || time.Since(began) < headerTimeout/2 {
		t.Error("a handshake that does not come is not waited for, or has no end")
	}
	for range 10 { // idle ones end before and after their handshake
		dial(t, l.address)
	}
	if c, _ := connect(); !c.answered() {
		t.Error("no answer among idle connections")
	}
	if old, err := tls.Dial("tcp", l.address, &tls.Config{RootCAs: trusted, MaxVersion: tls.VersionTLS11}); err == nil {
		old.Close()
		t.Error("TLS 1.1 is spoken")
	}
}

// A stop closes idle connections at once.
func TestStopWithIdleConnections(t *testing.T) {
	t.Parallel()
	l := serveLimited(t, 3, okHandler, nil)
	c := dial(t, l.address)
	if !c.answered() {
		t.Fatal("no answer")
	}
	if err := l.Close(); err != nil || !errors.Is(func() error { _, err := l.Accept(); return err }(), net.ErrClosed) {
		t.Error(err)
	}
	if l.acceptErrors.Load() != 0 {
		t.Error("the end counts as an error")
	}
}
