package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// front is the two listeners. They answer from before there is a server behind them, which may have to wait for its
// database, until after.
type front struct {
	listeners     Listeners
	connections   []*connections // public, admin
	public, admin gate
	servers       []*http.Server
	failed        chan error
	certificate   atomic.Pointer[tls.Certificate] // of the public listener
}

// gate is a handler that can be replaced while it serves.
type gate struct{ handler atomic.Pointer[http.Handler] }

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) { (*g.handler.Load()).ServeHTTP(w, r) }

func (g *gate) set(h http.Handler) { g.handler.Store(&h) }

// newFront begins to answer on the listeners.
func newFront(c Config, l Listeners, log *slog.Logger, public, admin http.Handler) (*front, error) {
	f := &front{listeners: l, failed: make(chan error, 2)}
	certificate, err := c.certificate()
	if err != nil {
		return nil, &ConfigError{[]error{err}}
	}
	f.certificate.Store(certificate)
	f.public.set(public)
	f.admin.set(admin)
	publicLimit, adminLimit := l.limits()
	publicConnections := &connections{Listener: l.Public, name: "public", limit: publicLimit, tls: f.tls(c), log: log}
	adminConnections := &connections{Listener: l.Admin, name: "admin", limit: adminLimit, log: log}
	f.connections = []*connections{publicConnections, adminConnections}
	publicServer, adminServer := httpServer(&f.public), httpServer(&f.admin)
	f.servers = []*http.Server{publicServer, adminServer}
	go func() { f.failed <- publicServer.Serve(publicConnections) }()
	go func() { f.failed <- adminServer.Serve(adminConnections) }()
	return f, nil
}

// tls is how the public listener speaks TLS; nil if it is plaintext. There is no HTTP/2.
func (f *front) tls(c Config) *tls.Config {
	if c.TLSCertFile == "" {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return f.certificate.Load(), nil
		},
	}
}

// stop takes nothing more and finishes what is in flight, within a span. Whoever has not sent or read all by then is
// cut off.
func (f *front) stop(span time.Duration, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), span)
	defer cancel()
	var all sync.WaitGroup
	for _, server := range f.servers {
		all.Go(func() {
			if err := server.Shutdown(ctx); err != nil {
				log.Warn("requests were cut off that did not end", "error", err.Error())
				server.Close()
			}
		})
	}
	all.Wait()
}

// certificate reads the certificate of the public listener; nil if that is plaintext.
func (c Config) certificate() (*tls.Certificate, error) {
	if c.TLSCertFile == "" || c.TLSKeyFile == "" {
		return nil, nil
	}
	certificate, err := tls.LoadX509KeyPair(c.TLSCertFile, c.TLSKeyFile)
	if err != nil {
		return nil, fmt.Errorf("tls_cert_file, tls_key_file: %w", err)
	}
	return &certificate, nil
}

// Serve opens a replica and answers on the listeners until the context ends. While its PostgreSQL is away, also at the
// start, it answers 503 and waits.
func Serve(ctx context.Context, c Config, o Options, l Listeners) error {
	if problems := append(c.Problems(true), c.FileProblems()...); len(problems) > 0 {
		return &ConfigError{problems}
	}
	if o.Log == nil {
		o.Log = discard
	}
	c.warn(o.Log)
	public, admin := c.starting()
	f, err := newFront(c, l, o.Log, public, admin)
	if err != nil {
		return err
	}
	s, err := openWhenAvailable(ctx, c, o, f)
	if ctx.Err() != nil && s == nil {
		err = nil // it was to end before it had begun
	}
	if err != nil || s == nil {
		f.stop(stopTimeout, o.Log)
		return err
	}
	defer s.Close()
	f.public.set(s.Public())
	f.admin.set(s.Admin())
	return s.serve(ctx, f, o)
}

const waitForDatabase = time.Second

// openWhenAvailable opens a server, and waits for its PostgreSQL if that is away, and for the schema if that is older
// and another is to bring it up to date. No server and no error if the context ended before.
func openWhenAvailable(ctx context.Context, c Config, o Options, f *front) (*Server, error) {
	for waited := false; ; waited = true {
		s, err := Open(ctx, c, o)
		behind := errors.Is(err, storage.ErrBehind)
		// What a pooler refuses while its PostgreSQL is away looks like a mistake. At the first attempt it is taken for
		// one.
		passing := errors.Is(err, storage.ErrUnavailable) || waited && errors.Is(err, storage.ErrPooler)
		away := passing && c.source().File() == ""
		if !behind && !away {
			return s, err
		}
		if !waited {
			o.Log.Warn("the database is away, or behind: waiting for it", "error", err.Error())
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case err := <-f.failed:
			return nil, err
		case <-time.After(waitForDatabase):
		}
	}
}
