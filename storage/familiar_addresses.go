package storage

import (
	"context"
	"time"
)

// FamiliarAddresses is the table of the addresses from which a user has logged in.
type FamiliarAddresses struct{ db *DB }

// FamiliarAddresses returns the table of familiar addresses.
func (d *DB) FamiliarAddresses() FamiliarAddresses { return FamiliarAddresses{d} }

// Add records a login of the user from the address.
func (f FamiliarAddresses) Add(ctx context.Context, userID int64, address string, now time.Time) error {
	_, err := f.db.engine.Change(
		ctx,
		"familiar address",
		`INSERT INTO familiar_addresses (user_id, address, seen_at) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, address) DO UPDATE SET seen_at = excluded.seen_at`,
		userID,
		address,
		At(now),
	)
	return err
}

// Clean-up scans ranges of an index over time, as in Throttle.
const (
	addressSpanQuery = `SELECT COALESCE(MAX(seen_at), CAST($1 AS BIGINT)) FROM (SELECT seen_at FROM familiar_addresses
		WHERE seen_at > $1 AND seen_at < $2 ORDER BY seen_at LIMIT $3) span`
	cleanAddressesQuery = `DELETE FROM familiar_addresses WHERE seen_at > $1 AND seen_at <= $2`
)

// Clean deletes about limit addresses that were last seen before stale. It returns how many.
func (f FamiliarAddresses) Clean(ctx context.Context, stale time.Time, limit int) (int64, error) {
	var end Time
	err := f.db.engine.Get(ctx, "clean addresses", &end, addressSpanQuery, beginning, At(stale), limit)
	if err != nil || !end.After(beginning.Time) {
		return 0, err
	}
	return f.db.engine.Change(ctx, "clean addresses", cleanAddressesQuery, beginning, end)
}
