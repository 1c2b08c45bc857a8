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

// metaRetiredTime stores the span of wrong time that a server on SQLite has given up. Without it, the next start would
// wait for that time again.
const metaRetiredTime = "retired time"

// beginClock starts the clock with the times that the database has stored.
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
		s.log.Warn("no server has run for a long time: if the clock is wrong, set it now; nothing is deleted for a day",
			"last", latest)
	}
	return nil
}

// slowClock is the longest time of a clock query. The answer of a slower one is too inexact.
const slowClock = 2 * time.Second

// observeClock compares the time with the clock of the database, or, on SQLite, of the machine. If the time moves
// forward, a repeated refresh would seem late, so the move counts as an outage.
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
	before := s.clock.Retired()
	moved := s.clock.Observe(reference.Add(took / 2))
	if now := s.now(); moved > 0 {
		s.ring.NoteOutage(now.Add(-moved), now)
	}
	if moved > clock.MaxOff {
		s.log.Warn("the clock was set forward: nothing is deleted for a day", "by", moved.String())
	}
	retired := s.clock.Retired()
	changed := retired != before && !retired.Until.IsZero()
	if changed && s.db.Kind() == storage.SQLite {
		return s.storeRetired(ctx, retired)
	}
	return nil
}

// storeRetired logs and stores a span of wrong time.
func (s *health) storeRetired(ctx context.Context, retired clock.Retired) error {
	s.log.Warn("the time was wrong and was set back: what had expired by the wrong time stays expired",
		slog.Time("now", retired.From), slog.Time("was", retired.Until))
	text, err := json.Marshal(retired)
	if err != nil {
		return fmt.Errorf("%s: %w", metaRetiredTime, err)
	}
	return s.db.Meta().Set(ctx, metaRetiredTime, string(text))
}

// clockWarning is the largest clock offset without a warning.
const clockWarning = 5 * time.Second

// settledTime observes the clock. The error is *clock.UnsureError while no key may take a step by this time.
func (s *health) settledTime(ctx context.Context) error {
	if err := s.observeClock(ctx); err != nil {
		return err
	}
	return s.clock.Settled()
}

// warnOfClock logs an offset of the clock.
func (s *health) warnOfClock() {
	if off := s.clock.Off(); off.Abs() > clockWarning {
		s.log.Warn("the clock here is off: it differs from the clock of the database; use NTP on both",
			"by", off.Round(time.Second).String())
	}
}
