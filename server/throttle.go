package server

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/queue"
	"github.com/keyturn/keyturn/storage"
)

// throttle decides which logins are judged at all.
//
// Failures are counted without a success between, in the database, so that replicas agree. A login from an address that
// the account has logged in from before is counted for that account and address alone: what strangers do elsewhere
// cannot lock the owner out. Any other login is counted for the account and for the address. Once a count reaches its
// limit, one guess is judged for each delay, and the delay doubles up to eight windows.
//
// A login that is being judged may fail, so it takes a place within the limit. Others wait until it is settled: right
// passwords that come at once are all let in, and guesses stay bounded.
type throttle struct {
	db      *storage.DB
	config  func() *config.Config // in force: limit and window
	mu      sync.Mutex
	flights map[string]*flight
}

// flight is the logins that this replica handles at the moment for one bucket.
type flight struct {
	looking int64 // read what was counted
	judging int64
	apart   int64 // of those that are judged, the ones that are not reserved
	judged  int64 // since the flight began
	waiting []chan struct{}
}

// place is where a login waits for a bucket. Nil: for other replicas, which tell nobody.
type place struct {
	bucket string
	free   chan struct{} // is closed when the login should look again
}

func newThrottle(db *storage.DB, config func() *config.Config) *throttle {
	return &throttle{db: db, config: config, flights: map[string]*flight{}}
}

// policy decides by the settings in force.
func (t *throttle) policy() storage.GuessPolicy {
	c := t.config()
	return storage.GuessPolicy{Limit: int64(c.LoginFailures), Window: c.LoginWindow}
}

// attempt is one login on its way through the throttle.
type attempt struct {
	throttle *throttle
	buckets  []storage.Bucket
	shared   bool   // others may be judged at the same time: it must be reserved in the database first
	reserved bool   // it is
	forget   string // the account's bucket, which a login from a familiar address empties
}

// verdict is whether a login may be judged now.
type verdict int

const (
	verdictJudge  verdict = iota
	verdictRefuse         // it is throttled
	verdictWait           // others are being judged, who may use up the limit
)

// look is a login that reads what was counted in its buckets. It begins before the reading: of two logins, the second
// sees the failure of the first or knows that it has not.
type look struct {
	throttle *throttle
	key      storage.LoginKey
	judged   map[string]int64 // in each bucket, when it began
}

func (k *look) names() []string {
	return []string{k.key.AccountBucket, k.key.AddressBucket, k.key.PairBucket}
}

// look begins a look. Either enter or end must follow.
func (t *throttle) look(key storage.LoginKey) *look {
	k := &look{throttle: t, key: key, judged: map[string]int64{}}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range k.names() {
		f := t.flights[name]
		if f == nil {
			f = &flight{}
			t.flights[name] = f
		}
		f.looking++
		k.judged[name] = f.judged
	}
	return k
}

func (k *look) end() {
	t := k.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range k.names() {
		t.flights[name].looking--
		t.forget(name)
	}
}

// forget drops the flight of a bucket that nobody is in. The lock is held.
func (t *throttle) forget(name string) {
	if f := t.flights[name]; f.judging == 0 && f.looking == 0 {
		delete(t.flights, name)
	}
}

