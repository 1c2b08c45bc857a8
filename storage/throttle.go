package storage

import (
	"context"
	"errors"
	"math"
	"time"
)

// Throttle is the table of failure counters.
type Throttle struct{ db *DB }

// Throttle returns the table of failure counters.
func (d *DB) Throttle() Throttle { return Throttle{d} }

// Failures is a number of failures without a success in between, and the time of the last.
type Failures struct {
	Count  int64
	LastAt time.Time
}

// Bucket counts the failures of an account or an address, and the guesses under way.
type Bucket struct {
	Name    string
	Account string        // of an account: the name of its main bucket; otherwise ""
	Quiet   time.Duration // a failure after this long a pause starts a new count; 0: never
	Limit   int64         // of failures and guesses under way
	Apart   int64         // guesses under way that were not reserved
	Read    Failures      // as read earlier
}

// OfAccount reports whether the bucket belongs to an account: a success empties it, a pause does not.
func (b Bucket) OfAccount() bool { return b.Quiet == 0 }

// delayed reports whether the limit is reached, so that only one guess per delay is judged.
func (b Bucket) delayed() bool { return b.OfAccount() && b.Read.Count >= b.Limit }

// begins returns, in milliseconds, the last moment before which a failure no longer counts; -1 if all count.
func (b Bucket) begins(now time.Time) int64 {
	if b.Quiet > 0 {
		return now.Add(-b.Quiet).UnixMilli()
	}
	return -1
}

// ahead returns, in milliseconds, the moment from which a failure must come from a clock that was set back.
func (b Bucket) ahead(now time.Time) int64 {
	if b.Quiet > 0 {
		return now.Add(b.Quiet).UnixMilli()
	}
	return math.MaxInt64
}

// pendingLasts is the longest that a guess can be under way. An older one belongs to a server that has stopped.
const pendingLasts = time.Minute

var errFull = errors.New("the limit is reached")

// changer runs one statement and returns how many rows it changed.
type changer func(query string, args ...any) (int64, error)

// counting runs statements in one transaction or, if alone, each by itself, which is faster for the login that waits. A
// statement by itself may run twice, when it is sent again after a cut connection.
func (t Throttle) counting(ctx context.Context, op string, alone bool, do func(changer) error) error {
	if alone {
		return do(func(query string, args ...any) (int64, error) { return t.db.engine.Change(ctx, op, query, args...) })
	}
	return t.db.inTx(ctx, op, func(t *tx) error { return do(t.Change) })
}

// Reserve makes room for one guess in all buckets, or returns false and changes none. Guesses are counted before they
// are judged, so that parallel guesses on many replicas stay within one limit. Settle must follow. A reservation that
// was made twice, after a cut connection, expires when the bucket has been full, or unused, for a minute.
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

// reserve counts a guess under way. Once the limit is reached, it counts a failure at once, and accepts only the first
// of several guesses that have read the same count.
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

// Guess is the outcome of a guess.
type Guess string

// The outcomes of a guess.
const (
	GuessWrong     Guess = "wrong"
	GuessRight     Guess = "right"
	GuessWithdrawn Guess = "withdrawn" // it was not judged
)

// Settle records the outcome of a reserved guess. A wrong guess is recorded in one transaction, so that it never counts
// twice. Other outcomes may be recorded twice after a cut connection: to release a reservation twice permits one more
// guess; to record a right guess twice forgives the failures in between.
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

// AddFailures counts one more failure in each bucket, for a guess that was not reserved.
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

// unlock empties every bucket of an account, including that of its own name.
func (t *tx) unlock(account string) error {
	if account == "" { // buckets of addresses have none
		return nil
	}
	_, err := t.Change(`DELETE FROM throttle WHERE account = $1 OR bucket = $1`, account)
	return err
}

// AccountFailures is the content of one bucket of an account.
type AccountFailures struct {
	Bucket string `db:"bucket"`
	Count  int64  `db:"failures"`
	LastAt Time   `db:"last_at"`
}

// maxAccountFailures bounds OfAccount: an account has a bucket for each familiar address.
const maxAccountFailures = 100

// OfAccount reads the buckets of an account, newest failures first.
func (t Throttle) OfAccount(ctx context.Context, account string) ([]AccountFailures, error) {
	failures := []AccountFailures{}
	return failures, t.db.engine.All(ctx, "failures of an account", &failures,
		`SELECT bucket, failures, last_at FROM throttle
		WHERE (account = $1 OR bucket = $1) AND failures > 0 ORDER BY last_at DESC, bucket LIMIT $2`,
		account, maxAccountFailures)
}

// Clean-up scans ranges of an index over time: its cost depends on the rows it examines, not on the size of the table.
const (
	throttleSpanQuery = `SELECT COALESCE(MAX(last_at), CAST($1 AS BIGINT)) FROM (SELECT last_at FROM throttle
		WHERE last_at > $1 AND last_at < $2 ORDER BY last_at LIMIT $3) span`
	cleanThrottleQuery = `DELETE FROM throttle WHERE last_at > $1 AND last_at <= $2 AND failures < $3`
)

// anyFailures is more than any bucket holds.
const anyFailures = math.MaxInt32

// Clean examines limit counters, ordered by their last failure, between after and before, and deletes those with fewer
// failures than few. It returns where to continue, which is after if there were none, and how many it deleted. The
// others need not be examined again before they are stale.
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

// CleanStale deletes about limit counters whose last failure was before stale, oldest first. It returns how many.
func (t Throttle) CleanStale(ctx context.Context, stale time.Time, limit int) (int64, error) {
	_, n, err := t.Clean(ctx, anyFailures, beginning, stale, limit)
	return n, err
}

// beginning is before every time in the tables.
var beginning = Time{time.UnixMilli(-1)}
