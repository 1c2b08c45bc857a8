package storage

import (
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"time"
)

const (
	// MaxConsecutive is the number of consecutive wrong passwords after which an account accepts no more guesses from
	// unfamiliar addresses. NIST SP 800-63B permits 100.
	MaxConsecutive = 100
	// addressFactor multiplies the limit for an address, because many people may share one.
	addressFactor = 10
)

// GuessPolicy decides which guesses of a password are judged. Its methods are pure functions of the counts and the
// time. Once a count reaches the limit, only one guess is judged for each delay. The delay doubles, up to eight
// windows.
type GuessPolicy struct {
	Limit  int64 // number of failures after which an account is throttled
	Window time.Duration
}

// AccountBucket names the bucket that counts failures of an account at unfamiliar addresses.
func AccountBucket(username string) string { return bucketName("account", username, "") }

// bucketName hashes names and addresses, because people type passwords into the username field.
func bucketName(kind, name, address string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + name + "\x00" + address))
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// NewLoginKey returns the names of the buckets of a login.
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

// Buckets returns the buckets of a login. A login from a familiar address of the account counts only for that account
// and address.
func (p GuessPolicy) Buckets(k LoginKey, v LoginView) []Bucket {
	if v.Familiar {
		return []Bucket{{
			Name:    k.PairBucket,
			Account: k.AccountBucket,
			Limit:   p.Limit,
			Read:    v.Pair,
		}}
	}
	account := Bucket{
		Name:    k.AccountBucket,
		Account: k.AccountBucket,
		Limit:   p.Limit,
		Read:    v.Account,
	}
	address := Bucket{
		Name:  k.AddressBucket,
		Quiet: p.Window,
		Limit: p.Limit * addressFactor,
		Read:  v.Address,
	}
	return []Bucket{account, address}
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
	// After a clock was set back, LastAt may be in the future. Such a count must not block for longer than its delay.
	return since >= delay || since < -delay
}

// delay returns the time from the last failure to the next guess, for a bucket at its limit.
func (p GuessPolicy) delay(b Bucket) time.Duration {
	if b.OfAccount() {
		return p.Window << min(b.Read.Count-b.Limit, 3)
	}
	return p.Window
}

// NextTry returns when an account accepts the next guess. at is nil for now. never means that the account accepts none
// until somebody clears its bucket.
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
