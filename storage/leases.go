package storage

import (
	"context"
	"time"
)

// leaseSkew is how far the clocks of two servers that are sure of the time may be apart.
const leaseSkew = time.Minute

// Leases is the table of leases.
type Leases struct{ db *DB }

// Leases is the table of leases.
func (d *DB) Leases() Leases { return Leases{d} }

// Take takes or keeps the named lease for holder until now plus ttl, and reports whether the holder has it: one
// replica at a time does a job. A lease that lies further ahead than a holder could have taken it was taken by a wrong
// clock, and is taken over. A row, unlike a session lock, does not leak behind a connection pooler.
func (l Leases) Take(ctx context.Context, name, holder string, ttl time.Duration, now time.Time) (bool, error) {
	n, err := l.db.engine.Change(ctx, "lease", `INSERT INTO leases (name, holder, lapses_at) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, lapses_at = excluded.lapses_at
		WHERE leases.holder = excluded.holder OR leases.lapses_at <= $4 OR leases.lapses_at > $5`,
		name, holder, At(now.Add(ttl)), At(now), At(now.Add(ttl+leaseSkew)))
	return n > 0, err
}
