package verify

import (
	"context"
	"fmt"
	"time"
)

// gate lets one caller in at a time. A caller who waits can give up.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

func (g gate) enter(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
}

func (g gate) leave() { <-g }

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
