package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// Bounds of the listeners.
const (
	maxHeader       = 16 << 10
	headerTimeout   = 5 * time.Second
	requestTimeout  = 15 * time.Second
	responseTimeout = 30 * time.Second
	idleTimeout     = 2 * time.Minute
	stopTimeout     = 7 * time.Second // from the signal to the end, of which the delay is a part
)

// Listeners are the two open ports of a server.
type Listeners struct {
	Public, Admin net.Listener
	MaxFiles      int // descriptors that the process may have open, which bound the connections; 0: no bound
}

// limits share out the descriptors: what strangers can take on the public listener leaves some to the admin listener,
// the database and files.
func (l Listeners) limits() (public, admin int) {
	if l.MaxFiles == 0 {
		return 0, 0
	}
	reserve := min(max(64, l.MaxFiles/8), l.MaxFiles/2)
	return max(1, l.MaxFiles-reserve), max(1, min(64, reserve/4))
}

// Listen opens the ports of the configuration.
func Listen(c config.Config) (Listeners, error) {
	var l Listeners
	var err error
	if l.Public, err = net.Listen("tcp", c.Listen); err != nil {
		return l, fmt.Errorf("listen: %w", err)
	}
	if l.Admin, err = net.Listen("tcp", c.AdminListen); err != nil {
		l.Public.Close()
		return l, fmt.Errorf("admin_listen: %w", err)
	}
	return l, nil
}

// listeners are the two listeners. They answer before there is a server behind them, which may have to wait for its
// database, and after it has stopped.
type listeners struct {
	ports         Listeners
	connections   []*connections // public, admin
	public, admin swapHandler
	servers       []*http.Server
	failed        chan error
	certificate   atomic.Pointer[tls.Certificate] // of the public listener
}

// swapHandler is a handler that can be replaced while it serves.
type swapHandler struct{ handler atomic.Pointer[http.Handler] }

func (g *swapHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	(*g.handler.Load()).ServeHTTP(w, r)
}

func (g *swapHandler) set(h http.Handler) { g.handler.Store(&h) }

// newListeners begins to answer on the listeners.
func newListeners(c config.Config, l Listeners, log *slog.Logger, public, admin http.Handler) (*listeners, error) {
	f := &listeners{ports: l, failed: make(chan error, 2)}
	certificate, err := c.Certificate()
	if err != nil {
		return nil, &config.Error{Problems: []error{err}}
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
func (f *listeners) tls(c config.Config) *tls.Config {
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
func (f *listeners) stop(span time.Duration, log *slog.Logger) {
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

// Serve opens a replica and answers on the listeners until the context ends. While its PostgreSQL is away, also at the
// start, it answers 503 and waits.
func Serve(ctx context.Context, c config.Config, p keys.Place, o Options, l Listeners) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	warn(o.Log, c.Warnings())
	public, admin := starting(c)
	f, err := newListeners(c, l, o.Log, public, admin)
	if err != nil {
		return err
	}
	s, err := openWhenAvailable(ctx, c, p, o, f)
	if ctx.Err() != nil && s == nil {
		err = nil // it was to end before it had begun
	}
	if err != nil || s == nil {
		f.stop(stopTimeout, o.Log)
		return err
	}
	defer s.Close()
	f.public.set(s.PublicHandler())
	f.admin.set(s.AdminHandler())
	return s.serve(ctx, f, o)
}

const waitForDatabase = time.Second

// openWhenAvailable opens a server, and waits for its PostgreSQL if that is away, and for the schema if that is older
// and another is to bring it up to date. No server and no error if the context ended before.
func openWhenAvailable(
	ctx context.Context, c config.Config, p keys.Place, o Options, f *listeners,
) (*Server, error) {
	for waited := false; ; waited = true {
		s, err := Open(ctx, c, p, o)
		behind := errors.Is(err, storage.ErrBehind)
		// What a pooler refuses while its PostgreSQL is away looks like a mistake. At the first attempt it is taken for
		// one.
		passing := errors.Is(err, storage.ErrUnavailable) || waited && errors.Is(err, storage.ErrPooler)
		away := passing && p.Database.Kind() == storage.Postgres
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

// httpServer speaks HTTP/1.1 only: one request at a time is what a connection may ask for.
func httpServer(h http.Handler) *http.Server {
	one := new(http.Protocols)
	one.SetHTTP1(true)
	return &http.Server{
		Handler:           h,
		Protocols:         one,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      responseTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader - 4096, // net/http reads 4096 bytes more than it is told
		ErrorLog:          log.New(io.Discard, "", 0),
		ConnContext:       connContext,
		ConnState:         connState,

		DisableGeneralOptionsHandler: true, // isMisframed counts requests, and * is an unknown path like others
	}
}
