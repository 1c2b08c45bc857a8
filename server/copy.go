package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Copy copies an SQLite database to a new PostgreSQL one, under the same master key, verifies the copy's audit trail,
// and marks the old one so that no server takes it any more. told hears how many rows each table has. Logins go on
// there. ErrInvalid, storage.ErrInUse while a server runs, or ErrConflict if the other database is not new.
func Copy(
	ctx context.Context,
	c Config,
	o AdminOptions,
	databaseURL string,
	insecure bool,
	told func(table string, rows int64),
) error {
	file := c.source().File()
	target, err := storage.ParseSource(databaseURL, insecure)
	if file == "" || target.Kind() == storage.SQLite {
		return invalid("copy: from SQLite to PostgreSQL: --database sqlite:… --to postgres://…")
	}
	if err != nil {
		return invalid("%v", err)
	}
	if err := storage.CheckUnused(ctx, file); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	a, err := OpenAdmin(ctx, c, o)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := a.copyTo(ctx, databaseURL, insecure, told); err != nil {
		return errors.Join(err, a.db.UnmarkMoved(ctx))
	}
	return nil
}

func (a *Admin) copyTo(
	ctx context.Context,
	databaseURL string,
	insecure bool,
	told func(table string, rows int64),
) error {
	source, err := storage.ParseSource(databaseURL, insecure)
	if err != nil {
		return err
	}
	to, err := storage.Open(ctx, storage.Options{Source: source, Create: true, Migrate: true})
	if err != nil {
		return err
	}
	rows := map[string]int64{}
	err = a.db.CopyTo(
		ctx,
		to,
		WithoutPassword(databaseURL)+" at "+a.now().UTC().Format(time.RFC3339),
		func(table string, n int64) { rows[table] = n; told(table, n) },
	)
	if closed := to.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	c := a.config
	c.Database, c.AllowInsecureDatabase, c.MasterKeyFile = databaseURL, insecure, a.config.masterKeyPath()
	there, err := OpenAdmin(ctx, c, AdminOptions{Actor: a.by.Name, Reason: a.by.Reason, Say: a.say})
	if err != nil {
		return fmt.Errorf("the copy: %w", err)
	}
	defer there.Close()
	if err := there.db.RecordCopy(ctx, there.by, rows, there.now()); err != nil {
		return err
	}
	if _, err := there.VerifyAudit(ctx); err != nil {
		return fmt.Errorf("the copy: %w", err)
	}
	there.Remember(ctx)
	return nil
}
