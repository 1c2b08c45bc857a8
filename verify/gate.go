package verify

import (
	"context"
	"fmt"
	"time"
)

// gate lets one caller in at a time.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

// do runs f when no other caller is in. A caller who gives up does not wait for the end of f, which goes on: others may
// wait for its result.
func (g gate) do(ctx context.Context, f func(context.Context) error) error {
	done := make(chan error, 1)
	select {
	case g <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	go func() {
		defer func() { <-g }()
		done <- f(context.WithoutCancel(ctx))
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
}

// failure is the last failure of a fetch. For a second, callers get it instead of trying again.
type failure struct {
	err error
	at  time.Time
}

func (f *failure) note(err error, at time.Time) error {
	f.err, f.at = err, at
	return err
}

func (f *failure) recent(now time.Time) error {
	if f.err != nil && now.Sub(f.at).Abs() < leastInterval {
		return f.err
	}
	return nil
}
