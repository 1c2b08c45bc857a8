package passwords

import (
	"context"
	"crypto/rand"
	mathrand "math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyturn/keyturn/queue"
)

// Hasher bounds how many hashes are computed at once. The queue in front of it gives each address its share.
type Hasher struct {
	Policy  Policy
	Took    func(time.Duration) // is called with how long each hash took; nil: it is not
	Decoy   Argon2id            // of a password that nobody has
	queue   *queue.Queue
	garbage atomic.Int64 // bytes of hashes since the last collection
	mu      sync.Mutex
	recent  map[string][]time.Duration // how long the last logins took that failed, by the kind of their hash
}

const (
	recentHashes = 16 // of each kind
	maxKinds     = 32
)

// NewHasher makes a Hasher with so many slots. It computes one hash, to learn how long that takes.
func NewHasher(p Policy, slots int) *Hasher {
	random := make([]byte, 32)
	rand.Read(random)
	begun := time.Now()
	h := &Hasher{Policy: p, Decoy: New(p, string(random)), recent: map[string][]time.Duration{}}
	h.queue = queue.New(slots, time.Since(begun))
	return h
}

// Load is the state of the queue.
func (h *Hasher) Load() queue.Load { return h.queue.Load() }

// Expect sets how long a hash is expected to take, until more has been measured.
func (h *Hasher) Expect(pace time.Duration) { h.queue.Expect(pace) }

// Acquire waits for a slot as one of those at the address. *queue.BusyError if that would take longer than patience.
func (h *Hasher) Acquire(ctx context.Context, at netip.Addr, patience time.Duration) (release func(), err error) {
	return h.queue.Acquire(ctx, party(at), patience)
}

// party is who shares a line in front of the hash slots: an address, or the /56 of an IPv6 address, which is what one
// site has.
func party(at netip.Addr) string {
	if at.Is6() {
		if prefix, err := at.Prefix(56); err == nil {
			return prefix.String()
		}
	}
	return at.String()
}

// Pretend takes the time of a login that waits for a slot and computes the hash, and does neither. Who is throttled is
// refused by it: that must cost as much time as a wrong password, and nobody else's. ok is false if nothing is known
// yet of hashes of that kind.
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

// sample is how long some login took, from its slot on, that failed by a hash of the kind a moment ago.
func (h *Hasher) sample(kind string) (time.Duration, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	recent := h.recent[kind]
	if len(recent) == 0 {
		return 0, false
	}
	return recent[mathrand.IntN(len(recent))], true
}

// Remember keeps how long a login took, from its slot on, that failed by a hash of the kind.
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

// maxGarbage is how much memory of hashes may lie about, in bytes, before it is collected. The collector alone lets as
// much lie as is in use.
const maxGarbage = 32 << 20

// collect lets go of the memory of a hash, or waits until it is worth while.
func (h *Hasher) collect(memory int64) {
	if h.garbage.Add(memory) >= maxGarbage {
		h.garbage.Store(0)
		runtime.GC()
	}
}

// Compare tells whether the password is that of the stored hash: as it was typed, or in its canonical form. better is a
// new hash of one that is, if the policy is above the stored one, else "". The caller has a slot.
func (h *Hasher) Compare(stored Hash, typed, canonical string) (matches bool, better string) {
	begun := time.Now()
	background(func() {
		if matches = stored.Matches(typed, canonical); matches && stored.Weaker(h.Policy) {
			better = New(h.Policy, canonical).String()
		}
	})
	if h.Took != nil {
		h.Took(time.Since(begun))
	}
	h.collect(int64(stored.Cost()) << 10)
	return matches, better
}
