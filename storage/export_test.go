package storage

import (
	"context"
	"io/fs"
	"testing/fstest"

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

// Records is all records of Pages.
func (a Audit) Records(ctx context.Context, f AuditFilter) (all []AuditRecord, err error) {
	err = a.Pages(ctx, f, func(page []AuditRecord) error {
		all = append(all, page...)
		return nil
	})
	return all, err
}

// Announce tells others that the keys have changed.
func (k SigningKeys) Announce(ctx context.Context) { k.announce(ctx) }

// Upkeep runs a statement as upkeep does, which ends with its context.
func (d *DB) Upkeep(ctx context.Context, query string) error {
	var void string // what pg_sleep returns
	return d.engine.GetForUpkeep(ctx, "upkeep", &void, query)
}

// MigrateTo makes a database as an older keyturn made it, which had fewer migrations.
func MigrateTo(ctx context.Context, databaseURL string, version int) error {
	source, err := ParseSource(databaseURL, false)
	if err != nil {
		return err
	}
	names, err := fs.Glob(schema.Files, "*.sql")
	if err != nil {
		return err
	}
	older := fstest.MapFS{}
	for _, name := range names[:version] {
		content, err := fs.ReadFile(schema.Files, name)
		if err != nil {
			return err
		}
		older[name] = &fstest.MapFile{Data: content}
	}
	db, err := engine.Open(ctx, engine.Options{
		Source:  source,
		Create:  true,
		Migrate: true,
		Schema:  engine.Schema{Files: older},
	})
	if err != nil {
		return err
	}
	return db.Close()
}
