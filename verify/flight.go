package verify

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// flight runs one fetch at a time. Callers who come meanwhile share its result.
type flight struct {
	mu      sync.Mutex
	current *fetching // nil: none runs
}

// fetching is a fetch under way.
type fetching struct {
	done chan struct{}
	err  error // valid when done is closed
}

// do runs f, or waits for the one that runs. A caller who gives up does not wait; f goes on until life ends, since
// others may wait for it.
func (g *flight) do(ctx, life context.Context, f func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	g.mu.Lock()
	c := g.current
	if c == nil {
		c = &fetching{done: make(chan struct{})}
		g.current = c
		go func() {
			c.err = f(life)
			g.mu.Lock()
			g.current = nil
			g.mu.Unlock()
			close(c.done)
		}()
	}
	g.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
}

// failure is the last failure of a fetch. For a second, callers get it instead of trying again.
type failure struct {
	err error
	at  time.Time
}

func (f *failure) recent(now time.Time) error {
	if f.err != nil && now.Sub(f.at).Abs() < leastInterval {
		return f.err
	}
	return nil
}
