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

// metaRetiredTime keeps the span of time that a server on SQLite has given up, so that the next start does not wait for
// it again.
const metaRetiredTime = "retired time"

// beginClock tells the clock what the database knows of the time.
func (s *health) beginClock(ctx context.Context) error {
	latest, err := s.db.Meta().Timestamp(ctx, storage.TimestampHeartbeat)
	if err != nil {
		return err
	}
	text, err := s.db.Meta().Value(ctx, metaRetiredTime)
	var retired clock.Retired
	if err == nil {
		err = json.Unmarshal([]byte(text), &retired)
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("%s: %w", metaRetiredTime, err)
	}
	if ahead := latest.Sub(s.now()); ahead > clock.MaxOff {
		s.log.Error("the database was last used at a time that has not come yet: the clock was wrong then, or is now",
			"at", latest)
	}
	s.clock.Begin(latest, retired)
	if err := s.observeClock(ctx); err != nil {
		return err
	}
	if gap := s.clock.Doubt(); gap > 0 {
		s.log.Warn("no server has run for long: if the clock is wrong, set it now; nothing is deleted for a day",
			"last", latest)
	}
	return nil
}

// slowClock is how long the database may take to tell the time for that to be of use.
const slowClock = 2 * time.Second

// observeClock compares the time with the clock of the database, or, on SQLite, with that of the machine. A time that
// was wrong is noted as an outage: by it, a client that repeats a refresh came later than it did.
func (s *health) observeClock(ctx context.Context) error {
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
	if now := s.now(); moved > 0 {
		s.ring.Away(now.Add(-moved), now)
	}
	if moved > clock.MaxOff {
		s.log.Warn("the clocks were set forward: nothing is deleted for a day", "by", moved.String())
	}
	given := s.clock.Retired()
	if given != retired && !given.Until.IsZero() && s.db.Kind() == storage.SQLite {
		return s.keepRetired(ctx, given)
	}
	return nil
}

func (s *health) keepRetired(ctx context.Context, given clock.Retired) error {
	s.log.Warn("the time was wrong and has been set: what was judged by it until then stays so",
		slog.Time("now", given.From), slog.Time("was", given.Until))
	text, err := json.Marshal(given)
	if err != nil {
		return fmt.Errorf("%s: %w", metaRetiredTime, err)
	}
	return s.db.Meta().Set(ctx, metaRetiredTime, string(text))
}

// clockWarning is how far the clock may be off before somebody should look.
const clockWarning = 5 * time.Second

// settledTime observes the clock and reports why this replica takes no step by it (*clock.UnsureError); nil if it does.
func (s *health) settledTime(ctx context.Context) error {
	if err := s.observeClock(ctx); err != nil {
		return err
	}
	return s.clock.Settled()
}

// warnOfClock tells the log of a clock that is off.
func (s *health) warnOfClock() {
	if off := s.clock.Off(); off.Abs() > clockWarning {
		s.log.Warn("the clock here is off that of the database: set both by NTP", "by", off.Round(time.Second).String())
	}
}
