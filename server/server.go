package server

import (
	"context"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"log/slog"
	"runtime"
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

// Server is one replica of keyturn. Its parts are types of their own, which share a core.
type Server struct {
	*core
	*gateway
	*health
	*cleaner
	*clientAuth
	*accessTokens
	*logins
	*refreshes
	scans     *rateLimits               // of texts that are no tokens, by who asks about them
	listeners atomic.Pointer[listeners] // nil: it does not serve
}

// Open opens database and keys of a place, and makes the first signing key if there is none. c and p must keep the rules:
// see [config.Config.Problems], [keys.NewPlace].
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
			Generate:    o.Generate,
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
	if o.Opened != nil {
		o.Opened()
	}
	return s, nil
}

// fill makes the parts of a server on a store that is open.
func (s *Server) fill(store keys.Store, c config.Config, p keys.Place, o Options) {
	shared := newCore(store, c, p, o)
	tokens := &accessTokens{core: shared, verified: newTokenCache()}
	watch := &health{core: shared}
	trusted, _ := c.Proxies() // c keeps the rules
	hasher := passwords.NewHasher(passwords.NewPolicy(int64(c.PasswordHashMemory)), c.HashSlots(o.CPUs))
	*s = Server{
		core:    shared,
		gateway: &gateway{core: shared, trusted: trusted},
		health:  watch,
		cleaner: &cleaner{health: watch, replica: randomHex(8)},
		clientAuth: &clientAuth{
			core:     shared,
			clients:  newClientCache(store.DB, clientAge),
			failures: newClientFailures(c.LoginFailures, c.LoginWindow),
		},
		accessTokens: tokens,
		logins:       &logins{accessTokens: tokens, hasher: hasher, throttle: newThrottle(store.DB, shared.config)},
		refreshes:    &refreshes{accessTokens: tokens, health: watch, unanswered: newUnanswered()},
		scans:        newRateLimits(unknownTokens, unknownTokensPeriod),
	}
	s.metrics = newMetrics(s)
	hasher.Took = func(took time.Duration) { s.metrics.hashed.Observe(took.Seconds()) }
}

// begin stamps a new database of dev, checks the stamp of any, and makes the first keys.
func (s *Server) begin(ctx context.Context, dev bool) error {
	if dev {
		if err := s.store.StampDev(ctx); err != nil {
			return err
		}
	}
	if err := s.store.CheckPurpose(ctx, dev); err != nil {
		return err
	}
	if err := s.ring.CheckAnchor(ctx, s.place.AnchorFile); err != nil {
		return err
	}
	if err := s.beginClock(ctx); err != nil {
		return err
	}
	if err := s.ring.RecordSchedule(ctx, schedule(*s.config())); err != nil {
		return err
	}
	err := s.ring.Maintain(ctx)
	var unsure *clock.UnsureError
	if errors.As(err, &unsure) && s.ring.Healthy() == nil {
		return nil // it is not ready, and says so; others take the steps
	}
	return err
}

// Store is the database and the keys of the server, which it closes.
func (s *Server) Store() keys.Store { return s.store }

// Close ends the connections to the database.
func (s *Server) Close() error { return s.store.Close() }

// Serve answers on both listeners, keeps the keys and cleans up until the context ends. Then it is not ready first,
// finishes what is in flight, and returns.
func (s *Server) Serve(ctx context.Context, l Listeners) error {
	f, err := newListeners(*s.config(), l, s.log, s.PublicHandler(), s.AdminHandler())
	if err != nil {
		return err
	}
	return s.serve(ctx, f, Options{})
}

func (s *Server) serve(ctx context.Context, f *listeners, o Options) error {
	s.listeners.Store(f)
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
		f.ports.Public.Addr().String(),
		"admin_listen",
		f.ports.Admin.Addr().String(),
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
		case <-time.After(s.config().StopDelay):
		}
	}
	f.stop(stopTimeout-s.config().StopDelay, s.log)
	stopLoops()
	running.Wait()
	return err
}

func randomHex(n int) string {
	b := make([]byte, n)
	cryptorand.Read(b)
	return hex.EncodeToString(b)
}
