// Package queue lets a bounded number of callers work at once and lines up the others.
//
// A [Queue] has slots. A caller that finds none free waits in the line of its party, and a free slot goes to the lines
// in turn, so that a party with many callers delays itself and not the others. The queue knows how long work takes,
// predicts how long a new caller would wait, and refuses at once a caller that could not be served in time. Waiting
// changes nothing: a caller that goes away leaves its line.
package queue

import (
	"context"
	"sync"
	"time"
)

// BusyError refuses a caller that cannot have a slot in time.
type BusyError struct {
	RetryAfter time.Duration // after which the line is predicted to be short enough
}

// Error does not name RetryAfter.
func (e *BusyError) Error() string { return "too many are waiting: try again later" }

// Queue is slots and the lines in front of them. It is safe for concurrent use.
type Queue struct {
	slots   int
	mu      sync.Mutex
	running int
	waiting int
	refused int64
	pace    time.Duration // mean time that work holds a slot
	booked  time.Time     // until when those who were refused have been told to come again, one after the other
	lines   map[string]*line
	turn    []*line // lines in which somebody waits, in the order in which they get the next slots
}

// line is the waiting callers of one party, in the order in which they came.
type line struct {
	party   string
	waiters []*waiter
}

// waiter is one caller that waits. Its channel is closed when it has a slot.
type waiter struct{ granted chan struct{} }

// New makes a queue. Pace is how long work is expected to hold a slot until some has been measured.
func New(slots int, pace time.Duration) *Queue {
	return &Queue{slots: max(slots, 1), pace: pace, lines: map[string]*line{}}
}

// Acquire obtains a slot. It waits no longer than patience and no longer than the context lives: *BusyError after the
// one, the error of the context after the other. Release must be called once, when the work is done.
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

// enter takes a free slot, or a place in the line of the party, which it returns.
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

// maxBooked is how far ahead callers are told to come again because of others who were refused before them.
const maxBooked = 30 * time.Second

// refuse tells a caller when to come again: not before its line is short enough, and not all who are refused at the
// same moment.
func (q *Queue) refuse(wait time.Duration) *BusyError {
	q.refused++
	now := time.Now()
	wait = max(wait, min(q.booked.Sub(now), maxBooked))
	q.booked = now.Add(wait + q.pace/time.Duration(q.slots))
	return &BusyError{wait}
}

// predict is how long a new caller of the party would wait: for all that get a slot before it, turn by turn.
func (q *Queue) predict(party string) time.Duration {
	mine := 0
	if l := q.lines[party]; l != nil {
		mine = len(l.waiters)
	}
	ahead := mine + 1 // and the work that has begun
	for _, l := range q.turn {
		if l.party != party {
			ahead += min(len(l.waiters), mine+1)
		}
	}
	return time.Duration(ahead) * q.pace / time.Duration(q.slots)
}

// wait waits for a slot that is granted.
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
	case <-w.granted: // at the same moment
		q.hand()
	default:
		q.leave(party, w)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return q.refuse(max(time.Second, q.predict(party)-patience))
}

// leave takes a waiter out of the line of its party.
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

// release gives a slot back. Held is how long the work took; 0 for none.
func (q *Queue) release(held time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if held > 0 {
		q.pace += (held - q.pace) / 8
	}
	q.hand()
}

// hand gives a slot to the line whose turn it is.
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

// Predict is how long a caller of the party would wait now.
func (q *Queue) Predict(party string) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running < q.slots {
		return 0
	}
	return q.predict(party)
}

// Expect sets how long work is expected to hold a slot, until more has been measured.
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

// Load tells how many work, wait and were refused.
func (q *Queue) Load() Load {
	q.mu.Lock()
	defer q.mu.Unlock()
	return Load{q.running, q.waiting, q.refused}
}
