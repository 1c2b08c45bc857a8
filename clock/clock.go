// Package clock keeps the time of one process, and knows whether that time is reliable.
//
// A [Clock] counts the time elapsed since it was made, and ignores changes of the machine's clock. [Clock.Observe]
// compares it each second with a reference: the clock of the database, or the clock of the machine if there is no
// other. The Clock follows a reference that is near. A reference that is far off was set by somebody, or is wrong. Then
// the Clock keeps counting, and [Clock.Sure] returns an error until the two agree again, or until the reference has
// been stable for a while. After a time was set forward, the Clock doubts it for longer (see [Clock.Doubt]).
package clock

import (
	"fmt"
	"sync"
	"time"
)

const (
	// MaxOff is the largest difference of the clocks at which this process is sure of the time.
	MaxOff = 30 * time.Second
	// alonePatience is how long a machine's clock that was set must be stable before the Clock follows it, if there is
	// no other clock. agreedPatience is the same if the database agrees with the machine.
	alonePatience  = 45 * time.Second
	agreedPatience = 10 * time.Second
	// same is the largest difference of two observations of one step.
	same = 2 * time.Second
	// small is the largest move of the time that Observe does not report.
	small = time.Second
	// longGap is the time without any server after which a start doubts the clock.
	longGap = 24 * time.Hour
	// doubtStart is the length of the doubt after such a start. doubtStep is the length after a clock was set forward
	// while this process ran.
	doubtStart = 15 * time.Minute
	doubtStep  = 24 * time.Hour
	// restFor is how long nothing is deleted after either event.
	restFor = 24 * time.Hour
)

// UnsureError says that this process is not sure of the time. It then ends no login, deletes nothing, takes no lease,
// and takes no step of a key.
type UnsureError struct {
	Off time.Duration // how far the machine is ahead of the reference, or the reference ahead of the Clock
}

// Error says how far the clock is off, and what to do.
func (e *UnsureError) Error() string {
	return fmt.Sprintf(
		"not sure of the time: the clock of this machine is %v off the clock of the database, or was set a short time "+
			"ago: set both with NTP",
		e.Off.Round(time.Second),
	)
}

// CheckOff returns an *UnsureError if two clocks differ by more than MaxOff.
func CheckOff(off time.Duration) error {
	if off.Abs() > MaxOff {
		return &UnsureError{off}
	}
	return nil
}

// Clock is the time of one process. It is safe for concurrent use.
type Clock struct {
	wall    func() time.Time
	elapsed func() time.Duration // counts on when wall is set
	alone   bool                 // the reference is wall
	mu      sync.Mutex
	made    time.Duration // elapsed when the Clock was made
	base    time.Time     // the time at which elapsed was 0, by the best knowledge
	known   bool          // the Clock has been sure at least once
	sure    bool
	off     time.Duration
	latest  time.Time // the last use of the database before the start
	floor   time.Time // latest, if the reference may be behind it
	step    *step
	left    time.Time     // base before the time was set forward; zero if that did not happen
	doubt   time.Duration // how far the time may be ahead of the true time
	until   time.Duration // elapsed at which the doubt ends
	settle  time.Duration // elapsed until which no step is taken
	rest    time.Duration // elapsed until which nothing is deleted
	retired Retired
}

// step is a reference that was set, and the elapsed time at which it was set.
type step struct {
	by    time.Duration
	since time.Duration
}

// Retired is a span of time that the Clock has given up: its time had reached Until, and then it learned that the true
// time was From.
type Retired struct {
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
}

// New makes a Clock from the machine's clock and a counter of elapsed time. It is not sure of the time before Observe.
// Alone means that the machine's clock is the only reference.
func New(wall func() time.Time, elapsed func() time.Duration, alone bool) *Clock {
	made := elapsed()
	return &Clock{wall: wall, elapsed: elapsed, alone: alone, made: made, base: wall().Round(0).Add(-made)}
}

// Now returns the time. It goes back only after Observe has found it wrong.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Clock) now() time.Time { return c.base.Add(c.elapsed()) }

// Begin sets the last use of the database before the start, and the span that was given up before.
func (c *Clock) Begin(latest time.Time, given Retired) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latest, c.retired = latest, given
	if c.alone && latest.After(given.Until.Add(MaxOff)) {
		c.floor = latest
	}
}

// Observe compares the time with the reference, which was read at this moment. It returns how far it moved the time: 0
// for less than a second.
func (c *Clock) Observe(reference time.Time) (moved time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	elapsed := c.elapsed()
	wallOff := c.wall().Round(0).Sub(reference)
	by := reference.Sub(c.now())
	c.off = wallOff
	switch {
	case !c.known:
		c.learn(reference, wallOff, elapsed)
		return 0
	case wallOff.Abs() > MaxOff: // machine and database disagree: keep counting
		c.step, c.sure = nil, false
		return 0
	case by.Abs() > MaxOff && !c.explained(by, elapsed):
		c.sure, c.off = false, by
		return 0
	}
	c.adopt(reference, by, elapsed)
	if by.Abs() < small {
		return 0
	}
	return by
}

