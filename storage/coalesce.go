package storage

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

const (
	maxBatch   = 64                    // questions that are asked at once
	maxFlight  = 2                     // batches that are under way at the same time
	slowFlight = 10 * time.Millisecond // after which a second one goes: one at a time is the cheapest as long as it is quick
)

// coalescer asks questions of several callers at once. A caller joins a batch that has not been asked yet, never one that is under way, so
// that each answer was given after its question had come.
type coalescer[K, V any] struct {
	ask     func([]K) ([]V, error)
	mu      sync.Mutex
	waiting []*batch[K, V]
	flying  int
}

// batch is questions that are asked together. Its values and its error are there when done is closed.
type batch[K, V any] struct {
	keys   []K
	values []V
	err    error
	done   chan struct{}
	relief *time.Timer // sends the batch off if it waits for too long
}

// one asks one question. ErrUnavailable if the context ends before there is an answer.
func (c *coalescer[K, V]) one(ctx context.Context, key K) (v V, err error) {
	b, i := c.join(key)
	select {
	case <-b.done:
	case <-ctx.Done():
		return v, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	if b.err != nil {
		return v, b.err
	}
	return b.values[i], nil
}

// join adds a question to the newest batch that waits. It sends that off if none is under way.
func (c *coalescer[K, V]) join(key K) (b *batch[K, V], i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.waiting); n > 0 && len(c.waiting[n-1].keys) < maxBatch {
		b = c.waiting[n-1]
	} else {
		b = &batch[K, V]{done: make(chan struct{})}
		c.waiting = append(c.waiting, b)
	}
	b.keys = append(b.keys, key)
	switch {
	case c.flying == 0:
		c.flying++
		go c.fly()
	case b.relief == nil:
		b.relief = time.AfterFunc(slowFlight, c.relieve)
	}
	return b, len(b.keys) - 1
}

// relieve sends off what waits behind a batch that is slow.
func (c *coalescer[K, V]) relieve() {
	c.mu.Lock()
	spare := c.flying < maxFlight
	if spare {
		c.flying++
	}
	c.mu.Unlock()
	if spare {
		c.fly()
	}
}

// fly asks batches, until none waits.
func (c *coalescer[K, V]) fly() {
	for b := c.take(); b != nil; b = c.take() {
		c.answer(b)
	}
}

// answer asks a batch. A panic is an error of those who asked; its value may hold a secret.
func (c *coalescer[K, V]) answer(b *batch[K, V]) {
	defer close(b.done)
	defer func() {
		if p := recover(); p != nil {
			b.err = fmt.Errorf("panic (%T)\n%s", p, debug.Stack())
		}
	}()
	b.values, b.err = c.ask(b.keys)
}

func (c *coalescer[K, V]) take() *batch[K, V] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 {
		c.flying--
		return nil
	}
	b := c.waiting[0]
	c.waiting = c.waiting[1:]
	if b.relief != nil {
		b.relief.Stop()
	}
	return b
}
