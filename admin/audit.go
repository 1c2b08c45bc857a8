package admin

import (
	"context"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Each calls do with the records of the trail, oldest first, page by page, until do returns an error. since and kind
// filter the list unless they are zero.
func (a Audit) Each(ctx context.Context, since time.Time, kind string, do func([]AuditRecord) error) error {
	return a.db.Audit().Pages(ctx, storage.AuditFilter{Since: since, Type: kind}, do)
}

// SchemaStatus returns the version of the schema.
func (a *Admin) SchemaStatus(ctx context.Context) (storage.SchemaStatus, error) {
	return a.db.SchemaStatus(ctx)
}

// SchemaOf returns the version of the schema of a database. It does not change the database.
func SchemaOf(ctx context.Context, database storage.Source) (storage.SchemaStatus, error) {
	return storage.StatusOf(ctx, storage.Options{Source: database})
}
