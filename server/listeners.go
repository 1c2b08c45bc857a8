package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
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

// Limits of the listeners.
const (
	maxHeader       = 16 << 10 // bytes
	headerTimeout   = 5 * time.Second
	requestTimeout  = 15 * time.Second
	responseTimeout = 30 * time.Second
	idleTimeout     = 2 * time.Minute
	stopTimeout     = 7 * time.Second // from the signal to the end, including StopDelay
)

// Listeners holds the open ports of a server.
type Listeners struct {
	Public, Admin net.Listener
	Socket        net.Listener // the Unix socket of the admin API; nil: none
	MaxFiles      int          // limit of open files, from which the limits of connections follow; 0: no limit
}

// limits returns the limits of connections. They reserve descriptors for the admin listener, the database and files, so
// that strangers on the public listener cannot use all.
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
	if c.AdminSocket == "" {
		return l, nil
	}
	if l.Socket, err = listenSocket(c.AdminSocket); err != nil {
		l.Public.Close()
		l.Admin.Close()
	}
	return l, err
}

// listeners serves the two ports. It answers while the server still waits for its database.
type listeners struct {
	ports         Listeners
	connections   []*connections // public, admin, socket
	public, admin swapHandler
	servers       []*http.Server
	failed        chan error
	// of the public and the admin listener; a reload replaces them
	certificate, adminCertificate atomic.Pointer[tls.Certificate]
}

// swapHandler is a handler that can be replaced at run time.
type swapHandler struct{ handler atomic.Pointer[http.Handler] }

// ServeHTTP implements [http.Handler].
func (g *swapHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	(*g.handler.Load()).ServeHTTP(w, r)
}

func (g *swapHandler) set(h http.Handler) { g.handler.Store(&h) }

// newListeners starts to serve both ports.
func newListeners(c config.Config, l Listeners, log *slog.Logger, public, admin http.Handler) (*listeners, error) {
	f := &listeners{ports: l, failed: make(chan error, 3)}
	if err := f.readCertificates(c); err != nil {
		return nil, err
	}
	authorities, err := c.AdminClientCAs()
	if err != nil {
		return nil, &config.Error{Problems: []error{err}}
	}
	f.public.set(public)
	f.admin.set(admin)
	publicLimit, adminLimit := l.limits()
	f.connections = []*connections{{
		Listener: l.Public,
		name:     "public",
		limit:    publicLimit,
		tls:      withTLS(&f.certificate, nil),
		log:      log,
	}, {
		Listener: l.Admin,
		name:     "admin",
		limit:    adminLimit,
		tls:      withTLS(&f.adminCertificate, authorities),
		log:      log,
	}}
	if l.Socket != nil {
		f.connections = append(f.connections, &connections{
			Listener: l.Socket,
			name:     "socket",
			limit:    adminLimit,
			log:      log,
		})
	}
	for _, c := range f.connections {
		handler := &f.admin
		if c.name == "public" {
			handler = &f.public
		}
		server := httpServer(handler)
		f.servers = append(f.servers, server)
		go func() { f.failed <- server.Serve(c) }()
	}
	return f, nil
}

// readCertificates reads the certificates of both listeners.
func (f *listeners) readCertificates(c config.Config) error {
	public, err := c.Certificate()
	admin, e := c.AdminCertificate()
	if err = errors.Join(err, e); err != nil {
		return &config.Error{Problems: []error{err}}
	}
	f.certificate.Store(public)
	f.adminCertificate.Store(admin)
	return nil
}

// withTLS returns the TLS configuration of a listener, or nil for plaintext. There is no HTTP/2. With authorities, it
// asks for a client certificate, and accepts requests without one.
func withTLS(certificate *atomic.Pointer[tls.Certificate], authorities *x509.CertPool) *tls.Config {
	if certificate.Load() == nil {
		return nil
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return certificate.Load(), nil
		},
	}
	if authorities != nil {
		c.ClientAuth, c.ClientCAs = tls.VerifyClientCertIfGiven, authorities
	}
	return c
}

// stop closes the ports, finishes the requests in flight, and after the given time closes the remaining connections.
func (f *listeners) stop(span time.Duration, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), span)
	defer cancel()
	var all sync.WaitGroup
	for _, server := range f.servers {
		all.Go(func() {
			if err := server.Shutdown(ctx); err != nil {
				log.Warn("requests that did not end in time were cut off", "error", err.Error())
				server.Close()
			}
		})
	}
	all.Wait()
}

// Serve opens a replica and serves the listeners until the context ends. While PostgreSQL is unavailable at the start,
// it answers 503 and waits.
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
		err = nil // the context ended before the server was open
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

// waitForDatabase is the time between two attempts to open the database.
const waitForDatabase = time.Second

// openWhenAvailable opens a server. It waits while PostgreSQL is unavailable, and while the schema is outdated and
// another process migrates it. It returns neither server nor error if the context ends first.
func openWhenAvailable(
	ctx context.Context, c config.Config, p keys.Place, o Options, f *listeners,
) (*Server, error) {
	for waited := false; ; waited = true {
		s, err := Open(ctx, c, p, o)
		behind := errors.Is(err, storage.ErrBehind)
		// A pooler without its PostgreSQL refuses connections with the errors of a wrong setting. Report such an error
		// at the first attempt, and wait at a later one.
		down := errors.Is(err, storage.ErrUnavailable)
		if waited && errors.Is(err, storage.ErrPooler) {
			down = true
		}
		if p.Database.Kind() != storage.Postgres {
			down = false
		}
		if !behind && !down {
			return s, permanent(err)
		}
		if !waited {
			o.Log.Warn("waiting for the database: it is unavailable, or its schema is outdated", "error", err.Error())
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

// permanent marks an error that stays until a person acts: a supervisor must not start the server again and again.
func permanent(err error) error {
	passing := errors.Is(err, storage.ErrUnavailable) && !storage.Unusable(err)
	if err == nil || passing || errors.Is(err, context.Canceled) {
		return err
	}
	return &config.Error{Problems: []error{err}}
}

// httpServer speaks only HTTP/1.1, so that a connection has at most one request at a time.
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
		MaxHeaderBytes:    maxHeader - 4096, // net/http reads up to 4096 bytes more than this limit
		ErrorLog:          log.New(io.Discard, "", 0),
		ConnContext:       connContext,
		ConnState:         connState,

		DisableGeneralOptionsHandler: true, // so that OPTIONS * reaches isMisframed, which counts requests
	}
}
