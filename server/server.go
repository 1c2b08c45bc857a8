package server

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	cryptorand "crypto/rand"

	"go.opentelemetry.io/otel/trace"

	"github.com/keyturn/keyturn/clock"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/passwords"
	"github.com/keyturn/keyturn/storage"
)

// Options are the dependencies of a server. The zero value works.
type Options struct {
	Wall        func() time.Time                         // the clock of the machine; nil: time.Now
	Elapsed     func() time.Duration                     // since the start; monotonic; nil: clock.Elapsed
	Now         func() time.Time                         // the time of the server; nil: from Wall and Elapsed
	DatabaseNow func(context.Context) (time.Time, error) // nil: the clock of the database
	Module      keys.CryptoModule                        // makes keys and signs; nil: the one that Config.Signer names
	Log         *slog.Logger                             // nil: no log
	Level       *slog.LevelVar                           // the level of Log, for reloads; nil: the level is fixed
	Dropped     func() int64                             // number of lines that Log has dropped; nil: 0
	Tracer      trace.Tracer                             // nil: no tracing
	Reload      Reload                                   // zero value: no reload
	Dev         bool                                     // the database belongs, or will belong, to `keyturn dev`

	CPUs   int    // limit of parallel signatures, and default limit of parallel password hashes; 0: GOMAXPROCS
	Opened func() // called after the server is opened; nil: nothing
	// Console makes the handler of the console and the admin API on the admin listener, once the server is open. It may
	// assert the ResponseWriter to an interface with the methods Address and Note of response. nil: there is none.
	Console func(*Server) http.Handler

	clock *clock.Clock
}

// withClock sets the defaults of the clocks. alone means that the machine's clock is the only reference. If a test sets
// Now, then Now also drives Wall and Elapsed.
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

// Server is one replica of keyturn. Its parts share a core.
type Server struct {
	*core
	*gateway
	*health
	*cleaner
	*replica
	*clientAuth
	*accessTokens
	*logins
	*refreshes
	scans     *rateLimits               // introspections of unknown tokens, by client
	console   http.Handler              // nil: none
	listeners atomic.Pointer[listeners] // nil: the server does not serve yet
}

// Open opens the database and the keys of a place, and makes the first signing key if there is none. c and p must be
// valid: see [config.Config.Problems] and [keys.NewPlace].
func Open(ctx context.Context, c config.Config, p keys.Place, o Options) (*Server, error) {
	elapsed := o.Elapsed
	o = o.withClock(p.Database.Kind() == storage.SQLite)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{}
	store, err := keys.OpenStore(ctx, p, keys.Config(c.Keys()), keys.StoreOptions{
		Create:  true,
		Migrate: c.Migrate,
		Keys: keys.Options{
			Now:         o.Now,
			Wall:        o.Wall,
			DatabaseNow: o.DatabaseNow,
			Elapsed:     elapsed,
			Sure:        func(ctx context.Context) error { return s.settledTime(ctx) },
			Module:      o.Module,
			Log:         o.Log,
			CPUs:        o.CPUs,
		},
	})
	if err != nil {
		return nil, err
	}
	s.fill(store, c, p, o)
	if err := s.begin(ctx, o.Dev); err != nil {
		store.Close()
		return nil, err
	}
	s.look(ctx)
	if o.Console != nil {
		s.console = o.Console(s)
	}
	if o.Opened != nil {
		o.Opened()
	}
	return s, nil
}

// fill makes the parts of a server. The store is open.
func (s *Server) fill(store keys.Store, c config.Config, p keys.Place, o Options) {
	shared := newCore(store, c, p, o)
	self := newReplica(shared, o.Now())
	tokens := &accessTokens{core: shared, forgeries: self.forged, verified: newTokenCache()}
	watch, places := &health{core: shared}, newStatusPlaces(shared)
	trusted, _ := c.Proxies() // Config.Problems has checked it
	hasher := passwords.NewHasher(passwords.NewPolicy(int64(c.PasswordHashMemory)), c.HashSlots(o.CPUs))
	*s = Server{
		core:    shared,
		gateway: &gateway{core: shared, trusted: trusted},
		health:  watch,
		cleaner: &cleaner{health: watch, holder: self.row.ID},
		replica: self,
		clientAuth: &clientAuth{
			core:     shared,
			clients:  newClientCache(store.DB, clientAge),
			failures: newClientFailures(c.LoginFailures, c.LoginWindow),
		},
		accessTokens: tokens,
		logins: &logins{
			accessTokens: tokens,
			hasher:       hasher,
			throttle:     newThrottle(store.DB, shared.config),
			places:       places,
		},
		refreshes: &refreshes{accessTokens: tokens, health: watch, unanswered: newUnanswered(), places: places},
		scans:     newRateLimits(unknownTokens, unknownTokensPeriod),
	}
	s.metrics = newMetrics(s)
	hasher.Took = func(took time.Duration) { s.metrics.hashed.Observe(took.Seconds()) }
}

