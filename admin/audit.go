package admin

import (
	"context"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Each hands the records of the trail, oldest first, to do, page by page, until that returns an error. since and
// kind narrow the list unless they are zero.
func (a Audit) Each(ctx context.Context, since time.Time, kind string, do func([]AuditRecord) error) error {
	return a.db.Audit().Pages(ctx, storage.AuditFilter{Since: since, Type: kind}, do)
}

// SchemaStatus tells the version of the schema.
func (a *Admin) SchemaStatus(ctx context.Context) (storage.SchemaStatus, error) {
	return a.db.SchemaStatus(ctx)
}

// SchemaOf is the version of the schema of a database, which it does not change.
func SchemaOf(ctx context.Context, database storage.Source) (storage.SchemaStatus, error) {
	return storage.StatusOf(ctx, storage.Options{Source: database})
}
