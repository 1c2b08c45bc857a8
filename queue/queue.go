// Package queue lets a bounded number of callers work at once, and makes the others wait in fair lines.
//
// A [Queue] has slots. If no slot is free, a caller waits in the line of its party. Free slots go to the lines in turn,
// so a party with many callers delays only itself. The queue measures how long work takes, predicts the wait of a new
// caller, and refuses at once a caller that it could not serve in time. A caller that goes away leaves its line.
package queue

import (
	"context"
	"sync"
	"time"
)

// BusyError refuses a caller that cannot get a slot in time.
type BusyError struct {
	RetryAfter time.Duration // the predicted time until the line is short enough
}

// Error does not name RetryAfter.
func (e *BusyError) Error() string { return "too many are waiting: try again later" }

// Queue holds slots and the lines of waiting callers. It is safe for concurrent use.
type Queue struct {
	slots   int
	mu      sync.Mutex
	running int
	waiting int
	refused int64
	pace    time.Duration // mean time that work holds a slot
	booked  time.Time     // the earliest retry time for the next refused caller
	lines   map[string]*line
	turn    []*line // the lines with waiting callers, in the order of the next slots
}

// line holds the waiting callers of one party, in order of arrival.
type line struct {
	party   string
	waiters []*waiter
}

// waiter is one waiting caller. Its channel closes when the caller gets a slot.
type waiter struct{ granted chan struct{} }

// New makes a queue. Pace is the expected duration of work, until the queue has measured some.
func New(slots int, pace time.Duration) *Queue {
	return &Queue{slots: max(slots, 1), pace: pace, lines: map[string]*line{}}
}

// Acquire obtains a slot. It waits at most for patience, then returns *BusyError. If the context ends first, it returns
// the error of the context. The caller must call release once, when the work is done.
func (q *Queue) Acquire(ctx context.Context, party string, patience time.Duration) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w, err := q.enter(party, patience)
	if err != nil {
		return nil, err
	}
	if w != nil {
		if err := q.wait(ctx, party, w, patience); err != nil {
			return nil, err
		}
	}
	begun := time.Now()
	return sync.OnceFunc(func() { q.release(time.Since(begun)) }), nil
}

// enter takes a free slot and returns nil, or returns a new waiter in the line of the party.
func (q *Queue) enter(party string, patience time.Duration) (*waiter, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running < q.slots {
		q.running++
		return nil, nil
	}
	if wait := q.predict(party); wait > patience {
		return nil, q.refuse(wait - patience)
	}
	w := &waiter{make(chan struct{})}
	l := q.lines[party]
	if l == nil {
		l = &line{party: party}
		q.lines[party] = l
		q.turn = append(q.turn, l)
	}
	l.waiters = append(l.waiters, w)
	q.waiting++
	return w, nil
}

// maxBooked limits the part of RetryAfter that spreads the retries of refused callers.
const maxBooked = 30 * time.Second

// refuse computes RetryAfter: not before the line is short enough, and spread so that refused callers do not all return
// at the same moment.
func (q *Queue) refuse(wait time.Duration) *BusyError {
	q.refused++
	now := time.Now()
	wait = max(wait, min(q.booked.Sub(now), maxBooked))
	q.booked = now.Add(wait + q.pace/time.Duration(q.slots))
	return &BusyError{wait}
}

// predict returns how long a new caller of the party would wait, counting all callers that get a slot before it.
func (q *Queue) predict(party string) time.Duration {
	mine := 0
	if l := q.lines[party]; l != nil {
		mine = len(l.waiters)
	}
	ahead := mine + 1 // one for the work in progress
	for _, l := range q.turn {
		if l.party != party {
			ahead += min(len(l.waiters), mine+1)
		}
	}
	return time.Duration(ahead) * q.pace / time.Duration(q.slots)
}

// wait blocks until a slot is granted, the patience is over, or the context ends.
func (q *Queue) wait(ctx context.Context, party string, w *waiter, patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.granted:
		if err := ctx.Err(); err != nil {
			q.release(0)
			return err
		}
		return nil
	case <-ctx.Done():
	case <-timer.C:
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-w.granted: // granted at the same moment: pass it on
		q.hand()
	default:
		q.leave(party, w)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return q.refuse(max(time.Second, q.predict(party)-patience))
}

// leave removes a waiter from the line of its party.
func (q *Queue) leave(party string, w *waiter) {
	l := q.lines[party]
	for i, other := range l.waiters {
		if other == w {
			l.waiters = append(l.waiters[:i], l.waiters[i+1:]...)
			q.waiting--
			break
		}
	}
	if len(l.waiters) == 0 {
		q.remove(l)
	}
}

func (q *Queue) remove(l *line) {
	delete(q.lines, l.party)
	for i, other := range q.turn {
		if other == l {
			q.turn = append(q.turn[:i], q.turn[i+1:]...)
			return
		}
	}
}

// release returns a slot. Held is the duration of the work, or 0 if there was none.
func (q *Queue) release(held time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if held > 0 {
		q.pace += (held - q.pace) / 8
	}
	q.hand()
}

// hand gives a slot to the next line in turn, or frees it.
func (q *Queue) hand() {
	if len(q.turn) == 0 {
		q.running--
		return
	}
	l := q.turn[0]
	w := l.waiters[0]
	l.waiters = l.waiters[1:]
	q.waiting--
	q.turn = q.turn[1:]
	if len(l.waiters) > 0 {
		q.turn = append(q.turn, l)
	} else {
		delete(q.lines, l.party)
	}
	close(w.granted)
}

// Predict returns how long a caller of the party would wait now.
func (q *Queue) Predict(party string) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running < q.slots {
		return 0
	}
	return q.predict(party)
}

// Expect sets the expected duration of work. Later measurements adjust it.
func (q *Queue) Expect(pace time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pace = pace
}

// Load is the state of a queue.
type Load struct {
	Running, Waiting int
	Refused          int64 // since the start
}

// Load returns how many callers work, wait and were refused.
func (q *Queue) Load() Load {
	q.mu.Lock()
	defer q.mu.Unlock()
	return Load{q.running, q.waiting, q.refused}
}
