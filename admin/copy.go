package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// Copy copies an SQLite database to a new PostgreSQL database, under the same master key, and verifies the audit trail
// of the copy. It marks the old database, so that servers refuse it. It calls told with the number of rows of each
// table. No login ends. It may return ErrInvalid, storage.ErrInUse while a server runs, or ErrConflict if the target is
// not new.
func Copy(
	ctx context.Context, c config.Config, p keys.Place, o Options, to storage.Source,
	told func(table string, rows int64),
) error {
	file := p.Database.File()
	if file == "" || to.Kind() != storage.Postgres {
		return errCopy
	}
	if err := storage.CheckUnused(ctx, file); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	a, err := Open(ctx, c, p, o)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := a.copyTo(ctx, to, told); err != nil {
		return errors.Join(err, a.db.UnmarkMoved(ctx))
	}
	return nil
}

var errCopy = invalid("copy: want --database sqlite:… and --to postgres://…: it copies from SQLite to PostgreSQL")

func (a *core) copyTo(ctx context.Context, to storage.Source, told func(table string, rows int64)) error {
	target, err := storage.Open(ctx, storage.Options{Source: to, Create: true, Migrate: true})
	if err != nil {
		return err
	}
	rows := map[string]int64{}
	address := to.String() + " at " + a.now().UTC().Format(time.RFC3339)
	err = a.db.CopyTo(ctx, target, address, func(table string, n int64) { rows[table] = n; told(table, n) })
	if closed := target.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	there := a.place
	there.Database = to
	return a.checkCopy(ctx, there, rows)
}

// checkCopy records the copy in its own audit trail and verifies that trail.
func (a *core) checkCopy(ctx context.Context, place keys.Place, rows map[string]int64) error {
	there, err := Open(ctx, a.config, place, Options{Actor: a.by.Name, Reason: a.by.Reason, Say: a.say})
	if err != nil {
		return fmt.Errorf("the copy: %w", err)
	}
	defer there.Close()
	if err := there.db.RecordCopy(ctx, there.by, rows, there.now()); err != nil {
		return err
	}
	if _, err := there.Audit().Verify(ctx); err != nil {
		return fmt.Errorf("the copy: %w", err)
	}
	there.Remember(ctx)
	return nil
}
