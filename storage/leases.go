package storage

import (
	"context"
	"time"
)

// Lease takes or keeps the named lease for holder until now plus ttl, and tells whether the holder has it: one replica at a time does
// a job. A row, unlike a session lock, does not leak behind a connection pooler.
func (d *DB) Lease(ctx context.Context, name, holder string, ttl time.Duration, now time.Time) (bool, error) {
	n, err := d.change(ctx, "lease", `INSERT INTO leases (name, holder, lapses_at) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, lapses_at = excluded.lapses_at
		WHERE leases.holder = excluded.holder OR leases.lapses_at <= $4`, name, holder, At(now.Add(ttl)), At(now))
	return n > 0, err
}