// enter ends the look and takes a place in every bucket of the login, by what was read of them. After verdictJudge,
// leave must follow; with verdictWait, a place in the line of a bucket is returned.
func (k *look) enter(v storage.LoginView, now time.Time) (*attempt, verdict, *place) {
	defer k.end()
	t := k.throttle
	policy := t.policy()
	a := &attempt{throttle: t, buckets: policy.Buckets(k.key, v)}
	if v.Familiar && v.Account.Count > 0 {
		a.forget = k.key.AccountBucket
	}
	for _, b := range a.buckets {
		if !policy.Allows(b, now) {
			return nil, verdictRefuse, nil
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range a.buckets {
		f := t.flights[b.Name]
		if f.judging >= places(b) {
			p := &place{b.Name, make(chan struct{})}
			f.waiting = append(f.waiting, p.free)
			return nil, verdictWait, p
		}
		// An ordinary login, of an account of which nothing has failed and nobody else is being judged, costs no write.
		a.shared = a.shared || b.Read.Count > 0 || f.judging > 0 || f.judged > k.judged[b.Name]
	}
	for _, b := range a.buckets {
		f := t.flights[b.Name]
		if f.judging++; !a.shared {
			f.apart++
		}
	}
	return a, verdictJudge, nil
}

// places is how many guesses may be judged at once in a bucket: each of them may fail.
func places(b storage.Bucket) int64 { return max(b.Limit-b.Read.Count, 1) }

// leave gives the place of an attempt to the next, and takes back what was reserved for it and not settled.
func (a *attempt) leave(ctx context.Context, now time.Time) {
	if a.reserved {
		a.settle(ctx, storage.GuessWithdrawn, now) // else it lapses by itself
	}
	t := a.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range a.buckets {
		f := t.flights[b.Name]
		f.judged++
		if !a.shared {
			f.apart--
		}
		if f.judging--; f.judging == 0 {
			f.wake(len(f.waiting))
		} else {
			f.wake(1)
		}
		t.forget(b.Name)
	}
}

// wake lets the first n of those who wait look again.
func (f *flight) wake(n int) {
	n = min(n, len(f.waiting))
	for _, free := range f.waiting[:n] {
		close(free)
	}
	f.waiting = f.waiting[n:]
}

// passOn takes a login out of its line that waits no longer. If it was its turn, that goes to the next.
func (t *throttle) passOn(p *place) {
	if p == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.flights[p.bucket]
	if f == nil {
		return
	}
	if i := slices.Index(f.waiting, p.free); i >= 0 {
		f.waiting = slices.Delete(f.waiting, i, i+1)
		return
	}
	f.wake(1)
}

// reserve counts the login before it is judged, if it must be. It reports false if other replicas are judging so many
// that it must wait.
func (a *attempt) reserve(ctx context.Context, now time.Time) (ok bool, err error) {
	if !a.shared {
		return true, nil
	}
	a.countApart()
	a.reserved, err = a.throttle.db.Throttle().Reserve(ctx, a.buckets, now)
	return a.reserved, err
}

// countApart sets how many guesses this replica judges that the database does not know of.
func (a *attempt) countApart() {
	a.throttle.mu.Lock()
	defer a.throttle.mu.Unlock()
	for i := range a.buckets {
		b := &a.buckets[i]
		b.Apart = a.throttle.flights[b.Name].apart
	}
}

// settle counts the outcome.
func (a *attempt) settle(ctx context.Context, outcome storage.Guess, now time.Time) error {
	db := a.throttle.db
	if a.forget != "" && outcome == storage.GuessRight {
		if err := db.Throttle().ForgetFailures(ctx, a.forget); err != nil {
			return err
		}
	}
	switch {
	case a.reserved:
		err := db.Throttle().Settle(ctx, a.buckets, outcome, now)
		a.reserved = err != nil // leave gives back what could not be settled
		return err
	case outcome == storage.GuessWrong:
		return db.Throttle().AddFailures(ctx, a.buckets, now)
	}
	return nil
}

// untilFree waits until a place may be free: others are being judged. *queue.BusyError if that takes longer than until
// the deadline.
func untilFree(ctx context.Context, p *place, deadline time.Time) error {
	patience := time.NewTimer(time.Until(deadline))
	defer patience.Stop()
	var free <-chan struct{}
	var again <-chan time.Time
	if p == nil {
		again = time.After(20*time.Millisecond + rand.N(30*time.Millisecond))
	} else {
		free = p.free
	}
	select {
	case <-free:
		return nil
	case <-again:
		return nil
	case <-patience.C:
		return &queue.BusyError{RetryAfter: time.Second}
	case <-ctx.Done():
		return ctx.Err()
	}
}
