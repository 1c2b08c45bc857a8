package console

import (
	"context"
	"sync"
	"time"

	"github.com/keyturn/keyturn/admin"
)

// tokenCounts keeps the last count of live tokens: a count reads every login that was used lately.
type tokenCounts struct {
	mu      sync.Mutex
	counts  map[string]int64 // nil: the last count took too long
	version int64            // of the key set that was counted
	at      time.Time        // zero: nothing was counted yet
	running chan struct{}    // closed at the end of the count that runs; nil: none
}

const (
	countsLast   = 30 * time.Second      // how long a count is shown
	countsWaited = 30 * time.Millisecond // how long a request waits for a count
)

// liveTokens returns the number of live tokens of each key, at most half a minute old; nil if they are still being
// counted, or could not be counted.
func (c *Console) liveTokens(ctx context.Context) map[string]int64 {
	a := c.Admin(admin.Options{Now: c.Now}).Keys()
	version := a.Version()
	counts, running := c.tokens.of(version, c.Now(), func() chan struct{} { return c.count(ctx, a, version) })
	if running == nil {
		return counts
	}
	select {
	case <-running:
	case <-time.After(countsWaited):
	case <-ctx.Done():
	}
	counts, _ = c.tokens.of(version, c.Now(), nil)
	return counts
}

// of returns the counts of a key set. If they are too old, it begins a count, unless begin is nil.
func (t *tokenCounts) of(
	version int64, now time.Time, begin func() chan struct{},
) (counts map[string]int64, running chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.version == version && now.Sub(t.at).Abs() < countsLast { // also a failed count is not tried again at once
		return t.counts, nil
	}
	if t.running == nil && begin != nil {
		t.running = begin()
	}
	return nil, t.running
}

// count counts in the background: the request that began it may end before.
func (c *Console) count(ctx context.Context, a admin.Keys, version int64) chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		counts, err := a.LiveTokens(context.WithoutCancel(ctx))
		c.tokens.mu.Lock()
		defer c.tokens.mu.Unlock()
		c.tokens.running = nil
		if err != nil {
			c.Log.Warn("live tokens could not be counted", "error", err.Error())
			counts = nil
		}
		c.tokens.counts, c.tokens.version, c.tokens.at = counts, version, c.Now()
	}()
	return done
}
