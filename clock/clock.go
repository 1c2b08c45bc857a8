// Package clock is the time by which one process judges, and whether that time can be relied on.
//
// A [Clock] runs on the time that has passed since it was made, whatever happens to the clock of the machine.
// [Clock.Observe] compares it with a reference, each second: the clock of the database, or that of the machine where
// there is no other. It follows a reference that is near. A reference that is far off is a clock that somebody has set,
// or that is wrong: the time goes on as it was, and [Clock.Sure] says no until the two agree again, or until what
// happened is explained. The decisions are in [Clock.Observe] alone.
package clock

import (
	"fmt"
	"sync"
	"time"
)

const (
	// MaxOff is how far the clocks may be apart before this process is not sure of the time.
	MaxOff = 30 * time.Second
	// patience is how long a clock that was set must stand before it is believed without another sign.
	patience = 45 * time.Second
	// maxForward is how far a clock may be set forward to be believed without another sign: no login expires by an
	// hour.
	maxForward = time.Hour
	// maxReturn is how far beyond a time that was given up a clock may be for it to have come back to that.
	maxReturn = 24 * time.Hour
	// slew is the share by which the time runs slower where the reference is a little behind: it never goes back.
	slew = 0.05
	// same is how far the steps of one clock may differ that was set once.
	same = 2 * time.Second
)

// UnsureError says that this process is not sure of the time: it ends, deletes and leases nothing, and takes no step of
// a key.
type UnsureError struct {
	Off   time.Duration // how far the clock of the machine is ahead of the reference, or of the time that went on
	Never bool          // it has not been sure since the start, either: it does not even know the time
}

func (e *UnsureError) Error() string {
	return fmt.Sprintf("the clock here is %v off that of the database, or was set since the start: set both by NTP",
		e.Off.Round(time.Second))
}

// Clock is the time of one process. It is safe for concurrent use.
type Clock struct {
	wall     func() time.Time
	elapsed  func() time.Duration // the time that passes, whatever happens to wall
	mu       sync.Mutex
	made     time.Duration // when it was made, by the time that passes
	base     time.Time     // the time when elapsed was 0, as far as it is known
	observed time.Duration // when Observe last ran
	sure     bool
	known    bool // it has been sure once
	off      time.Duration
	floor    time.Time // the latest time at which others have judged before the start
	step     *step
	retired  Retired
}

// step is a reference that has been set, and since when it stands.
type step struct {
	by    time.Duration
	since time.Duration
}

// Retired is a span of time that this process has given up: it had judged until Until, and then learned that it was
// From.
type Retired struct {
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
}

// New makes a clock of the clock of the machine and of the time that passes. It is not sure of the time until Observe
// says so.
func New(wall func() time.Time, elapsed func() time.Duration) *Clock {
	made := elapsed()
	return &Clock{wall: wall, elapsed: elapsed, made: made, observed: made, base: wall().Round(0).Add(-made)}
}

// Now is the time by which to judge. It goes back only when Observe has found that it was wrong.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Clock) now() time.Time { return c.base.Add(c.elapsed()) }

// Begin tells the clock the latest time at which anybody judged before the start, and what was given up then. If the
// reference is behind that, either it is wrong or it was wrong then.
func (c *Clock) Begin(latest time.Time, given Retired) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired = given
	if latest.After(given.Until.Add(MaxOff)) {
		c.floor = latest
	}
}

// Observe compares the time with the reference and returns how far the time was moved, if that was by more than MaxOff:
// 0 mostly. The reference is that of this moment.
func (c *Clock) Observe(reference time.Time) (moved time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	elapsed := c.elapsed()
	wallOff := c.wall().Round(0).Sub(reference)
	judged := c.now()
	by := reference.Sub(judged)
	c.off = wallOff
	switch {
	case !c.known:
		c.learn(reference, wallOff, elapsed)
	case by.Abs() <= MaxOff:
		c.step = nil
		c.sure = wallOff.Abs() <= MaxOff
		if by < 0 { // slower, never back
			by = max(by, -time.Duration(slew*float64(elapsed-c.observed)))
		}
		c.base = c.base.Add(by)
	case wallOff.Abs() > MaxOff: // it agrees with nobody
		c.step, c.sure = nil, false
	case c.explained(by, elapsed):
		moved = by
		c.adopt(reference, elapsed)
	default:
		c.sure, c.off = false, by
	}
	c.observed = elapsed
	return moved
}

// learn makes the clock sure for the first time.
func (c *Clock) learn(reference time.Time, wallOff, elapsed time.Duration) {
	if wallOff.Abs() > MaxOff {
		return
	}
	behind := c.floor.Sub(reference)
	switch {
	case behind <= 0:
	case behind <= MaxOff: // somebody has judged by that time
		reference = c.floor
	case elapsed-c.made < patience: // it may be set soon
		c.base, c.off = c.floor.Add(-elapsed), -behind
		return
	default: // it was wrong then
		c.retired = Retired{From: reference, Until: c.now()}
	}
	c.base = reference.Add(-elapsed)
	c.known, c.sure = true, true
}

// explained reports whether the reference, which was set by so much, is to be believed: it has come back to a time that
// was given up, or it has stood for long enough, and is not so far ahead that logins would end.
func (c *Clock) explained(by, elapsed time.Duration) bool {
	if c.step == nil || (by-c.step.by).Abs() > same {
		c.step = &step{by, elapsed}
	}
	now := c.now().Add(by)
	if lost := c.retired.Until; now.After(lost) && now.Sub(lost) < maxReturn && by > 0 && !lost.IsZero() {
		return true
	}
	return by <= maxForward && elapsed-c.step.since >= patience
}

// adopt takes the reference for the time. What was judged by a later time before stays so (see Over).
func (c *Clock) adopt(reference time.Time, elapsed time.Duration) {
	c.retired = Retired{}
	if judged := c.now(); reference.Before(judged) {
		c.retired = Retired{From: reference, Until: judged}
	}
	c.base = reference.Add(-elapsed)
	c.step, c.sure = nil, true
}

// Sure reports why this process is not sure of the time (*UnsureError); nil if it is.
func (c *Clock) Sure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sure {
		return nil
	}
	return &UnsureError{c.off, !c.known}
}

// Known reports why this process does not know the time at all (*UnsureError); nil if it does, sure or not.
func (c *Clock) Known() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known {
		return nil
	}
	return &UnsureError{c.off, true}
}

// Off is how far the clock of the machine was ahead of the reference, or the reference of the time, when Observe last
// ran.
func (c *Clock) Off() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.off
}

// Over reports whether what is valid from one moment until another must not count: it begins at a time that has not
// come, or it had ended by a time that was given up since. What somebody was told is over does not come back.
func (c *Clock) Over(from, until time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return from.After(c.now().Add(MaxOff)) || from.Before(c.retired.From) && !until.After(c.retired.Until)
}

// Retired is the last span of time that was given up; the zero value if there is none.
func (c *Clock) Retired() Retired {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.retired
}