// learn makes the Clock sure for the first time, if it can.
func (c *Clock) learn(reference time.Time, wallOff, elapsed time.Duration) {
	if wallOff.Abs() > MaxOff {
		return
	}
	behind := c.floor.Sub(reference)
	switch {
	case behind <= 0:
	case behind <= MaxOff: // a server has already used that time
		reference = c.floor
	case elapsed-c.made < alonePatience: // somebody may set the clock soon
		if behind <= longGap {
			c.base = c.floor.Add(-elapsed)
		}
		c.off = -behind
		return
	default: // the clock was wrong before the start
		c.retired = Retired{From: reference, Until: later(c.now(), c.floor)}
	}
	c.base = reference.Add(-elapsed)
	c.known, c.sure = true, true
	if gap := reference.Sub(c.latest); gap > longGap && !c.latest.IsZero() {
		c.doubted(gap, elapsed, doubtStart)
	}
}

// doubted starts a doubt of the given span about a time that moved forward by so much.
func (c *Clock) doubted(by, elapsed, span time.Duration) {
	if elapsed < c.until {
		by += c.doubt
	}
	c.doubt, c.until = by, elapsed+span
	c.settle, c.rest = elapsed+doubtStart, elapsed+restFor
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// explained reports whether to follow the reference, which was set by so much: it has been stable for long enough, or
// it has returned to a time that the Clock had left or given up.
func (c *Clock) explained(by, elapsed time.Duration) bool {
	if c.step == nil || (by-c.step.by).Abs() > same {
		c.step = &step{by, elapsed}
	}
	now := c.now().Add(by)
	if !c.left.IsZero() && now.Sub(c.left.Add(elapsed)).Abs() <= MaxOff {
		return true
	}
	lost := c.retired.Until
	if by > 0 && !lost.IsZero() && now.After(lost) && now.Sub(lost) < longGap {
		return true
	}
	patience := agreedPatience
	if c.alone {
		patience = alonePatience
	}
	return elapsed-c.step.since >= patience
}

// adopt sets the time to the reference. What had expired by a later time before stays expired (see Over). A time that
// was set forward is doubted.
func (c *Clock) adopt(reference time.Time, by, elapsed time.Duration) {
	judged := c.now()
	switch {
	case by > MaxOff:
		if c.retired.Until.Before(reference) {
			c.retired = Retired{}
		}
		c.left = c.base
		c.doubted(by, elapsed, doubtStep)
	case by < -MaxOff: // give up the doubted time
		c.retired = Retired{From: reference, Until: judged}
		c.left, c.until, c.settle = time.Time{}, 0, 0
	case by < -small && !c.retired.Until.After(judged):
		c.retired = Retired{From: reference, Until: judged}
	}
	c.base = reference.Add(-elapsed)
	c.step, c.sure = nil, true
}

// Sure returns nil if this process is sure of the time, and otherwise an *UnsureError.
func (c *Clock) Sure() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sure {
		return nil
	}
	return &UnsureError{c.off}
}

// Settled returns nil if keys may take steps by this time, and otherwise an *UnsureError: this process is not sure of
// the time, or the time was set forward within the last quarter of an hour, or this process started within that time
// after no server had run for long.
func (c *Clock) Settled() error { return c.sureSince(func() time.Duration { return c.settle }) }

// Rested is Settled for deletions, which nothing can undo: it returns an error for a day after a doubt began.
func (c *Clock) Rested() error { return c.sureSince(func() time.Duration { return c.rest }) }

func (c *Clock) sureSince(since func() time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sure && c.elapsed() >= since() {
		return nil
	}
	return &UnsureError{c.off + c.doubt}
}

// Doubt returns how far the time may be ahead of the true time: what expired within that time may not have expired. It
// is usually 0.
func (c *Clock) Doubt() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.elapsed() >= c.until {
		return 0
	}
	return c.doubt
}

// Known returns nil if this process has been sure of the time at least once, and otherwise an *UnsureError.
func (c *Clock) Known() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known {
		return nil
	}
	return &UnsureError{c.off}
}

// Off returns how far, at the last Observe, the machine was ahead of the reference, or the reference ahead of the
// Clock.
func (c *Clock) Off() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.off
}

// Over reports whether to treat a validity period as over: it starts in the future, or it had ended by a time that was
// given up later. So a token that was reported as expired never becomes valid again.
func (c *Clock) Over(from, until time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return from.After(c.now().Add(MaxOff)) || from.Before(c.retired.From) && !until.After(c.retired.Until)
}

// Retired returns the last span of time that was given up, or the zero value.
func (c *Clock) Retired() Retired {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.retired
}
