package server

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"sync"
	"time"

	"github.com/keyturn/keyturn/storage"
)

const (
	// maxConsecutive is how often in a row the password of an account may be wrong before no more guesses are judged from addresses that
	// the account has not logged in from (NIST SP 800-63B allows 100).
	maxConsecutive = 100
	// addressFactor is how many accounts' worth of failures one address may cause, since many people share one.
	addressFactor = 10
)

// throttle decides which logins are judged at all.
//
// Failures are counted without a success between, in the database, so that replicas agree. A login from an address that the account has
// logged in from before is counted for that account and address alone: what strangers do elsewhere cannot lock the owner out. Any other
// login is counted for the account and for the address. Once a count reaches its limit, one guess is judged for each delay, and the
// delay doubles up to eight windows.
type throttle struct {
	db      *storage.DB
	limit   int64
	window  time.Duration
	mu      sync.Mutex
	flights map[string]flight
}

// flight counts the logins that this replica judges at the moment for one bucket.
type flight struct{ all, uncounted int64 }

func newThrottle(db *storage.DB, limit int, window time.Duration) *throttle {
	return &throttle{db: db, limit: int64(limit), window: window, flights: map[string]flight{}}
}

// attempt is one login on its way through the throttle.
type attempt struct {
	throttle *throttle
	buckets  []budget
	counted  bool   // before it was judged
	forget   string // the account's bucket, which a login from a familiar address empties
}

// budget is one bucket that a login is counted in, its limit and what was read of it.
type budget struct {
	name  string
	limit int64
	max   int64 // 0: none
	read  storage.Failures
}

// bucketName hides names and addresses: people type passwords into the field for the name.
func bucketName(kind, name, address string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + name + "\x00" + address))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// accountBucket counts the failures of an account at addresses that it has not logged in from.
func accountBucket(username string) string { return bucketName("account", username, "") }

func loginKey(username, clientID string, address netip.Addr) storage.LoginKey {
	a := address.String()
	return storage.LoginKey{
		Username: username, ClientID: clientID, Address: bucketName("familiar", username, a),
		AccountBucket: accountBucket(username), AddressBucket: bucketName("address", "", a), PairBucket: bucketName("pair", username, a),
	}
}

// begin is called with what was read for a login. It returns nil if the login must not be judged. Otherwise exactly one of failed
// and succeeded must follow.
func (t *throttle) begin(ctx context.Context, k storage.LoginKey, v storage.LoginView, now time.Time) (*attempt, error) {
	a := &attempt{throttle: t}
	if v.Familiar {
		a.buckets = []budget{{k.PairBucket, t.limit, maxConsecutive, v.Pair}}
		if v.Account.Count > 0 {
			a.forget = k.AccountBucket
		}
	} else {
		a.buckets = []budget{{k.AccountBucket, t.limit, maxConsecutive, v.Account}, {k.AddressBucket, t.limit * addressFactor, 0, v.Address}}
	}
	for _, b := range a.buckets {
		if !t.allows(b, now) {
			return nil, nil
		}
	}
	if a.counted = t.enter(a); !a.counted {
		return a, nil
	}
	for i, b := range a.buckets {
		count, err := t.db.AddFailure(ctx, b.name, t.quiet(b), now)
		if err != nil {
			t.leave(a)
			return nil, err
		}
		// Of many that were let through by the same reading, those within the limit are judged, and beyond it only the first.
		if count+t.uncounted(b.name) > b.limit && count != b.read.Count+1 {
			return nil, a.abandoned(ctx, i+1)
		}
	}
	return a, nil
}

// allows is the decision on one bucket: a pure function of what was read and of now.
func (t *throttle) allows(b budget, now time.Time) bool {
	if b.read.Count < b.limit {
		return true
	}
	if b.max > 0 && b.read.Count >= b.max {
		return false
	}
	delay := t.window
	if b.max > 0 {
		delay <<= min(b.read.Count-b.limit, 3)
	}
	since := now.Sub(b.read.LastAt)
	// A count from the future is from before a clock was set back: it must not hold for longer than its delay either.
	return since >= delay || since < -delay
}

// quiet is the pause after which a bucket begins a new count. Failures of an account are forgotten by success only.
func (t *throttle) quiet(b budget) time.Duration {
	if b.max > 0 {
		return 0
	}
	return t.window
}

// enter tells whether the login must be counted before it is judged: not if nothing has failed and nobody else is being judged, so that
// an ordinary login costs no write.
func (t *throttle) enter(a *attempt) (count bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range a.buckets {
		count = count || b.read.Count > 0 || t.flights[b.name].all > 0
	}
	for _, b := range a.buckets {
		f := t.flights[b.name]
		f.all++
		if !count {
			f.uncounted++
		}
		t.flights[b.name] = f
	}
	return count
}

func (t *throttle) uncounted(bucket string) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flights[bucket].uncounted
}

func (t *throttle) leave(a *attempt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range a.buckets {
		f := t.flights[b.name]
		f.all--
		if !a.counted {
			f.uncounted--
		}
		if t.flights[b.name] = f; f.all <= 0 {
			delete(t.flights, b.name)
		}
	}
}

// failed counts the failure, if it was not counted before, and ends the attempt.
func (a *attempt) failed(ctx context.Context, now time.Time) error {
	defer a.throttle.leave(a)
	if a.counted {
		return nil
	}
	for _, b := range a.buckets {
		if _, err := a.throttle.db.AddFailure(ctx, b.name, a.throttle.quiet(b), now); err != nil {
			return err
		}
	}
	return nil
}

// succeeded takes back what was counted in advance, forgets the failures of the account at this address, and ends the attempt.
func (a *attempt) succeeded(ctx context.Context) error {
	defer a.throttle.leave(a)
	if a.forget != "" {
		if err := a.throttle.db.ForgetFailures(ctx, a.forget); err != nil {
			return err
		}
	}
	if !a.counted {
		return nil
	}
	for _, b := range a.buckets {
		var err error
		if b.max > 0 {
			err = a.throttle.db.ForgetFailures(ctx, b.name)
		} else {
			err = a.throttle.db.TakeFailure(ctx, b.name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// abandoned ends an attempt that must not be judged, and takes back what was counted of it in its first n buckets.
func (a *attempt) abandoned(ctx context.Context, n int) error {
	defer a.throttle.leave(a)
	for _, b := range a.buckets[:n] {
		if err := a.throttle.db.TakeFailure(ctx, b.name); err != nil {
			return err
		}
	}
	return nil
}
