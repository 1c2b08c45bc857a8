package server

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/keyturn/keyturn/queue"
)

// Bounds of the parameters of a stored hash: what is outside is refused, not computed (argon2 panics on zeros and takes all memory on
// large ones).
const (
	maxHashMemory = 1 << 20 // KiB
	maxHashTime   = 16
	maxHashLanes  = 16
)

// hashPolicy is how new passwords are hashed: argon2id, RFC 9106.
type hashPolicy struct {
	memory uint32 // KiB
	time   uint32
	lanes  uint8
}

// storedHash is a hash as it is stored: one of ours, or one that was imported.
type storedHash interface {
	matches(typed, canonical string) bool // computes it for a password under the same parameters and compares in constant time
	weaker(hashPolicy) bool               // it is to be replaced by one under the policy
	cost() uint32                         // KiB that it takes
	kind() string                         // hashes of one kind take the same time
}

// passwordHash is one argon2id hash with its parameters.
type passwordHash struct {
	hashPolicy
	salt, sum []byte
}

func newPasswordHash(p hashPolicy, password string) passwordHash {
	salt := make([]byte, 16)
	rand.Read(salt)
	return passwordHash{p, salt, argon2.IDKey([]byte(password), salt, p.time, p.memory, p.lanes, 32)}
}

// String is the PHC string of the hash.
func (h passwordHash) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.time, h.lanes,
		b64.EncodeToString(h.salt), b64.EncodeToString(h.sum))
}

func (h passwordHash) matches(_, canonical string) bool {
	sum := argon2.IDKey([]byte(canonical), h.salt, h.time, h.memory, h.lanes, uint32(len(h.sum)))
	return subtle.ConstantTimeCompare(sum, h.sum) == 1
}

// weaker tells whether the hash is below the policy in any respect.
func (h passwordHash) weaker(p hashPolicy) bool {
	return h.memory < p.memory || h.time < p.time || len(h.sum) < 32 || len(h.salt) < 16
}

func (h passwordHash) cost() uint32 { return h.memory }

func (h passwordHash) kind() string {
	return fmt.Sprintf("argon2id m=%d,t=%d,p=%d", h.memory, h.time, h.lanes)
}

var errHash = errors.New("not an argon2id hash in PHC form with parameters in bounds")

// parsePasswordHash reads a PHC string.
func parsePasswordHash(s string) (passwordHash, error) {
	var h passwordHash
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v=19" {
		return h, errHash
	}
	var memory, times, lanes uint32
	n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &times, &lanes)
	if err != nil || n != 3 || fmt.Sprintf("m=%d,t=%d,p=%d", memory, times, lanes) != parts[3] {
		return h, errHash
	}
	if times < 1 || times > maxHashTime || lanes < 1 || lanes > maxHashLanes || memory < 8*lanes || memory > maxHashMemory {
		return h, errHash
	}
	b64 := base64.RawStdEncoding.Strict()
	salt, err1 := b64.DecodeString(parts[4])
	sum, err2 := b64.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(salt) < 8 || len(salt) > 64 || len(sum) < 16 || len(sum) > 64 {
		return h, errHash
	}
	return passwordHash{hashPolicy{memory, times, uint8(lanes)}, salt, sum}, nil
}

// hasher bounds how many hashes are computed at once. The queue in front of it gives each address its share.
type hasher struct {
	policy  hashPolicy
	dummy   passwordHash // of a password that nobody has
	queue   *queue.Queue
	garbage atomic.Int64        // bytes of hashes since the last collection
	took    func(time.Duration) // hears how long a hash took; nil: nobody
	mu      sync.Mutex
	recent  map[string][]time.Duration // how long the last logins took that failed, by the kind of their hash
}

const (
	recentHashes = 16 // of each kind
	maxKinds     = 32
)

func newHasher(p hashPolicy, slots int) *hasher {
	random := make([]byte, 32)
	rand.Read(random)
	makeRoom(slots)
	begun := time.Now()
	h := &hasher{policy: p, dummy: newPasswordHash(p, string(random)), recent: map[string][]time.Duration{}}
	h.queue = queue.New(slots, time.Since(begun))
	return h
}

// ballast makes the heap, of which a few megabytes are in use, grow further before it is collected, which saves a tenth of the CPU time of short
// requests. Nobody touches it, so that it takes no memory.
var ballast []byte

const ballastSize = 16 << 20

var room sync.Once

// makeRoom lets as many goroutines run besides the hashes as there are CPUs, so that short requests need not wait until the scheduler takes a
// CPU from a hash. Whoever has set GOMAXPROCS has decided.
func makeRoom(slots int) {
	room.Do(func() {
		if os.Getenv("GOMAXPROCS") == "" {
			runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + slots)
		}
		ballast = make([]byte, ballastSize)
		runtime.KeepAlive(ballast)
	})
}

// acquire waits for a slot as one of those at the address. *queue.BusyError if that would take longer than patience.
func (h *hasher) acquire(ctx context.Context, at netip.Addr, patience time.Duration) (release func(), err error) {
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

// pretend takes the time of a login that waits for a slot and computes the hash, and does neither. Who is throttled is
// refused by it: that must cost as much time as a wrong password, and nobody else's. ok is false if nothing is known
// yet of hashes of that kind.
func (h *hasher) pretend(
	ctx context.Context, at netip.Addr, patience time.Duration, as storedHash,
) (ok bool, err error) {
	span, ok := h.sample(as.kind())
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
func (h *hasher) sample(kind string) (time.Duration, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	recent := h.recent[kind]
	if len(recent) == 0 {
		return 0, false
	}
	return recent[mathrand.IntN(len(recent))], true
}

// remember keeps how long a login took, from its slot on, that failed by a hash of the kind.
func (h *hasher) remember(kind string, took time.Duration) {
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

// maxGarbage is how much memory of hashes may lie about, in bytes, before it is collected. The collector alone lets as much lie as is in use.
const maxGarbage = 32 << 20

// collect lets go of the memory of a hash, or waits until it is worth while.
func (h *hasher) collect(memory int64) {
	if h.garbage.Add(memory) >= maxGarbage {
		h.garbage.Store(0)
		runtime.GC()
	}
}

// compare tells whether the password is that of the stored hash: as it was typed, or in its canonical form. better is a new hash of one that is,
// if the policy is above the stored one, else "". The caller has a slot.
func (h *hasher) compare(stored storedHash, typed, canonical string) (matches bool, better string) {
	begun := time.Now()
	background(func() {
		if matches = stored.matches(typed, canonical); matches && stored.weaker(h.policy) {
			better = newPasswordHash(h.policy, canonical).String()
		}
	})
	if h.took != nil {
		h.took(time.Since(begun))
	}
	h.collect(int64(stored.cost()) << 10)
	return matches, better
}
