package passwords

import (
	"context"
	"crypto/rand"
	mathrand "math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/keyturn/keyturn/queue"
)

// Hasher bounds how many hashes are computed at once. The queue in front of it gives each address its share.
type Hasher struct {
	Policy Policy
	Took   func(time.Duration) // receives how long each hash took; may be nil
	Decoy  Argon2id            // the hash of a password that nobody has
	queue  *queue.Queue
	memory memory
	mu     sync.Mutex
	recent map[string][]time.Duration // how long the last failed logins took, by the kind of their hash
}

const (
	recentHashes = 16 // of each kind
	maxKinds     = 32
)

// NewHasher makes a Hasher with the given number of slots. It computes one hash to learn how long that takes.
func NewHasher(p Policy, slots int) *Hasher {
	random := make([]byte, 32)
	rand.Read(random)
	begun := time.Now()
	h := &Hasher{Policy: p, Decoy: New(p, string(random)), recent: map[string][]time.Duration{}}
	h.queue = queue.New(slots, time.Since(begun))
	return h
}

// Load returns the state of the queue.
func (h *Hasher) Load() queue.Load { return h.queue.Load() }

// Expect sets how long a hash is expected to take until enough hashes have been measured.
func (h *Hasher) Expect(pace time.Duration) { h.queue.Expect(pace) }

// Acquire waits for a slot in the line of the address. It returns *queue.BusyError if the wait would exceed patience.
func (h *Hasher) Acquire(ctx context.Context, at netip.Addr, patience time.Duration) (release func(), err error) {
	return h.queue.Acquire(ctx, party(at), patience)
}

// party names a line in front of the hash slots: an IPv4 address, or the /56 of an IPv6 address, since one site may
// have all of that.
func party(at netip.Addr) string {
	if at.Is6() {
		if prefix, err := at.Prefix(56); err == nil {
			return prefix.String()
		}
	}
	return at.String()
}

// Pretend takes as long as a login that waits for a slot and computes a hash, without doing either. A throttled client
// is refused this way: the answer takes as long as for a wrong password, and delays nobody else. ok is false if no hash
// of that kind has been timed yet.
func (h *Hasher) Pretend(ctx context.Context, at netip.Addr, patience time.Duration, as Hash) (ok bool, err error) {
	span, ok := h.sample(as.Kind())
	if !ok {
		return false, nil
	}
	wait := h.queue.Predict(party(at))
	if wait > patience {
		return true, &queue.BusyError{RetryAfter: wait - patience}
	}
	select {
	case <-ctx.Done():
		return true, ctx.Err()
	case <-time.After(wait + span):
		return true, nil
	}
}

// sample returns how long a recent failed login with a hash of the kind took, from its slot on.
func (h *Hasher) sample(kind string) (time.Duration, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	recent := h.recent[kind]
	if len(recent) == 0 {
		return 0, false
	}
	return recent[mathrand.IntN(len(recent))], true
}

// Remember records how long a failed login with a hash of the kind took, from its slot on.
func (h *Hasher) Remember(kind string, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.recent) >= maxKinds && h.recent[kind] == nil {
		clear(h.recent)
	}
	h.recent[kind] = append(h.recent[kind], took)
	if n := len(h.recent[kind]) - recentHashes; n > 0 {
		h.recent[kind] = h.recent[kind][n:]
	}
}

// Compare reports whether the password, as it was typed or in its canonical form, matches the stored hash. If it does,
// and the stored hash is weaker than the policy, better is a new hash; otherwise "". The caller holds a slot.
func (h *Hasher) Compare(stored Hash, typed, canonical string) (matches bool, better string) {
	if stored.Cost() >= smallMemory {
		h.memory.begin()
		defer h.memory.end()
	}
	begun := time.Now()
	if matches = stored.Matches(typed, canonical); matches && stored.Weaker(h.Policy) {
		better = New(h.Policy, canonical).String()
	}
	if h.Took != nil {
		h.Took(time.Since(begun))
	}
	return matches, better
}
