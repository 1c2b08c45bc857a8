package storage

import (
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"time"
)

const (
	// MaxConsecutive is how many wrong passwords in a row an account may have until no more guesses are judged from
	// addresses that it has not logged in from (NIST SP 800-63B allows 100).
	MaxConsecutive = 100
	// addressFactor is how many accounts' worth of failures one address may cause, since many people share one.
	addressFactor = 10
)

// GuessPolicy decides which guesses of a password are judged. Its methods are pure functions of what was counted and of
// the time. Once a count reaches the limit, one guess is judged for each delay. The delay doubles up to eight windows.
type GuessPolicy struct {
	Limit  int64 // failures of an account before it is throttled
	Window time.Duration
}

// AccountBucket is the name of the bucket that counts failures of an account at addresses it has not logged in from.
func AccountBucket(username string) string { return bucketName("account", username, "") }

// bucketName hides names and addresses: people type passwords into the field for the name.
func bucketName(kind, name, address string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + name + "\x00" + address))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// NewLoginKey names the buckets of a login.
func NewLoginKey(username, clientID string, address netip.Addr) LoginKey {
	a := address.String()
	return LoginKey{
		Username:      username,
		ClientID:      clientID,
		Address:       bucketName("familiar", username, a),
		AccountBucket: AccountBucket(username),
		AddressBucket: bucketName("address", "", a),
		PairBucket:    bucketName("pair", username, a),
	}
}

// Buckets are those in which a login is judged. A login from an address that the account has logged in from before is
// counted for that account and address alone.
func (p GuessPolicy) Buckets(k LoginKey, v LoginView) []Bucket {
	if v.Familiar {
		return []Bucket{{Name: k.PairBucket, Account: k.AccountBucket, Limit: p.Limit, Read: v.Pair}}
	}
	return []Bucket{
		{Name: k.AccountBucket, Account: k.AccountBucket, Limit: p.Limit, Read: v.Account},
		{Name: k.AddressBucket, Quiet: p.Window, Limit: p.Limit * addressFactor, Read: v.Address},
	}
}

// Allows reports whether a guess in the bucket may be judged now.
func (p GuessPolicy) Allows(b Bucket, now time.Time) bool {
	if b.Read.Count < b.Limit {
		return true
	}
	if b.OfAccount() && b.Read.Count >= MaxConsecutive {
		return false
	}
	delay, since := p.delay(b), now.Sub(b.Read.LastAt)
	// If the clock was set back after the count was written, the count is from the future. It must not hold for longer
	// than its delay either.
	return since >= delay || since < -delay
}

// delay is how long after its last failure a bucket that has reached its limit takes the next guess.
func (p GuessPolicy) delay(b Bucket) time.Duration {
	if b.OfAccount() {
		return p.Window << min(b.Read.Count-b.Limit, 3)
	}
	return p.Window
}

// NextTry is when Allows lets the next guess of an account be judged: nil for now, or, if never is true, not before the
// bucket is emptied.
func (p GuessPolicy) NextTry(f AccountFailures, now time.Time) (at *Time, never bool) {
	b := Bucket{Limit: p.Limit, Read: Failures{Count: f.Count, LastAt: f.LastAt.Time}}
	switch {
	case p.Allows(b, now):
		return nil, false
	case f.Count >= MaxConsecutive:
		return nil, true
	}
	return AtPtr(f.LastAt.Add(p.delay(b))), false
}
