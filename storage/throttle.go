package storage

import (
	"context"
	"errors"
	"math"
	"time"
)

// Throttle is the table of counted failures.
type Throttle struct{ db *DB }

// Throttle is the table of counted failures.
func (d *DB) Throttle() Throttle { return Throttle{d} }

// Failures is how often, without a success between, something failed, and when last.
type Failures struct {
	Count  int64
	LastAt time.Time
}

// Bucket is where the failures of something are counted, and the guesses that are being judged.
type Bucket struct {
	Name    string
	Account string        // the name of the account's bucket, in every bucket that belongs to one; else ""
	Quiet   time.Duration // a failure after a pause of at least this begins a new count; 0: never
	Limit   int64         // failures and guesses that there may be at once
	Apart   int64         // guesses that are being judged and were not reserved
	Read    Failures      // as they were read before
}

// OfAccount reports whether the bucket is one of an account: a success empties it, a pause does not.
func (b Bucket) OfAccount() bool { return b.Quiet == 0 }

// delayed reports whether the limit is reached, so that one guess is judged for each delay.
func (b Bucket) delayed() bool { return b.OfAccount() && b.Read.Count >= b.Limit }

// begins is the last moment before a new count begins, for a column of milliseconds; -1 for never.
func (b Bucket) begins(now time.Time) int64 {
	if b.Quiet > 0 {
		return now.Add(-b.Quiet).UnixMilli()
	}
	return -1
}

// ahead is the first moment that is from before a clock was set back, for a column of milliseconds.
func (b Bucket) ahead(now time.Time) int64 {
	if b.Quiet > 0 {
		return now.Add(b.Quiet).UnixMilli()
	}
	return math.MaxInt64
}

// pendingLasts is how long a guess can be under way. One that is older belongs to a server that has ended meanwhile.
const pendingLasts = time.Minute

var errFull = errors.New("the limit is reached")

// changer runs one statement and tells how many rows it changed.
type changer func(query string, args ...any) (int64, error)

// counting runs statements that count guesses in one transaction, or each alone: a login waits for them. A statement
// that runs alone is sent again after a cut connection, and may have run before.
func (t Throttle) counting(ctx context.Context, op string, alone bool, do func(changer) error) error {
	if alone {
		return do(func(query string, args ...any) (int64, error) { return t.db.engine.Change(ctx, op, query, args...) })
	}
	return t.db.inTx(ctx, op, func(t *tx) error { return do(t.Change) })
}

// Reserve makes room for one guess in all the buckets, or in none: then it reports false, and somebody else must
// finish first. Counting a guess before it is judged keeps parallel guesses on many replicas within one limit.
// Settle must follow. A place that is taken twice, after a cut connection, lapses when the bucket has been full,
// or unused, for a minute.
func (t Throttle) Reserve(ctx context.Context, buckets []Bucket, now time.Time) (bool, error) {
	alone := len(buckets) == 1 && !buckets[0].delayed()
	err := t.counting(ctx, "reserve guess", alone, func(change changer) error {
		for _, b := range buckets {
			n, err := b.reserve(change, now)
			if err != nil {
				return err
			}
			if n == 0 {
				return errFull
			}
		}
		return nil
	})
	if errors.Is(err, errFull) {
		return false, nil
	}
	return err == nil, err
}

// reserve counts a guess that is under way. Where the limit is reached it is counted as a failure at once, and only the
// first is taken of those who have read the same count.
func (b Bucket) reserve(change changer, now time.Time) (int64, error) {
	if b.delayed() {
		return change(`UPDATE throttle SET failures = failures + 1, last_at = $1
			WHERE bucket = $2 AND failures = $3 AND last_at = $4`, At(now), b.Name, b.Read.Count, At(b.Read.LastAt))
	}
	return change(`INSERT INTO throttle (bucket, account, failures, last_at, pending, pending_at)
		VALUES ($1, $2, 0, $3, 1, $3)
		ON CONFLICT (bucket) DO UPDATE SET account = excluded.account,
			failures = CASE WHEN throttle.last_at <= $4 OR throttle.last_at >= $7 THEN 0 ELSE throttle.failures END,
			pending = CASE WHEN throttle.pending_at <= $5 THEN 1 ELSE throttle.pending + 1 END,
			pending_at = excluded.pending_at
		WHERE CASE WHEN throttle.last_at <= $4 OR throttle.last_at >= $7 THEN 0 ELSE throttle.failures END
			+ CASE WHEN throttle.pending_at <= $5 THEN 0 ELSE throttle.pending END < $6`,
		b.Name, b.Account, At(now), b.begins(now), now.Add(-pendingLasts).UnixMilli(), b.Limit-b.Apart, b.ahead(now))
}

// Guess is what a guess turned out to be.
type Guess string

// The outcomes of a guess.
const (
	GuessWrong     Guess = "wrong"
	GuessRight     Guess = "right"
	GuessWithdrawn Guess = "withdrawn" // it was not judged
)

