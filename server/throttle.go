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

// throttle decides whether a login may be judged, which means that its password is compared.
//
// The database counts consecutive failures in buckets, so that all replicas agree. A login from a familiar address of
// the account counts only for that account and address, so strangers elsewhere cannot lock out the owner. Any other
// login counts for the account and for the address. Once a count reaches its limit, only one guess is judged for each
// delay. The delay doubles, up to eight windows.
//
// A login in progress may fail, so it takes a place within the limit. Others wait until it is settled. So the number of
// guesses is bounded, and correct passwords that arrive together all succeed.
type throttle struct {
	db      *storage.DB
	config  func() *config.Config // the current limit and window
	mu      sync.Mutex
	flights map[string]*flight
}

// flight counts the logins in progress of one bucket on this replica.
type flight struct {
	looking int64 // logins that read the counts
	judging int64
	apart   int64 // judging, without a reservation in the database
	judged  int64 // since the flight began
	waiting []chan struct{}
}

// place is the place of a waiting login in the line of a bucket. A nil place means that the login waits for other
// replicas, which send no signal.
type place struct {
	bucket string
	free   chan struct{} // closed when the login should look again
}

func newThrottle(db *storage.DB, config func() *config.Config) *throttle {
	return &throttle{db: db, config: config, flights: map[string]*flight{}}
}

// policy returns the policy of the current settings.
func (t *throttle) policy() storage.GuessPolicy {
	c := t.config()
	return storage.GuessPolicy{Limit: int64(c.LoginFailures), Window: c.LoginWindow}
}

// attempt is one login on its way through the throttle.
type attempt struct {
	throttle *throttle
	buckets  []storage.Bucket
	shared   bool   // other logins are in progress: reserve it in the database first
	reserved bool   // it is reserved
	forget   string // the account's bucket, which a login from a familiar address clears; "": none
}

// verdict says whether a login may be judged now.
type verdict int

const (
	verdictJudge  verdict = iota
	verdictRefuse         // throttled
	verdictWait           // logins in progress may use up the limit
)

// look is a login that reads the counts of its buckets. It begins before the read. So the later of two logins either
// reads the failure of the earlier one, or knows that its read may be too old.
type look struct {
	throttle *throttle
	key      storage.LoginKey
	judged   map[string]int64 // flight.judged of each bucket at the begin
}

func (k *look) names() []string {
	return []string{k.key.AccountBucket, k.key.AddressBucket, k.key.PairBucket}
}

// look begins a look. Call enter or end afterwards.
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

// end ends the look without an attempt.
func (k *look) end() {
	t := k.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range k.names() {
		t.flights[name].looking--
		t.forget(name)
	}
}

// forget removes the flight of a bucket without logins in progress. t.mu is held.
func (t *throttle) forget(name string) {
	if f := t.flights[name]; f.judging == 0 && f.looking == 0 {
		delete(t.flights, name)
	}
}

// enter ends the look and starts an attempt in every bucket of the login. After verdictJudge, call attempt.leave. With
// verdictWait it returns a place in the line of a bucket.
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
		// A login costs no write if its buckets have no failures, no other login in progress and none since the read.
		a.shared = a.shared ||
			b.Read.Count > 0 ||
			f.judging > 0 ||
			f.judged > k.judged[b.Name]
	}
	for _, b := range a.buckets {
		f := t.flights[b.Name]
		if f.judging++; !a.shared {
			f.apart++
		}
	}
	return a, verdictJudge, nil
}

// places returns how many guesses may be in progress in a bucket. Each of them may fail.
func places(b storage.Bucket) int64 { return max(b.Limit-b.Read.Count, 1) }

// leave ends an attempt, withdraws a reservation that is not settled, and wakes logins that wait.
func (a *attempt) leave(ctx context.Context, now time.Time) {
	if a.reserved {
		a.settle(ctx, storage.GuessWithdrawn, now) // after an error the reservation expires by itself
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

// wake wakes the first n waiting logins. throttle.mu is held.
func (f *flight) wake(n int) {
	n = min(n, len(f.waiting))
	for _, free := range f.waiting[:n] {
		close(free)
	}
	f.waiting = f.waiting[n:]
}

// passOn removes a login that waits no longer from its line. If it was already woken, the next one gets its turn.
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

// reserve counts a shared attempt in the database before it is judged. It reports false if the attempt must wait for
// other replicas.
func (a *attempt) reserve(ctx context.Context, now time.Time) (ok bool, err error) {
	if !a.shared {
		return true, nil
	}
	a.countApart()
	a.reserved, err = a.throttle.db.Throttle().Reserve(ctx, a.buckets, now)
	return a.reserved, err
}

// countApart sets Apart of each bucket: the guesses in progress here that the database does not know.
func (a *attempt) countApart() {
	a.throttle.mu.Lock()
	defer a.throttle.mu.Unlock()
	for i := range a.buckets {
		b := &a.buckets[i]
		b.Apart = a.throttle.flights[b.Name].apart
	}
}

// settle records the outcome of an attempt.
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
		a.reserved = err != nil // leave withdraws it after an error
		return err
	case outcome == storage.GuessWrong:
		return db.Throttle().AddFailures(ctx, a.buckets, now)
	}
	return nil
}

// untilFree waits until a place may be free. The error is *queue.BusyError after the deadline.
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
