package clock

import (
	"errors"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// world is a machine whose clock may be wrong, and a database with its own clock. Time passes only in wait.
type world struct {
	t                 *testing.T
	passed            time.Duration
	machine, database time.Duration // how far each clock is ahead of the true time
	alone             bool          // the machine's clock is the only one
	clock             *Clock
	moved             time.Duration
}

func (w *world) true() time.Time { return noon.Add(w.passed) }

func (w *world) start(latest time.Time, given Retired) {
	begun := w.passed
	wall := func() time.Time { return w.true().Add(w.machine) }
	w.clock = New(wall, func() time.Duration { return w.passed - begun }, w.alone)
	w.clock.Begin(latest, given)
	w.observe()
}

func (w *world) observe() {
	reference := w.database
	if w.alone {
		reference = w.machine
	}
	w.moved += w.clock.Observe(w.true().Add(reference))
}

// wait lets time pass. The Clock observes each second.
func (w *world) wait(span time.Duration) {
	for end := w.passed + span; w.passed < end; w.passed += time.Second {
		w.observe()
	}
	w.observe()
}

// off asserts that the Clock differs from the true time by that much, within a second.
func (w *world) off(want time.Duration) {
	w.t.Helper()
	if got := w.clock.Now().Sub(w.true()); (got - want).Abs() > time.Second {
		w.t.Errorf("%v off, want %v", got, want)
	}
}

func (w *world) sure(want bool) {
	w.t.Helper()
	var unsure *UnsureError
	if err := w.clock.Sure(); (err == nil) != want || err != nil && !errors.As(err, &unsure) {
		w.t.Errorf("sure: %v, want %v", err, want)
	}
}

func (w *world) known(want bool) {
	w.t.Helper()
	if err := w.clock.Known(); (err == nil) != want {
		w.t.Errorf("known: %v, want %v", err, want)
	}
}

// doubts asserts that the Clock doubts its time by that much.
func (w *world) doubts(want time.Duration) {
	w.t.Helper()
	if got := w.clock.Doubt(); (got - want).Abs() > 2*time.Minute {
		w.t.Errorf("it doubts %v, want %v", got, want)
	}
}

const far = 16 * 24 * time.Hour

func TestClock(t *testing.T) {
	for name, test := range map[string]func(w *world){
		"a small difference is followed at once and reported": func(w *world) {
			w.machine, w.database = 12*time.Second, 0
			w.start(time.Time{}, Retired{})
			w.sure(true)
			w.off(0)
			expired := w.clock.Now()
			for _, off := range []time.Duration{-10 * time.Second, 15 * time.Second} {
				before := w.database
				w.moved, w.database = 0, off
				w.observe()
				w.off(off)
				w.sure(true)
				if (w.moved - (off - before)).Abs() > time.Second {
					w.t.Errorf("moved by %v, reported %v", off-before, w.moved)
				}
				if off < 0 && !w.clock.Over(expired.Add(-10*time.Minute), expired) {
					w.t.Error("an expired token becomes valid again")
				}
			}
		},
		"a database that creeps away is not followed": func(w *world) {
			w.start(time.Time{}, Retired{})
			for range 100 {
				w.database += 20 * time.Second
				w.wait(time.Second)
			}
			w.sure(false)
			if off := w.clock.Now().Sub(w.true()); off > 2*MaxOff {
				w.t.Errorf("followed by %v", off)
			}
			w.database = 0
			w.wait(time.Minute)
			w.sure(true)
			w.off(0)
		},
		"both clocks jump after a machine was saved for two hours": func(w *world) {
			w.start(time.Time{}, Retired{})
			w.machine, w.database = 2*time.Hour, 2*time.Hour
			w.observe()
			w.sure(false)
			w.wait(15 * time.Second)
			w.sure(true)
			w.off(2 * time.Hour)
			w.doubts(2 * time.Hour)
		},
		"alone, sixteen days ahead at the start": func(w *world) {
			w.alone, w.machine = true, far
			w.start(noon.Add(-time.Minute), Retired{})
			w.sure(true)
			w.doubts(far)
			w.wait(time.Minute)
			w.machine = 0
			w.wait(time.Minute)
			w.sure(true)
			w.off(0)
			w.doubts(0)
			if err := w.clock.Settled(); err != nil {
				w.t.Error(err)
			}
			if w.clock.Rested() == nil {
				w.t.Error("it deletes at once")
			}
		},
		"alone, sixteen days behind at the start": func(w *world) {
			w.alone, w.machine = true, -far
			w.start(noon, Retired{})
			w.known(false)
			w.machine = 0
			w.observe()
			w.known(true)
			w.sure(true)
			w.off(0)
		},
		"alone, started for the first time for weeks": func(w *world) {
			w.alone = true
			w.start(noon.Add(-far), Retired{})
			w.sure(true)
			w.doubts(far)
			w.wait(20 * time.Minute)
			w.doubts(0)
			if err := w.clock.Settled(); err != nil {
				w.t.Error(err)
			}
			w.wait(24 * time.Hour)
			if err := w.clock.Rested(); err != nil {
				w.t.Error(err)
			}
		},
		"a machine that starts far ahead knows nothing until it is right": func(w *world) {
			w.machine = far
			w.start(time.Time{}, Retired{})
			w.wait(10 * time.Minute)
			w.sure(false)
			w.known(false)
			w.machine = 0
			w.observe()
			w.sure(true)
			w.off(0)
		},
		"a machine that jumps leaves the clock unsure until it is right": func(w *world) {
			w.start(time.Time{}, Retired{})
			for _, jump := range []time.Duration{far, -far, time.Hour, -time.Hour, 31 * time.Second} {
				w.machine = jump
				w.wait(10 * time.Minute)
				w.sure(false)
				w.known(true)
				w.off(0)
				w.machine = 0
				w.observe()
				w.sure(true)
			}
		},
		"a database that jumps is not followed": func(w *world) {
			w.start(time.Time{}, Retired{})
			for _, jump := range []time.Duration{far, -far, time.Hour, -time.Hour} {
				w.database = jump
				w.wait(10 * time.Minute)
				w.sure(false)
				w.off(0)
				w.database = 0
				w.observe()
				w.sure(true)
				w.off(0)
			}
		},
		"alone, far ahead for a while, then right": func(w *world) {
			w.alone = true
			w.start(noon.Add(-time.Minute), Retired{})
			w.machine = far
			w.wait(30 * time.Second)
			w.sure(false)
			w.off(0)
			w.wait(10 * time.Minute)
			w.sure(true)
			w.off(far)
			w.doubts(far)
			if w.clock.Settled() == nil || w.clock.Rested() == nil {
				w.t.Error("it ends and deletes")
			}
			w.machine = 0
			w.observe()
			w.sure(true)
			w.off(0)
			w.doubts(0)
		},
		"alone, nine hours ahead at the start, then right": func(w *world) {
			w.alone, w.machine = true, 9*time.Hour
			w.start(noon.Add(-time.Minute), Retired{})
			w.sure(true)
			w.wait(time.Minute)
			w.machine = 0
			w.observe()
			w.sure(false)
			w.wait(time.Minute)
			w.sure(true)
			w.off(0)
		},
		"alone, started right after it was nine hours ahead": func(w *world) {
			w.alone = true
			w.start(noon.Add(9*time.Hour), Retired{})
			w.sure(false)
			w.known(false)
			w.off(9 * time.Hour)
			w.wait(time.Minute)
			w.sure(true)
			w.off(0)
			given := w.clock.Retired()
			w.start(noon.Add(9*time.Hour), given) // restart after restart
			w.sure(true)
			w.off(0)
		},
		"alone, behind at the start, then right": func(w *world) {
			w.alone, w.machine = true, -9*time.Hour
			w.start(noon, Retired{})
			w.sure(false)
			w.off(0) // it uses the time from before the start
			w.wait(10 * time.Second)
			w.machine = 0
			w.observe()
			w.sure(true)
			w.off(0)
		},
		"alone, behind at the start for long, then right": func(w *world) {
			w.alone, w.machine = true, -9*time.Hour
			w.start(noon, Retired{})
			w.wait(2 * time.Minute)
			w.sure(true)
			for _, issued := range []time.Duration{-10 * time.Minute, -9*time.Hour - time.Minute} {
				if !w.clock.Over(noon.Add(issued), noon.Add(-time.Second)) {
					w.t.Errorf("a token issued %v from noon becomes valid again", issued)
				}
			}
			if now := w.clock.Now(); w.clock.Over(now, now.Add(10*time.Minute)) {
				w.t.Error("a new token is not valid")
			}
			w.machine = 0
			w.observe()
			w.sure(true)
			w.off(0)
		},
		"alone, set back and set right": func(w *world) {
			w.alone = true
			w.start(time.Time{}, Retired{})
			w.wait(2 * time.Hour)
			expired := w.clock.Now()
			w.machine = -time.Hour
			w.observe()
			w.off(0)
			w.wait(5 * time.Minute)
			if !w.clock.Over(expired.Add(-10*time.Minute), expired) {
				w.t.Error("an expired token becomes valid again")
			}
			w.machine = 0
			w.wait(time.Minute)
			w.sure(true)
			w.off(0)
		},
		"alone, set forward by less than an hour": func(w *world) {
			w.alone = true
			w.start(time.Time{}, Retired{})
			w.machine = 50 * time.Minute
			w.observe()
			w.sure(false)
			w.off(0)
			w.wait(time.Minute)
			w.sure(true)
			w.off(50 * time.Minute)
			if w.moved != 50*time.Minute {
				w.t.Error("the move is not reported:", w.moved)
			}
			w.doubts(50 * time.Minute)
		},
	} {
		t.Run(name, func(t *testing.T) { test(&world{t: t}) })
	}
}
