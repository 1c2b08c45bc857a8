package storage

import (
	"context"
	"math"
	"time"
)

// Failures is how often, without a success between, something failed, and when last.
type Failures struct {
	Count  int64
	LastAt time.Time
}

// AddFailure counts one more failure in the bucket and returns the count with it. Counting before a guess is judged is what keeps
// parallel guesses on many replicas within one budget. A failure after a pause of at least quiet begins a new count (0: never).
func (d *DB) AddFailure(ctx context.Context, bucket string, quiet time.Duration, now time.Time) (int64, error) {
	var count int64
	begins := int64(-1)
	if quiet > 0 {
		begins = now.Add(-quiet).UnixMilli()
	}
	// In a transaction: one statement alone would be sent again after a cut connection, and count twice.
	err := d.inTx(ctx, "count failure", func(t *tx) error {
		return t.get(&count, `INSERT INTO throttle (bucket, failures, last_at) VALUES ($1, 1, $2)
			ON CONFLICT (bucket) DO UPDATE SET failures = CASE WHEN throttle.last_at <= $3 THEN 1 ELSE throttle.failures + 1 END, last_at = excluded.last_at
			RETURNING failures`, bucket, At(now), begins)
	})
	return count, err
}

// TakeFailure takes back one AddFailure: what was counted in advance did not fail.
func (d *DB) TakeFailure(ctx context.Context, bucket string) error {
	_, err := d.change(ctx, "uncount failure", `UPDATE throttle SET failures = failures - 1 WHERE bucket = $1 AND failures > 0`, bucket)
	return err
}

// ForgetFailures empties the bucket.
func (d *DB) ForgetFailures(ctx context.Context, bucket string) error {
	_, err := d.change(ctx, "forget failures", `DELETE FROM throttle WHERE bucket = $1`, bucket)
	return err
}

// AddFamiliarAddress remembers that the user has logged in from the address.
func (d *DB) AddFamiliarAddress(ctx context.Context, userID int64, address string, now time.Time) error {
	_, err := d.change(ctx, "familiar address", `INSERT INTO familiar_addresses (user_id, address, seen_at) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, address) DO UPDATE SET seen_at = excluded.seen_at`, userID, address, At(now))
	return err
}

// unlock empties every bucket of an account, which is the name of its own bucket as well.
func (t *tx) unlock(account string) error {
	if account == "" { // buckets of addresses have none
		return nil
	}
	_, err := t.change(`DELETE FROM throttle WHERE account = $1 OR bucket = $1`, account)
	return err
}

// AccountFailures is what was counted in one bucket of an account.
type AccountFailures struct {
	Bucket string `db:"bucket"`
	Count  int64  `db:"failures"`
	LastAt Time   `db:"last_at"`
}

// maxAccountFailures bounds what AccountFailures reads: an account has a bucket for each familiar address.
const maxAccountFailures = 100

// AccountFailures reads the buckets of an account, the newest failures first.
func (d *DB) AccountFailures(ctx context.Context, account string) ([]AccountFailures, error) {
	failures := []AccountFailures{}
	return failures, d.all(ctx, "failures of an account", &failures, `SELECT bucket, failures, last_at FROM throttle
		WHERE (account = $1 OR bucket = $1) AND failures > 0 ORDER BY last_at DESC, bucket LIMIT $2`,
		account, maxAccountFailures)
}

// The statements of clean-up are ranges of an index over time: what they cost follows from what they look at, not from
// the size of the table.
const (
	throttleSpanQuery = `SELECT COALESCE(MAX(last_at), CAST($1 AS BIGINT)) FROM (SELECT last_at FROM throttle
		WHERE last_at > $1 AND last_at < $2 ORDER BY last_at LIMIT $3) span`
	cleanThrottleQuery = `DELETE FROM throttle WHERE last_at > $1 AND last_at <= $2 AND failures < $3`

	addressSpanQuery = `SELECT COALESCE(MAX(seen_at), CAST($1 AS BIGINT)) FROM (SELECT seen_at FROM familiar_addresses
		WHERE seen_at > $1 AND seen_at < $2 ORDER BY seen_at LIMIT $3) span`
	cleanAddressesQuery = `DELETE FROM familiar_addresses WHERE seen_at > $1 AND seen_at <= $2`
)

// anyFailures is more than there are in any bucket.
const anyFailures = math.MaxInt32

// CleanThrottle looks at limit counters whose last failure was after one moment and before another, in the order of
// that time, and deletes those of fewer failures than few. It returns where to go on, which is after if there were
// none, and how many rows went. Of those that stay, none need be looked at again before it is stale.
func (d *DB) CleanThrottle(
	ctx context.Context, few int, after Time, before time.Time, limit int,
) (next Time, n int64, err error) {
	err = d.get(ctx, "clean throttle", &next, throttleSpanQuery, after, At(before), limit)
	if err != nil || !next.After(after.Time) {
		return after, 0, err
	}
	n, err = d.change(ctx, "clean throttle", cleanThrottleQuery, after, next, few)
	return next, n, err
}

// CleanStaleThrottle deletes about limit counters whose last failure was before the moment given, the oldest first, and
// tells how many.
func (d *DB) CleanStaleThrottle(ctx context.Context, stale time.Time, limit int) (int64, error) {
	_, n, err := d.CleanThrottle(ctx, anyFailures, beginning, stale, limit)
	return n, err
}

// beginning is before every moment in the tables.
var beginning = Time{time.UnixMilli(-1)}

// CleanAddresses deletes about limit familiar addresses that were last seen before the moment given, and tells how
// many.
func (d *DB) CleanAddresses(ctx context.Context, stale time.Time, limit int) (int64, error) {
	var end Time
	err := d.get(ctx, "clean addresses", &end, addressSpanQuery, beginning, At(stale), limit)
	if err != nil || !end.After(beginning.Time) {
		return 0, err
	}
	return d.change(ctx, "clean addresses", cleanAddressesQuery, beginning, end)
}
