package server

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"slices"
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
	config  func() *Config // of now: limit and window
	mu      sync.Mutex
	flights map[string]flight
}

// flight counts the logins that this replica judges at the moment for one bucket: all, and those that are not counted in the database.
type flight struct{ all, uncounted int64 }

func newThrottle(db *storage.DB, config func() *Config) *throttle {
	return &throttle{db: db, config: config, flights: map[string]flight{}}
}

func (t *throttle) limit() int64          { return int64(t.config().LoginFailures) }
func (t *throttle) window() time.Duration { return time.Duration(t.config().LoginWindow) }

// attempt is one login on its way through the throttle.
type attempt struct {
	throttle *throttle
	names    []string        // of every bucket that it may be counted in
	alone    map[string]bool // buckets in which it is not counted, as no other login is under way for them
	buckets  []budget        // in which it is judged
	counted  bool            // before it was judged
	forget   string          // the account's bucket, which a login from a familiar address empties
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

// enter announces a login, before what was counted for it is read: of two at once the second must see either the flight of the first or
// its failure. leave must follow.
func (t *throttle) enter(k storage.LoginKey) *attempt {
	a := &attempt{throttle: t, names: []string{k.AccountBucket, k.AddressBucket, k.PairBucket}, alone: map[string]bool{}}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range a.names {
		f := t.flights[name]
		if f.all++; f.all == 1 {
			a.alone[name] = true
			f.uncounted++
		}
		t.flights[name] = f
	}
	return a
}

// judge tells, by what was read for the login, whether it may be judged. If so, exactly one of failed and succeeded must follow.
func (a *attempt) judge(ctx context.Context, k storage.LoginKey, v storage.LoginView, now time.Time) (bool, error) {
	t := a.throttle
	if v.Familiar {
		a.buckets = []budget{{k.PairBucket, t.limit(), maxConsecutive, v.Pair}}
		if v.Account.Count > 0 {
			a.forget = k.AccountBucket
		}
	} else {
		a.buckets = []budget{{k.AccountBucket, t.limit(), maxConsecutive, v.Account}, {k.AddressBucket, t.limit() * addressFactor, 0, v.Address}}
	}
	for _, b := range a.buckets {
		if !t.allows(b, now) {
			return false, nil
		}
	}
	if a.counted = a.mustCount(); !a.counted {
		return true, nil
	}
	for i, b := range a.buckets {
		count, err := t.db.AddFailure(ctx, b.name, t.quiet(b), now)
		if err != nil {
			return false, err
		}
		// Of many that were let through by the same reading, those within the limit are judged; of those after a delay, the first.
		first := b.read.Count >= b.limit && count == b.read.Count+1
		if count+t.uncounted(b.name) > b.limit && !first {
			return false, a.uncount(ctx, i+1)
		}
	}
	return true, nil
}

// mustCount tells whether the login must be counted before it is judged: not if nothing has failed and nobody else is being judged, so that
// an ordinary login costs no write.
func (a *attempt) mustCount() (count bool) {
	t := a.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range a.buckets {
		count = count || b.read.Count > 0 || !a.alone[b.name]
	}
	for _, name := range a.names {
		judged := slices.ContainsFunc(a.buckets, func(b budget) bool { return b.name == name })
		if a.alone[name] && (count || !judged) {
			f := t.flights[name]
			f.uncounted--
			t.flights[name] = f
			a.alone[name] = false
		}
	}
	return count
}

// allows is the decision on one bucket: a pure function of what was read and of now.
func (t *throttle) allows(b budget, now time.Time) bool {
	if b.read.Count < b.limit {
		return true
	}
	if b.max > 0 && b.read.Count >= b.max {
		return false
	}
	delay := t.window()
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
	return t.window()
}

func (t *throttle) uncounted(bucket string) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flights[bucket].uncounted
}

// leave ends the attempt.
func (a *attempt) leave() {
	t := a.throttle
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range a.names {
		f := t.flights[name]
		f.all--
		if a.alone[name] {
			f.uncounted--
		}
		if t.flights[name] = f; f.all <= 0 {
			delete(t.flights, name)
		}
	}
}

// failed counts the failure, if it was not counted before.
func (a *attempt) failed(ctx context.Context, now time.Time) error {
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

// succeeded takes back what was counted in advance, and forgets the failures of the account at this address.
func (a *attempt) succeeded(ctx context.Context) error {
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

// uncount takes back what was counted in the first n buckets.
func (a *attempt) uncount(ctx context.Context, n int) error {
	for _, b := range a.buckets[:n] {
		if err := a.throttle.db.TakeFailure(ctx, b.name); err != nil {
			return err
		}
	}
	return nil
}
