package storage

import (
	"context"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// Texts of statements, for tests that ask how a database runs them.
const (
	OpenGrantsQuery     = `SELECT ` + openGrants + ` FROM users u WHERE u.username = $1`
	OldestQuery         = oldestQuery
	ThrottleSpanQuery   = throttleSpanQuery
	CleanThrottleQuery  = cleanThrottleQuery
	AddressSpanQuery    = addressSpanQuery
	CleanAddressesQuery = cleanAddressesQuery
)

// AuditRecords is all records of AuditPages.
func (d *DB) AuditRecords(ctx context.Context, f AuditFilter) (all []AuditRecord, err error) {
	err = d.AuditPages(ctx, f, func(page []AuditRecord) error {
		all = append(all, page...)
		return nil
	})
	return all, err
}

// AnnounceKeys tells others that the keys have changed.
func (d *DB) AnnounceKeys(ctx context.Context) { d.announceKeys(ctx) }

// Upkeep runs a statement as upkeep does, which ends with its context.
func (d *DB) Upkeep(ctx context.Context, query string) error {
	var void string // what pg_sleep returns
	return d.engine.GetForUpkeep(ctx, "upkeep", &void, query)
}

// MigrateTo makes a database as a keyturn of before had it.
func MigrateTo(ctx context.Context, databaseURL string, version int64) error {
	source, err := ParseSource(databaseURL, false)
	if err != nil {
		return err
	}
	return engine.MigrateTo(ctx, Options{Source: source, Create: true}.engine(), version)
}
