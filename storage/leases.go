package storage

import (
	"context"
	"time"
)

// leaseSkew is the largest difference between two clocks that are in order.
const leaseSkew = time.Minute

// Leases is the table of leases. A row, unlike a session lock, does not leak behind a connection pooler.
type Leases struct{ db *DB }

// Leases returns the table of leases.
func (d *DB) Leases() Leases { return Leases{d} }

// Take takes or renews the lease for holder until now plus ttl, and reports whether holder has it, so that one replica
// at a time does a job. A lease that ends later than any holder could have taken it comes from a wrong clock, and is
// taken over.
func (l Leases) Take(ctx context.Context, name, holder string, ttl time.Duration, now time.Time) (bool, error) {
	n, err := l.db.engine.Change(ctx, "lease", `INSERT INTO leases (name, holder, lapses_at) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, lapses_at = excluded.lapses_at
		WHERE leases.holder = excluded.holder OR leases.lapses_at <= $4 OR leases.lapses_at > $5`,
		name, holder, At(now.Add(ttl)), At(now), At(now.Add(ttl+leaseSkew)))
	return n > 0, err
}
