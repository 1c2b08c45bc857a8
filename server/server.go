package server

import (
	"context"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	cryptorand "crypto/rand"

	"go.opentelemetry.io/otel/trace"

	"github.com/keyturn/keyturn/clock"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/passwords"
	"github.com/keyturn/keyturn/storage"
)

// Options are the server's sources of time, keys and words. The zero value is useful.
type Options struct {
	Wall func() time.Time // the clock of the machine; nil: time.Now
	// since the start, whatever is done to that clock; nil: asked of the machine
	Elapsed func() time.Duration
	// the time by which the server judges; nil: follows from Wall and Elapsed
	Now         func() time.Time
	DatabaseNow func(context.Context) (time.Time, error) // nil: the clock of the database is asked
	Generate    func(bits int) (*rsa.PrivateKey, error)  // nil: rsa.GenerateKey
	Log         *slog.Logger                             // nil: nothing is logged
	Level       *slog.LevelVar                           // that of Log, which a reload may change; nil: it stays
	Dropped     func() int64                             // lines of Log that were dropped so far; nil: none
	Tracer      trace.Tracer                             // nil: requests are not traced
	Reload      Reload                                   // the zero value: never
	Dev         bool                                     // the database is, or becomes, one of `keyturn dev`

	CPUs   int    // of this process: so many signatures at once, and passwords if nothing else is set; 0: as Go has
	Opened func() // is called when a server has been opened; nil: nothing

	clock *clock.Clock
}

// withClock fills in the time by which a server judges. With alone, there is no other clock than that of this machine
// to compare it with. A test that gives Now steps both the clock of the machine and the time that passes.
func (o Options) withClock(alone bool) Options {
	if o.Now != nil {
		now, start := o.Now, o.Now()
		o.Wall, o.Elapsed = now, func() time.Duration { return now().Sub(start) }
	}
	if o.Wall == nil {
		o.Wall = time.Now
	}
	if o.Elapsed == nil {
		o.Elapsed = clock.Elapsed()
	}
	o.clock = clock.New(o.Wall, o.Elapsed, alone)
	o.Now = o.clock.Now
	if wall := o.Wall; alone && o.DatabaseNow == nil {
		o.DatabaseNow = func(context.Context) (time.Time, error) { return wall(), nil }
	}
	if o.CPUs == 0 {
		o.CPUs = runtime.GOMAXPROCS(0)
	}
	return o
}

// Server is one replica of keyturn.
type Server struct {
	settings       atomic.Pointer[Config] // of now
	store          store
	db             *storage.DB
	ring           *keys.Ring
	now            func() time.Time
	clock          *clock.Clock
	elapsed        func() time.Duration                     // since the start, whatever is done to any clock
	databaseNow    func(context.Context) (time.Time, error) // the clock of the database
	front          atomic.Pointer[front]                    // nil: it does not serve
	log            *slog.Logger
	dropped        func() int64 // lines of log
	hasher         *passwords.Hasher
	throttle       *throttle
	clientFailures clientFailures
	scans          *budgets
	verified       *tokenCache
	unanswered     *unanswered
	clients        *clientCache
	metrics        *metrics
	trusted        []netip.Prefix
	replica        string          // names this process in leases
	cleanedTo      storage.GrantID // how far the clean-up loop, which alone uses it, has walked
	restedTo       storage.Time    // how far it has looked at failed logins, by their time
	stopping       atomic.Bool
	tracer         trace.Tracer // nil: requests are not traced
	older          atomic.Bool  // the database has gone back to an older state
	replaced       atomic.Bool  // the file of the database is not the one that was opened
	readiness      atomic.Pointer[readiness]
	looking        atomic.Pointer[time.Time] // since when a look is under way
	toldUnready    time.Duration             // when the log was last told; the watch loop alone uses it

	forwardedTold seldom // that X-Forwarded-For cannot be read
}

// Open checks the configuration, opens database and keys, and lets the keys begin if there are none. *ConfigError tells
// all that is wrong with the configuration.
func Open(ctx context.Context, c Config, o Options) (*Server, error) {
	if problems := c.Problems(true); problems != nil {
		return nil, &ConfigError{problems}
	}
	elapsed := o.Elapsed
	o = o.withClock(c.source().File() != "")
	if o.Log == nil {
		o.Log = discard
	}
	s := &Server{}
	st, err := openStore(ctx, c, true, keys.Options{
		Now:         o.Now,
		Wall:        o.Wall,
		DatabaseNow: o.DatabaseNow,
		Elapsed:     elapsed,
		Sure:        s.settledTime,
		Generate:    o.Generate,
		Log:         o.Log,
		CPUs:        o.CPUs,
	})
	if err != nil {
		return nil, err
	}
	s.fill(st, c, o)
	if err := s.begin(ctx, o.Dev); err != nil {
		st.close()
		return nil, err
	}
	s.look(ctx)
	if o.Opened != nil {
		o.Opened()
	}
	return s, nil
}

