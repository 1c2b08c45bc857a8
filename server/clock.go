package server

import (
	"context"
	"time"

	"github.com/keyturn/keyturn/keys"
)

// steadyClock is the time by which a server judges. It never goes back: what has expired stays so if the clock of the machine is set back. It
// follows one that is set forward, since what was to expire meanwhile may have.
type steadyClock struct {
	wall    func() time.Time
	elapsed func() time.Duration // since the clock was made, whatever happens to wall
	start   time.Time
}

func newClock(wall func() time.Time, elapsed func() time.Duration) *steadyClock {
	return &steadyClock{wall: wall, elapsed: elapsed, start: wall().Round(0)}
}

// steady is what the time would be if nobody had set the clock since the start.
func (c *steadyClock) steady() time.Time { return c.start.Add(c.elapsed()) }

func (c *steadyClock) now() time.Time {
	wall, steady := c.wall().Round(0), c.steady()
	if wall.Before(steady) {
		return steady
	}
	return wall
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

// watchClock warns of a clock that is off.
func (s *Server) watchClock(ctx context.Context) {
	off, err := s.ring.ClockOff(ctx)
	if err != nil {
		return // the log has it from others
	}
	s.clockOff.Store(int64(off))
	if off.Abs() > clockWarning {
		s.log.Warn((&clockError{off}).Error())
	}
}
