// Package clock is the time by which one process judges, and whether that time can be relied on.
//
// A [Clock] runs on the time that has passed since it was made, whatever happens to the clock of the machine.
// [Clock.Observe] compares it with a reference, each second: the clock of the database, or that of the machine where
// there is no other. It follows a reference that is near. A reference that is far off is a clock that somebody has set,
// or that is wrong: the time goes on as it was, and [Clock.Sure] says no until the two agree again, or until the
// reference has stood for a while. A time that was set forward is doubted for longer (see [Clock.Doubt]).
package clock

import (
	"fmt"
	"sync"
	"time"
)

const (
	// MaxOff is how far the clocks may be apart before this process is not sure of the time.
	MaxOff = 30 * time.Second
	// alonePatience is how long a clock of the machine that was set must stand before it is believed, where there is no
	// other. agreedPatience is the same where a database agrees with it.
	alonePatience  = 45 * time.Second
	agreedPatience = 10 * time.Second
	// same is how far the steps of one clock may differ that was set once.
	same = 2 * time.Second
	// small is how far the time may move without a word.
	small = time.Second
	// longGap is how long nobody may have judged before the start for the clock to be doubted.
	longGap = 24 * time.Hour
	// doubtStart is for how long it is then, and doubtStep for how long one that was set forward while this process
	// ran.
	doubtStart = 15 * time.Minute
	doubtStep  = 24 * time.Hour
	// restFor is for how long nothing is deleted after either.
	restFor = 24 * time.Hour
)

// UnsureError says that this process is not sure of the time: it ends, deletes and leases nothing, and takes no step of
// a key.
type UnsureError struct {
	Off time.Duration // how far the clock of the machine is ahead of the reference, or that of the time that went on
}

// Error says how far the clock is off, and what to do.
func (e *UnsureError) Error() string {
	return fmt.Sprintf("the clock here is %v off that of the database, or was set a short time ago: set both by NTP",
		e.Off.Round(time.Second))
}

// Clock is the time of one process. It is safe for concurrent use.
type Clock struct {
	wall    func() time.Time
	elapsed func() time.Duration // the time that passes, whatever happens to wall
	alone   bool                 // the reference is wall
	mu      sync.Mutex
	made    time.Duration // when it was made, by the time that passes
	base    time.Time     // the time when elapsed was 0, as far as it is known
	known   bool          // it has been sure once
	sure    bool
	off     time.Duration
	latest  time.Time // when somebody judged last, before the start
	floor   time.Time // the same, if it may be that the reference is behind it
	step    *step
	left    time.Time     // base before the time was set forward; zero if it was not
	doubt   time.Duration // by how much the time may be ahead of the true one
	until   time.Duration // until when, by the time that passes
	settle  time.Duration // until when no step is taken
	rest    time.Duration // until when nothing is deleted
	retired Retired
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
// says so. With alone, there is no other clock than that of the machine to compare it with.
func New(wall func() time.Time, elapsed func() time.Duration, alone bool) *Clock {
	made := elapsed()
	return &Clock{wall: wall, elapsed: elapsed, alone: alone, made: made, base: wall().Round(0).Add(-made)}
}

// Now is the time by which to judge. It goes back only when Observe has found that it was wrong.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Clock) now() time.Time { return c.base.Add(c.elapsed()) }

// Begin tells the clock when somebody judged last before the start, and what was given up then.
func (c *Clock) Begin(latest time.Time, given Retired) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.latest, c.retired = latest, given
	if c.alone && latest.After(given.Until.Add(MaxOff)) {
		c.floor = latest
	}
}

// Observe compares the time with the reference, which is that of this moment, and returns how far the time was moved: 0
// for what is less than a second.
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
	case wallOff.Abs() > MaxOff: // the machine and the database do not agree: the time goes on as it was
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
	case elapsed-c.made < alonePatience: // it may be set soon
		if behind <= longGap {
			c.base = c.floor.Add(-elapsed)
		}
		c.off = -behind
		return
	default: // it was wrong then
		c.retired = Retired{From: reference, Until: later(c.now(), c.floor)}
	}
	c.base = reference.Add(-elapsed)
	c.known, c.sure = true, true
	if gap := reference.Sub(c.latest); gap > longGap && !c.latest.IsZero() {
		c.doubted(gap, elapsed, doubtStart)
	}
}

// doubted begins to doubt a time that is so much later than it was, for a while.
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

// explained reports whether the reference, which was set by so much, is to be believed: it has stood for long enough,
// or it has come back to a time that was left or given up.
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

// adopt takes the reference for the time. What was judged by a later time before stays so (see Over); a time that was
// set forward is doubted.
func (c *Clock) adopt(reference time.Time, by, elapsed time.Duration) {
	judged := c.now()
	switch {
	case by > MaxOff:
		if c.retired.Until.Before(reference) {
			c.retired = Retired{}
		}
		c.left = c.base
		c.doubted(by, elapsed, doubtStep)
	case by < -MaxOff: // the time that was doubted is given up
		c.retired = Retired{From: reference, Until: judged}
		c.left, c.until, c.settle = time.Time{}, 0, 0
	case by < -small && !c.retired.Until.After(judged):
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
	return &UnsureError{c.off}
}

// Settled reports why no step should be taken because of the time (*UnsureError): this process is not sure of it, or it
// was set forward within the last quarter of an hour, or nobody had judged for long before the start. Nil if all is
// well.
func (c *Clock) Settled() error { return c.sureSince(func() time.Duration { return c.settle }) }

// Rested is Settled for what cannot be made good: for a day after the time was doubted, nothing is deleted.
func (c *Clock) Rested() error { return c.sureSince(func() time.Duration { return c.rest }) }

func (c *Clock) sureSince(since func() time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sure && c.elapsed() >= since() {
		return nil
	}
	return &UnsureError{c.off + c.doubt}
}

// Doubt is by how much the time may be ahead of the true one: what was not over that long ago may not be over now. 0
// mostly.
func (c *Clock) Doubt() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.elapsed() >= c.until {
		return 0
	}
	return c.doubt
}

// Known reports why this process does not know the time at all (*UnsureError); nil if it does, sure or not.
func (c *Clock) Known() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known {
		return nil
	}
	return &UnsureError{c.off}
}

// Off is how far the clock of the machine was ahead of the reference, or the reference of the time, when Observe last
// ran.
func (c *Clock) Off() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.off
}

// Over reports whether a validity period must not count: it starts in the future, or it had ended by a time that was
// given up later. What somebody was told is over does not come back.
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
