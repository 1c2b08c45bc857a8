package engine

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// MaxBatch is the largest batch.
	MaxBatch  = 64
	maxFlight = 2 // batches under way at the same time
	// slowFlight is when a second batch is sent: one at a time is cheapest while it is fast.
	slowFlight = 10 * time.Millisecond
)

// Coalescer asks the questions of several callers in one batch. A caller joins a batch that has not been sent, never
// one under way, so that each answer is newer than its question. A question is dropped if its caller has left, or has
// waited and would leave before the answer: under overload, a coalescer answers as many as it can, and none too late.
type Coalescer[K, V any] struct {
	ask     func([]K) ([]V, error)
	patient bool // a caller whose question has been sent waits for the answer
	mu      sync.Mutex
	waiting []*question[K, V] // oldest first
	flying  int
	relief  *time.Timer   // runs relieve; nil: nothing waits
	pace    time.Duration // how long a batch takes, a moving average
}

// NewCoalescer returns a Coalescer. ask answers a batch, in its order.
func NewCoalescer[K, V any](ask func([]K) ([]V, error)) *Coalescer[K, V] {
	return &Coalescer[K, V]{ask: ask}
}

// NewPatientCoalescer returns a Coalescer for questions that change something: a caller leaves only as long as its
// question has not been sent. ask must bound its time.
func NewPatientCoalescer[K, V any](ask func([]K) ([]V, error)) *Coalescer[K, V] {
	return &Coalescer[K, V]{ask: ask, patient: true}
}

// question is what one caller asks. value and err are set when done is closed.
type question[K, V any] struct {
	sent  bool // mu of the Coalescer guards it
	ctx   context.Context
	came  time.Time
	key   K
	value V
	err   error
	done  chan struct{}
}

// hopeless returns why a question need not be asked, or nil. A question that has hardly waited is always asked: its
// caller could not have come earlier, and only questions that are asked show that the database is fast again.
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

// Ask asks one question. If the context ends first: ErrBusy after a deadline, otherwise ErrUnavailable.
func (c *Coalescer[K, V]) Ask(ctx context.Context, key K) (V, error) {
	q := &question[K, V]{
		ctx:  ctx,
		came: time.Now(),
		key:  key,
		done: make(chan struct{}),
	}
	c.join(q)
	select {
	case <-q.done:
		return q.value, q.err
	case <-ctx.Done():
		if c.patient && c.hasSent(q) {
			<-q.done
			return q.value, q.err
		}
		var none V
		return none, gaveUp(ctx.Err())
	}
}

// hasSent reports whether the answer to a question is on its way. Once its context has ended, a question is not sent.
func (c *Coalescer[K, V]) hasSent(q *question[K, V]) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return q.sent
}

// gaveUp returns the error of a caller that waited in vain.
func gaveUp(err error) error {
	if err == context.DeadlineExceeded {
		return ErrBusy
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// join adds a question to the next batch, and sends that if none is under way.
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

// relieve sends what waits behind a slow batch.
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

// fly sends batches until no question waits.
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

// answer asks a batch. A panic becomes an error of its callers, without its value, which may hold a secret.
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

// take returns the next batch: the oldest questions that are still worth asking. Nil if there are none.
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
		q.sent = true
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
