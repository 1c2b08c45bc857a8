package storage

import "context"

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
