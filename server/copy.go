package server

import (
	"context"
	"fmt"

	"github.com/keyturn/keyturn/storage"
)

// CopyTo copies an SQLite database to a new PostgreSQL one, under the same master key, and verifies the copy's audit trail. told hears how many rows
// each table has. Logins go on there. ErrInvalid, or ErrConflict if the other database is not new.
func (a *Admin) CopyTo(ctx context.Context, databaseURL string, insecure bool, told func(table string, rows int64)) error {
	if a.db.Kind() != storage.SQLite || storage.SQLitePath(databaseURL) != "" {
		return invalid("copy: from SQLite to PostgreSQL: --database sqlite:… --to postgres://…")
	}
	if err := storage.CheckURL(databaseURL, insecure); err != nil {
		return invalid("%v", err)
	}
	to, err := storage.Open(ctx, storage.Options{URL: databaseURL, AllowInsecure: insecure, Create: true, Migrate: true})
	if err != nil {
		return err
	}
	rows := map[string]int64{}
	err = a.db.CopyTo(ctx, to, func(table string, n int64) { rows[table] = n; told(table, n) })
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
	if err := there.db.Copied(ctx, there.by, rows, there.now()); err != nil {
		return err
	}
	if _, err := there.VerifyAudit(ctx); err != nil {
		return fmt.Errorf("the copy: %w", err)
	}
	return nil
}
