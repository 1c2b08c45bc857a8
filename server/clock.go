package server

import (
	"context"
	"sync"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// steadyClock is the time by which a server judges. It is never behind what it was told once, by the clock of the machine at the start or by the
// database: what has expired stays so if that clock is set back, or was wrong from the start. It follows one that is set forward.
type steadyClock struct {
	wall    func() time.Time
	elapsed func() time.Duration // since the clock was made, whatever happens to wall
	mu      sync.Mutex
	start   time.Time
}

func newClock(wall func() time.Time, elapsed func() time.Duration) *steadyClock {
	return &steadyClock{wall: wall, elapsed: elapsed, start: wall().Round(0)}
}

// steady is what the time would be if nobody had set the clock since the start.
func (c *steadyClock) steady() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.start.Add(c.elapsed())
}

// atLeast tells the clock that it is that late by now.
func (c *steadyClock) atLeast(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if start := now.Add(-c.elapsed()); start.After(c.start) {
		c.start = start
	}
}

func (c *steadyClock) now() time.Time {
	wall, steady := c.wall().Round(0), c.steady()
	if wall.Before(steady) {
		return steady
	}
	return wall
}

// maxAhead is how far ahead the last heartbeat may be for the clock here to be what is wrong. Beyond it, the clock was wrong then, and waiting for
// that time to come would be worse.
const maxAhead = 24 * time.Hour

// syncClock tells the clock what the database knows of the time: when a server last ran on it, and, with PostgreSQL, its own clock.
func (s *Server) syncClock(ctx context.Context) error {
	if s.clock == nil {
		return nil
	}
	last, err := s.db.Mark(ctx, storage.MarkHeartbeat)
	if err != nil {
		return err
	}
	if ahead := last.Sub(s.clock.steady()); ahead > maxAhead {
		s.log.Error("the database was last used at a time that has not come yet: the clock was wrong then, or is now", "at", last)
	} else {
		s.clock.atLeast(last)
	}
	if s.db.Kind() == storage.SQLite {
		return nil
	}
	theirs, err := s.databaseNow(ctx)
	if err == nil {
		s.clock.atLeast(theirs)
	}
	return err
}

// clockWarning is how far the clock may be off before somebody should look.
const clockWarning = 5 * time.Second

// clockAgrees tells whether the clock is that of the database; with SQLite, whether nobody has set it since the start.
func (s *Server) clockAgrees(ctx context.Context) error {
	off, err := s.ring.ClockOff(ctx)
	if err == nil && off.Abs() > keys.MaxClockOff {
		err = &clockError{off}
	}
	return err
}

type clockError struct{ off time.Duration }

func (e *clockError) Error() string {
	return "the clock is " + e.off.Round(time.Second).String() + " off that of the database, or was set since the start: set both by NTP, and restart"
}

// watchClock warns of a clock that is off, and goes by that of the database where that is ahead.
func (s *Server) watchClock(ctx context.Context) {
	off, err := s.ring.ClockOff(ctx)
	if err == nil {
		err = s.syncClock(ctx)
	}
	if err != nil {
		return // the log has it from others
	}
	s.clockOff.Store(int64(off))
	if off.Abs() > clockWarning {
		s.log.Warn((&clockError{off}).Error())
	}
}
