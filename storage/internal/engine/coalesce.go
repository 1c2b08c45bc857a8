package engine

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// MaxBatch is how many questions are asked at once.
	MaxBatch  = 64
	maxFlight = 2 // batches that are under way at the same time
	// after which a second one goes: one at a time is the cheapest as long as it is quick
	slowFlight = 10 * time.Millisecond
)

// Coalescer asks questions of several callers at once. A caller joins a batch that has not been asked yet, never one
// that is under way, so that each answer was given after its question had come. A question is dropped unasked when its
// caller has gone, or has waited and would have gone before the answer comes: under too much load a Coalescer answers
// as many as it can, and not those who left.
type Coalescer[K, V any] struct {
	ask     func([]K) ([]V, error)
	mu      sync.Mutex
	waiting []*question[K, V] // in the order in which they came
	flying  int
	relief  *time.Timer   // sends off what waits for too long; nil: nothing does
	pace    time.Duration // how long a batch takes, the mean of the last ones
}

// NewCoalescer is a coalescer of questions that ask answers, in their order.
func NewCoalescer[K, V any](ask func([]K) ([]V, error)) *Coalescer[K, V] {
	return &Coalescer[K, V]{ask: ask}
}

// question is what one caller asks. Value and error are there when done is closed.
type question[K, V any] struct {
	ctx   context.Context
	came  time.Time
	key   K
	value V
	err   error
	done  chan struct{}
}

// hopeless tells why a question need not be asked; nil if it must be. One that has hardly waited must: it could not
// have come earlier, and only questions that are asked show that the database is quick again.
func (q *question[K, V]) hopeless(pace time.Duration) error {
	if err := q.ctx.Err(); err != nil {
		return err
	}
	deadline, ok := q.ctx.Deadline()
	if ok && time.Until(deadline) < pace+pace/4 && time.Since(q.came) > pace/4 {
		return context.DeadlineExceeded
	}
	return nil
}

// Ask asks one question. ErrUnavailable if the context ends before there is an answer, ErrBusy as well if that was for
// want of time.
func (c *Coalescer[K, V]) Ask(ctx context.Context, key K) (V, error) {
	q := &question[K, V]{ctx: ctx, came: time.Now(), key: key, done: make(chan struct{})}
	c.join(q)
	select {
	case <-q.done:
		return q.value, q.err
	case <-ctx.Done():
		var none V
		return none, gaveUp(ctx.Err())
	}
}

// gaveUp is the error of a caller that waited in vain for its turn.
func gaveUp(err error) error {
	if err == context.DeadlineExceeded {
		return ErrBusy
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// join lets a question wait for the next batch. It sends that off if none is under way.
func (c *Coalescer[K, V]) join(q *question[K, V]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = append(c.waiting, q)
	switch {
	case c.flying == 0:
		c.flying++
		go c.fly()
	case c.relief == nil:
		c.relief = time.AfterFunc(slowFlight, c.relieve)
	}
}

// relieve sends off what waits behind a batch that is slow.
func (c *Coalescer[K, V]) relieve() {
	c.mu.Lock()
	c.relief = nil
	spare := c.flying < maxFlight && len(c.waiting) > 0
	if spare {
		c.flying++
	}
	c.mu.Unlock()
	if spare {
		c.fly()
	}
}

// fly asks batches, until none waits.
func (c *Coalescer[K, V]) fly() {
	for batch := c.take(); batch != nil; batch = c.take() {
		begun := time.Now()
		c.answer(batch)
		c.took(time.Since(begun))
	}
}

func (c *Coalescer[K, V]) took(span time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pace == 0 {
		c.pace = span
	}
	c.pace += (span - c.pace) / 8
}

// answer asks a batch. A panic is an error of those who asked; its value may hold a secret.
func (c *Coalescer[K, V]) answer(batch []*question[K, V]) {
	keys := make([]K, len(batch))
	for i, q := range batch {
		keys[i] = q.key
	}
	values, err := c.asked(keys)
	for i, q := range batch {
		if q.err = err; err == nil {
			q.value = values[i]
		}
		close(q.done)
	}
}

func (c *Coalescer[K, V]) asked(keys []K) (values []V, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic (%T)\n%s", p, debug.Stack())
		}
	}()
	return c.ask(keys)
}

// take is the next batch: the oldest questions that there is still somebody and time for. Nil if there are none.
func (c *Coalescer[K, V]) take() (batch []*question[K, V]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(batch) < MaxBatch && len(c.waiting) > 0 {
		q := c.waiting[0]
		c.waiting[0] = nil
		c.waiting = c.waiting[1:]
		if err := q.hopeless(c.pace); err != nil {
			q.err = gaveUp(err)
			close(q.done)
			continue
		}
		batch = append(batch, q)
	}
	if len(c.waiting) == 0 && c.relief != nil {
		c.relief.Stop()
		c.relief = nil
	}
	if len(batch) == 0 {
		c.flying--
		return nil
	}
	return batch
}