// fill is a server on a store that has been opened.
func (s *Server) fill(st store, c Config, o Options) {
	*s = Server{
		store:          st,
		db:             st.db,
		ring:           st.ring,
		now:            o.Now,
		log:            o.Log,
		hasher:         passwords.NewHasher(c.hashPolicy(), c.HashSlots(o.CPUs)),
		clientFailures: newClientFailures(c.LoginFailures, time.Duration(c.LoginWindow)),
		scans:          newBudgets(unknownTokens, unknownTokensPeriod),
		verified:       newTokenCache(),
		unanswered:     newUnanswered(),
		clients:        newClientCache(st.db, clientAge),
		replica:        randomHex(8),
	}
	s.settings.Store(&c)
	s.tracer = o.Tracer
	s.throttle = newThrottle(st.db, s.config)
	s.clock, s.elapsed, s.databaseNow = o.clock, o.Elapsed, o.DatabaseNow
	if s.databaseNow == nil {
		s.databaseNow = st.db.Clock
	}
	if s.dropped = o.Dropped; s.dropped == nil {
		s.dropped = func() int64 { return 0 }
	}
	s.metrics = newMetrics(s)
	s.hasher.Took = func(took time.Duration) { s.metrics.hashed.Observe(took.Seconds()) }
	s.trusted, _ = c.trustedProxies() // checked above
}

// config is the settings of now.
func (s *Server) config() *Config { return s.settings.Load() }

// begin stamps a new database of dev, checks the stamp of any, and makes the first keys.
func (s *Server) begin(ctx context.Context, dev bool) error {
	if dev && len(s.ring.Rows()) == 0 {
		if _, err := s.db.Meta().SetOnce(ctx, metaStamp, stampDev); err != nil {
			return err
		}
	}
	if err := checkStamp(ctx, s.db, dev); err != nil {
		return err
	}
	if err := s.ring.CheckAnchor(ctx, s.config().anchorPath()); err != nil {
		return err
	}
	if err := s.beginClock(ctx); err != nil {
		return err
	}
	if err := s.recordSchedule(ctx, *s.config()); err != nil {
		return err
	}
	err := s.ring.Maintain(ctx)
	var unsure *clock.UnsureError
	if errors.As(err, &unsure) && s.ring.Healthy() == nil {
		return nil // it is not ready, and says so; others take the steps
	}
	return err
}

// Close ends the connections to the database.
func (s *Server) Close() error { return s.store.close() }

// Bounds of the listeners.
const (
	maxHeader       = 16 << 10
	headerTimeout   = 5 * time.Second
	requestTimeout  = 15 * time.Second
	responseTimeout = 30 * time.Second
	idleTimeout     = 2 * time.Minute
	stopTimeout     = 7 * time.Second // from the signal to the end, of which the delay is a part
	maxStopDelay    = 5 * time.Second
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
func Listen(c Config) (Listeners, error) {
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

// Serve answers on both listeners, keeps the keys and cleans up until the context ends. Then it is not ready first,
// finishes what is in flight, and returns.
func (s *Server) Serve(ctx context.Context, l Listeners) error {
	f, err := newFront(*s.config(), l, s.log, s.Public(), s.Admin())
	if err != nil {
		return err
	}
	return s.serve(ctx, f, Options{})
}

func (s *Server) serve(ctx context.Context, f *front, o Options) error {
	s.front.Store(f)
	loops, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { s.ring.Run(loops) })
	running.Go(func() { s.watch(loops) })
	running.Go(func() { s.cleanUp(loops) })
	running.Go(func() { s.keepAnchor(loops) })
	running.Go(func() { s.reloads(loops, f, o) })
	s.log.Info(
		"serving",
		"issuer",
		s.config().Issuer,
		"listen",
		f.listeners.Public.Addr().String(),
		"admin_listen",
		f.listeners.Admin.Addr().String(),
		"tls",
		s.config().TLSCertFile != "",
		"database",
		string(s.db.Kind()),
	)
	var err error
	select {
	case err = <-f.failed:
	case <-ctx.Done():
	}
	s.stopping.Store(true)
	s.log.Info("stopping")
	if err == nil {
		select { // balancers learn meanwhile that this replica is not ready; whoever has not is still answered
		case err = <-f.failed:
		case <-time.After(time.Duration(s.config().StopDelay)):
		}
	}
	f.stop(stopTimeout-time.Duration(s.config().StopDelay), s.log)
	stopLoops()
	running.Wait()
	return err
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

func randomHex(n int) string {
	b := make([]byte, n)
	cryptorand.Read(b)
	return hex.EncodeToString(b)
}
