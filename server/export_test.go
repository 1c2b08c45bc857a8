package server

import (
	"context"
	"time"
)

// all collects the pages of a list.
func all[T any](each func(func([]T) error) error) (rows []T, err error) {
	err = each(func(page []T) error {
		rows = append(rows, page...)
		return nil
	})
	return rows, err
}

// Grants is all of EachGrant.
func (a *Admin) Grants(ctx context.Context, user, client string) ([]Grant, error) {
	return all(func(do func([]Grant) error) error { return a.EachGrant(ctx, user, client, do) })
}

// Users is all of EachUser.
func (a *Admin) Users(ctx context.Context) ([]User, error) {
	return all(func(do func([]User) error) error { return a.EachUser(ctx, do) })
}

// Audit is all of EachAudit.
func (a *Admin) Audit(ctx context.Context, since time.Time, kind string) ([]AuditRecord, error) {
	return all(func(do func([]AuditRecord) error) error { return a.EachAudit(ctx, since, kind, do) })
}
