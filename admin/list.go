package admin

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

// All returns every grant of Each, in memory.
func (a Grants) All(ctx context.Context, user, client string) ([]Grant, error) {
	return all(func(do func([]Grant) error) error { return a.Each(ctx, user, client, do) })
}

// All returns every user, in memory.
func (a Users) All(ctx context.Context) ([]User, error) {
	return all(func(do func([]User) error) error { return a.Each(ctx, do) })
}

// All returns every record of Each, in memory.
func (a Audit) All(ctx context.Context, since time.Time, kind string) ([]AuditRecord, error) {
	return all(func(do func([]AuditRecord) error) error { return a.Each(ctx, since, kind, do) })
}
