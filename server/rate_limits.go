package server

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/keyturn/keyturn/api"
)

// maxRateLimits bounds each of the two generations of budgets that a replica remembers.
const maxRateLimits = 20_000

// budgets are token buckets by key, in the memory of one replica: what is used up comes back evenly over a period. How
// many it holds is bounded: when a generation is full, the one before it is forgotten.
type rateLimits struct {
	size   int
	period time.Duration
	mu     sync.Mutex
	young  map[string]*rate.Limiter
	old    map[string]*rate.Limiter
}

func newRateLimits(size int, period time.Duration) *rateLimits {
	return &rateLimits{size: size, period: period, young: map[string]*rate.Limiter{}}
}

// change makes all budgets of another size, whose parts come back over another period.
func (b *rateLimits) change(size int, period time.Duration, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.size, b.period = size, period
	for _, generation := range []map[string]*rate.Limiter{b.young, b.old} {
		for _, l := range generation {
			l.SetLimitAt(now, b.limit())
			l.SetBurstAt(now, size)
		}
	}
}

// limit is how many come back each second.
func (b *rateLimits) limit() rate.Limit { return rate.Limit(float64(b.size) / b.period.Seconds()) }

// wait tells how long the key must wait until its budget holds one again; 0 if it does now.
func (b *rateLimits) wait(key string, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.young[key]
	if l == nil {
		l = b.old[key]
	}
	if l == nil {
		return 0
	}
	missing := 1 - l.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return max(time.Second, time.Duration(missing*float64(b.period)/float64(b.size)))
}

// untouched tells whether nothing has been spent.
func (b *rateLimits) untouched() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.young) == 0
}

// spend takes one from the budget of the key.
func (b *rateLimits) spend(key string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.young[key]
	if l == nil {
		if l = b.old[key]; l == nil {
			l = rate.NewLimiter(b.limit(), b.size)
		}
		if len(b.young) >= maxRateLimits {
			b.old, b.young = b.young, map[string]*rate.Limiter{}
		}
		b.young[key] = l
	}
	l.AllowN(now, 1)
}

// clientFailures are the budgets of failed client authentications: of a client from an address, and of an address
// whatever the client. Nobody uses up the budget of a client at another address.
type clientFailures struct{ pair, address *rateLimits }

// newClientFailures allows three times as many failures as a user has: secrets are long, and deployments make mistakes.
func newClientFailures(failures int, window time.Duration) clientFailures {
	return clientFailures{newRateLimits(3*failures, window), newRateLimits(30*failures, window)}
}

func (f clientFailures) change(failures int, window time.Duration, now time.Time) {
	f.pair.change(3*failures, window, now)
	f.address.change(30*failures, window, now)
}

func (f clientFailures) wait(clientID, address string, now time.Time) time.Duration {
	wait := f.address.wait(address, now)
	if f.pair.untouched() {
		return wait
	}
	return max(wait, f.pair.wait(pairKey(clientID, address), now))
}

func (f clientFailures) spend(clientID, address string, now time.Time) {
	f.pair.spend(pairKey(clientID, address), now)
	f.address.spend(address, now)
}

// pairKey keeps ids short, whatever was sent as one.
func pairKey(clientID, address string) string {
	return clientID[:min(len(clientID), api.MaxClientID+1)] + "\x00" + address
}
