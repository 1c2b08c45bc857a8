package storagetest

import (
	"bytes"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy stands between keyturn and a PostgreSQL and loses answers on request.
type Proxy struct {
	URL    string // of the database, through the proxy
	socket string
	lose   atomic.Pointer[[]byte] // the text of the statement whose answer is lost next
	lost   atomic.Int64
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
	p := &Proxy{socket: filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432")}
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

// LoseAnswer cuts the next connection over which a statement with the text goes, once the database has run it and before its answer is
// passed on.
func (p *Proxy) LoseAnswer(text string) {
	b := []byte(text)
	p.lose.Store(&b)
}

// Lost tells how many answers were lost.
func (p *Proxy) Lost() int64 { return p.lost.Load() }

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", p.socket)
	if err != nil {
		return
	}
	defer server.Close()
	var cut atomic.Bool
	var both sync.WaitGroup
	both.Go(func() {
		defer server.Close()
		pump(server, client, func(b []byte) bool {
			if text := p.lose.Load(); text != nil && bytes.Contains(b, *text) && p.lose.CompareAndSwap(text, nil) {
				cut.Store(true)
			}
			return true
		})
	})
	both.Go(func() {
		defer client.Close()
		pump(client, server, func([]byte) bool {
			if cut.Load() {
				p.lost.Add(1)
				return false
			}
			return true
		})
	})
	both.Wait()
}

// pump copies until either end closes or pass says no.
func pump(to io.Writer, from io.Reader, pass func([]byte) bool) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !pass(buffer[:n]) {
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
