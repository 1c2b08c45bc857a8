package storage

import (
	"context"
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

// CleanThrottle deletes at most limit counters that have rested: those below few failures since before rested, the others since before
// stale, and addresses that were not seen since before stale. It tells how many rows went.
func (d *DB) CleanThrottle(ctx context.Context, few int, rested, stale time.Time, limit int) (int64, error) {
	n, err := d.change(ctx, "clean throttle", `DELETE FROM throttle WHERE bucket IN (SELECT bucket FROM throttle
		WHERE last_at < $1 OR (last_at < $2 AND failures < $3) LIMIT $4)`, At(stale), At(rested), few, limit)
	if err != nil {
		return 0, err
	}
	m, err := d.change(ctx, "clean addresses", `DELETE FROM familiar_addresses WHERE (user_id, address) IN (SELECT user_id, address
		FROM familiar_addresses WHERE seen_at < $1 LIMIT $2)`, At(stale), limit)
	return n + m, err
}
