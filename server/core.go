package server

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/keyturn/keyturn/clock"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// core holds what all parts of a server share.
type core struct {
	settings    atomic.Pointer[config.Config] // in force
	place       keys.Place
	store       keys.Store
	db          *storage.DB
	ring        *keys.Ring
	now         func() time.Time
	clock       *clock.Clock
	elapsed     func() time.Duration                     // since the start; monotonic
	databaseNow func(context.Context) (time.Time, error) // the clock of the database
	log         *slog.Logger
	dropped     func() int64 // number of dropped log lines
	metrics     *metrics
	observed    *observations
	tracer      trace.Tracer // nil: no tracing
}

func newCore(store keys.Store, c config.Config, p keys.Place, o Options) *core {
	s := &core{
		place:       p,
		store:       store,
		db:          store.DB,
		ring:        store.Ring,
		now:         o.Now,
		clock:       o.clock,
		elapsed:     o.Elapsed,
		databaseNow: o.DatabaseNow,
		log:         o.Log,
		dropped:     o.Dropped,
		tracer:      o.Tracer,
	}
	s.settings.Store(&c)
	if s.databaseNow == nil {
		s.databaseNow = store.DB.Clock
	}
	s.observed = newObservations(s)
	if s.dropped == nil {
		s.dropped = func() int64 { return 0 }
	}
	return s
}

// config returns the settings in force.
func (s *core) config() *config.Config { return s.settings.Load() }
