package admin

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/keyturn/keyturn/storage"
)

// AuditTypes are the types of all records that keyturn writes.
var AuditTypes = storage.AuditTypes

// AuditFilter narrows Each. The zero value selects all records.
type AuditFilter = storage.AuditFilter

// Each calls do with the records of a filter, oldest first, page by page, until do returns an error. A target may also
// be a username. It returns ErrNotFound if the trail knows neither the type, nor the actor or target of the filter.
func (a Audit) Each(ctx context.Context, f AuditFilter, do func([]AuditRecord) error) error {
	if user, err := Users(a).Find(ctx, f.Target); f.Target != "" && err == nil {
		f.Target = user.Sub
	}
	found := false
	err := a.db.Audit().Pages(ctx, f, func(page []AuditRecord) error {
		found = true
		return do(page)
	})
	if err != nil || found {
		return err
	}
	return a.unknown(ctx, f)
}

// unknown returns an error if a filter selects nothing because of a name that is nowhere in the trail.
func (a Audit) unknown(ctx context.Context, f AuditFilter) error {
	has := func(by AuditFilter) (found bool, err error) {
		stop := errors.New("found")
		err = a.db.Audit().Pages(ctx, by, func([]AuditRecord) error { return stop })
		if errors.Is(err, stop) {
			return true, nil
		}
		return false, err
	}
	if f.Type != "" && !slices.Contains(storage.AuditTypes, f.Type) {
		return &MissingError{"audit type", f.Type, Nearest(f.Type, storage.AuditTypes)}
	}
	if f.Actor != "" {
		if found, err := has(AuditFilter{Actor: f.Actor}); err != nil || !found {
			actors, e := a.db.Audit().Actors(ctx)
			return cmp.Or(errors.Join(err, e), error(&MissingError{"actor", f.Actor, Nearest(f.Actor, actors)}))
		}
	}
	if f.Target != "" {
		if found, err := has(AuditFilter{Target: f.Target}); err != nil || !found {
			clients, _ := a.db.Clients().Near(ctx, f.Target)
			users, _ := a.db.Users().Near(ctx, f.Target)
			near := Nearest(f.Target, append(clients, users...))
			return cmp.Or(err, error(&MissingError{"target", f.Target, near}))
		}
	}
	return nil
}

// Newest returns the number of the newest record; 0 if there is none.
func (a Audit) Newest(ctx context.Context) (int64, error) {
	seq, _, err := a.db.Audit().Head(ctx)
	return seq, err
}

// SchemaStatus returns the version of the schema.
func (a *Admin) SchemaStatus(ctx context.Context) (storage.SchemaStatus, error) {
	return a.db.SchemaStatus(ctx)
}

// SchemaOf returns the version of the schema of a database. It does not change the database.
func SchemaOf(ctx context.Context, database storage.Source) (storage.SchemaStatus, error) {
	return storage.StatusOf(ctx, storage.Options{Source: database})
}
