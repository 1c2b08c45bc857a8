package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keyturn/keyturn/clock"
	"github.com/keyturn/keyturn/storage"
)

// maxAhead is how far ahead the last heartbeat may be for the clock here to be what is wrong. Beyond it the clock was
// wrong then, and waiting for that time to come would be worse.
const maxAhead = 24 * time.Hour

// metaRetiredTime keeps the span of time that a server on SQLite has given up, so that the next start does not wait for
// it again.
const metaRetiredTime = "retired time"

// beginClock tells the clock what an SQLite database knows of the time. PostgreSQL has a clock of its own.
func (s *Server) beginClock(ctx context.Context) error {
	if s.db.Kind() != storage.SQLite {
		return s.observeClock(ctx)
	}
	latest, err := s.db.Mark(ctx, storage.MarkHeartbeat)
	if err != nil {
		return err
	}
	text, err := s.db.Meta(ctx, metaRetiredTime)
	var retired clock.Retired
	if err == nil {
		err = json.Unmarshal([]byte(text), &retired)
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("%s: %w", metaRetiredTime, err)
	}
	if ahead := latest.Sub(s.now()); ahead > maxAhead {
		s.log.Error("the database was last used at a time that has not come yet: the clock was wrong then, or is now",
			"at", latest)
		latest = time.Time{}
	}
	s.clock.Begin(latest, retired)
	return s.observeClock(ctx)
}

// slowClock is how long the database may take to tell the time for that to be of use.
const slowClock = 2 * time.Second

// observeClock compares the time with the clock of the database, or, on SQLite, with that of the machine. A time that
// was wrong is noted as an outage: by it, a client that repeats a refresh came later than it did.
func (s *Server) observeClock(ctx context.Context) error {
	asked := s.elapsed()
	reference, err := s.databaseNow(ctx)
	if err != nil {
		return err
	}
	took := s.elapsed() - asked
	if took > slowClock {
		return nil
	}
	retired := s.clock.Retired()
	moved := s.clock.Observe(reference.Add(took / 2))
	if now := s.now(); moved > clockWarning {
		s.ring.Away(now.Add(-moved), now)
	}
	if given := s.clock.Retired(); given != retired && s.db.Kind() == storage.SQLite {
		return s.keepRetired(ctx, given)
	}
	return nil
}

func (s *Server) keepRetired(ctx context.Context, given clock.Retired) error {
	s.log.Warn("the time was wrong and has been set: what was judged by it until then stays so",
		slog.Time("now", given.From), slog.Time("was", given.Until))
	text, err := json.Marshal(given)
	if err != nil {
		return fmt.Errorf("%s: %w", metaRetiredTime, err)
	}
	return s.db.SetMeta(ctx, metaRetiredTime, string(text))
}

// clockWarning is how far the clock may be off before somebody should look.
const clockWarning = 5 * time.Second

// sureOfTime observes the clock and reports why this replica is not sure of the time (*clock.UnsureError); nil if it
// is.
func (s *Server) sureOfTime(ctx context.Context) error {
	if err := s.observeClock(ctx); err != nil {
		return err
	}
	return s.clock.Sure()
}

// warnOfClock tells the log of a clock that is off.
func (s *Server) warnOfClock() {
	if off := s.clock.Off(); off.Abs() > clockWarning {
		s.log.Warn((&clock.UnsureError{Off: off}).Error())
	}
}
