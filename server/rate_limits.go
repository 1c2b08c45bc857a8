package server

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/keyturn/keyturn/api"
)

// maxRateLimits is the largest number of keys in each of the two generations.
const maxRateLimits = 20_000

// rateLimits are token buckets by key, in the memory of one replica. Each bucket holds size tokens and refills evenly
// over the period. When the young generation is full, it replaces the old one, so memory is bounded.
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

// change sets the size and the period of all buckets.
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

// limit returns how many tokens a bucket regains each second.
func (b *rateLimits) limit() rate.Limit { return rate.Limit(float64(b.size) / b.period.Seconds()) }

// wait returns the time until the bucket of the key holds a token, or 0 if it holds one now.
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

// untouched reports whether nothing was spent. It saves the caller the work of making a key.
func (b *rateLimits) untouched() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.young) == 0
}

// spend takes a token from the bucket of the key.
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

// clientFailures limits failed client authentications: of each client at an address, and of each address. Failures at
// one address never block a client at another.
type clientFailures struct{ pair, address *rateLimits }

// newClientFailures permits a client three times as many failures as a user. Client secrets are hard to guess, and a
// wrong deployment should not be locked out at once.
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

// pairKey cuts the client id, which may be any text, to keep keys short.
func pairKey(clientID, address string) string {
	return clientID[:min(len(clientID), api.MaxClientID+1)] + "\x00" + address
}