// begin checks that the database may be served, observes the clock, and makes the first keys. With dev, it stamps a new
// database.
func (s *Server) begin(ctx context.Context, dev bool) error {
	if dev {
		if err := s.store.StampDev(ctx); err != nil {
			return err
		}
	}
	if err := s.store.CheckPurpose(ctx, dev); err != nil {
		return err
	}
	if err := s.ring.Anchor(s.place.AnchorFile).Check(ctx); err != nil {
		return err
	}
	if err := s.beginClock(ctx); err != nil {
		return err
	}
	if err := s.ring.ScheduleRecord().Write(ctx, schedule(*s.config())); err != nil {
		return err
	}
	err := s.ring.LifeCycle().Maintain(ctx)
	var unsure *clock.UnsureError
	if errors.As(err, &unsure) && s.ring.Healthy() == nil {
		err = nil // readyz reports the clock, and other replicas maintain the keys
	}
	if err == nil {
		s.lists.lookAndReport(ctx)
		err = s.observed.readHandles(ctx)
	}
	return err
}

// Store returns the database and the keys. Close closes them.
func (s *Server) Store() keys.Store { return s.store }

// Config returns the settings in force.
func (s *Server) Config() config.Config { return *s.config() }

// Close closes the connections to the database.
func (s *Server) Close() error { return s.store.Close() }

// Serve answers on both listeners, maintains the keys and cleans up until the context ends. Then it reports that it is
// not ready, waits for StopDelay, finishes the requests in flight, and returns.
func (s *Server) Serve(ctx context.Context, l Listeners) error {
	f, err := newListeners(*s.config(), l, s.log, s.PublicHandler(), s.AdminHandler())
	if err != nil {
		return err
	}
	return s.serve(ctx, f, Options{})
}

// serve runs the loops of a server whose listeners already answer.
func (s *Server) serve(ctx context.Context, f *listeners, o Options) error {
	s.listeners.Store(f)
	loops, stopLoops := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { s.ring.Run(loops) })
	running.Go(func() { s.watch(loops) })
	running.Go(func() { s.cleanUp(loops) })
	running.Go(func() { s.keepAnchor(loops) })
	running.Go(func() { s.keepVisible(loops, f.ports.Public.Addr()) })
	running.Go(func() { s.lists.keep(loops) })
	running.Go(func() { s.observed.keep(loops) })
	running.Go(func() { s.reloads(loops, f, o) })
	s.log.Info("serving",
		"version", Version().Version,
		"issuer", s.config().Issuer,
		"listen", f.ports.Public.Addr().String(),
		"admin_listen", f.ports.Admin.Addr().String(),
		"console", strings.Join(s.config().ConsoleURLs(), " "),
		"admin_socket", s.config().AdminSocket,
		"tls", s.config().TLSCertFile != "",
		"database", string(s.db.Kind()))
	var err error
	select {
	case err = <-f.failed:
	case <-ctx.Done():
	}
	s.stopping.Store(true)
	s.log.Info("stopping")
	if err == nil {
		select { // load balancers need this time to see that the replica is not ready
		case err = <-f.failed:
		case <-time.After(s.config().StopDelay):
		}
	}
	f.stop(stopTimeout-s.config().StopDelay, s.log)
	stopLoops()
	running.Wait()
	s.log.Info("stopped")
	return err
}

func randomHex(n int) string {
	b := make([]byte, n)
	cryptorand.Read(b)
	return hex.EncodeToString(b)
}