// Settle counts the outcome of a guess that was reserved in the buckets: a wrong one in one transaction, so that
// it never counts twice. Any other may do so after a cut connection. A place that is given back twice is one more guess
// while others are under way; a right guess forgives those that were wrong until then.
func (t Throttle) Settle(ctx context.Context, buckets []Bucket, outcome Guess, now time.Time) error {
	return t.counting(ctx, "settle guess", outcome != GuessWrong, func(change changer) error {
		for _, b := range buckets {
			if err := b.settle(change, outcome, now); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b Bucket) settle(change changer, outcome Guess, now time.Time) error {
	const done = `pending = CASE WHEN pending > 0 THEN pending - 1 ELSE 0 END`
	var err error
	switch {
	case outcome == GuessRight && b.OfAccount(): // an account is forgiven, an address is not
		_, err = change(`UPDATE throttle SET failures = 0, `+done+` WHERE bucket = $1`, b.Name)
	case b.delayed(): // it was counted as a failure
	case outcome == GuessWrong:
		_, err = change(`UPDATE throttle SET failures = failures + 1, last_at = $1, `+done+` WHERE bucket = $2`,
			At(now), b.Name)
	default:
		_, err = change(`UPDATE throttle SET `+done+` WHERE bucket = $1`, b.Name)
	}
	return err
}

// AddFailures counts one more failure in each of the buckets, for a guess that was not reserved.
func (t Throttle) AddFailures(ctx context.Context, buckets []Bucket, now time.Time) error {
	return t.db.inTx(ctx, "count failure", func(t *tx) error {
		for _, b := range buckets {
			if _, err := t.Change(`INSERT INTO throttle (bucket, account, failures, last_at) VALUES ($1, $2, 1, $3)
				ON CONFLICT (bucket) DO UPDATE SET account = excluded.account, last_at = excluded.last_at,
					failures = CASE WHEN throttle.last_at <= $4 THEN 1 ELSE throttle.failures + 1 END`,
				b.Name, b.Account, At(now), b.begins(now)); err != nil {
				return err
			}
		}
		return nil
	})
}

// ForgetFailures empties the bucket.
func (t Throttle) ForgetFailures(ctx context.Context, bucket string) error {
	_, err := t.db.engine.Change(ctx, "forget failures", `UPDATE throttle SET failures = 0 WHERE bucket = $1`, bucket)
	return err
}

// unlock empties every bucket of an account, which is the name of its own bucket as well.
func (t *tx) unlock(account string) error {
	if account == "" { // buckets of addresses have none
		return nil
	}
	_, err := t.Change(`DELETE FROM throttle WHERE account = $1 OR bucket = $1`, account)
	return err
}

// AccountFailures is what was counted in one bucket of an account.
type AccountFailures struct {
	Bucket string `db:"bucket"`
	Count  int64  `db:"failures"`
	LastAt Time   `db:"last_at"`
}

// maxAccountFailures bounds what OfAccount reads: an account has a bucket for each familiar address.
const maxAccountFailures = 100

// OfAccount reads the buckets of an account, the newest failures first.
func (t Throttle) OfAccount(ctx context.Context, account string) ([]AccountFailures, error) {
	failures := []AccountFailures{}
	return failures, t.db.engine.All(ctx, "failures of an account", &failures,
		`SELECT bucket, failures, last_at FROM throttle
		WHERE (account = $1 OR bucket = $1) AND failures > 0 ORDER BY last_at DESC, bucket LIMIT $2`,
		account, maxAccountFailures)
}

// The statements of clean-up are ranges of an index over time: what they cost follows from what they look at, not from
// the size of the table.
const (
	throttleSpanQuery = `SELECT COALESCE(MAX(last_at), CAST($1 AS BIGINT)) FROM (SELECT last_at FROM throttle
		WHERE last_at > $1 AND last_at < $2 ORDER BY last_at LIMIT $3) span`
	cleanThrottleQuery = `DELETE FROM throttle WHERE last_at > $1 AND last_at <= $2 AND failures < $3`
)

// anyFailures is more than there are in any bucket.
const anyFailures = math.MaxInt32

// Clean looks at limit counters whose last failure was after one moment and before another, in the order of
// that time, and deletes those of fewer failures than few. It returns where to go on, which is after if there were
// none, and how many rows went. Of those that stay, none need be looked at again before it is stale.
func (t Throttle) Clean(
	ctx context.Context, few int, after Time, before time.Time, limit int,
) (next Time, n int64, err error) {
	err = t.db.engine.Get(ctx, "clean throttle", &next, throttleSpanQuery, after, At(before), limit)
	if err != nil || !next.After(after.Time) {
		return after, 0, err
	}
	n, err = t.db.engine.Change(ctx, "clean throttle", cleanThrottleQuery, after, next, few)
	return next, n, err
}

// CleanStale deletes about limit counters whose last failure was before the moment given, the oldest first, and
// tells how many.
func (t Throttle) CleanStale(ctx context.Context, stale time.Time, limit int) (int64, error) {
	_, n, err := t.Clean(ctx, anyFailures, beginning, stale, limit)
	return n, err
}

// beginning is before every moment in the tables.
var beginning = Time{time.UnixMilli(-1)}
