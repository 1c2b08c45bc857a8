package storage

import (
	"context"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// Backup writes a snapshot of an SQLite database to a new file with mode 0600. Servers continue to run.
func (d *DB) Backup(ctx context.Context, file string) error { return d.engine.Backup(ctx, file) }

// CheckBackup checks that a file is an undamaged keyturn database that this program can open, runs the guard, and
// leaves the database as one file that can be moved.
func CheckBackup(ctx context.Context, file string, guard func(context.Context, *DB) error) error {
	return engine.CheckBackup(ctx, file, schema, func(ctx context.Context, e *engine.DB) error {
		return guard(ctx, newDB(e))
	})
}

// CheckUnused returns ErrInUse if a process has the database open. A file that is missing, or no database, is unused.
func CheckUnused(ctx context.Context, file string) error { return engine.CheckUnused(ctx, file) }

// SwapFile moves a database to target. It keeps the previous database, if there is one, as name, and then returns name.
// ErrInUse if a process has either open.
func SwapFile(ctx context.Context, from, target, name string) (kept string, err error) {
	return engine.SwapFile(ctx, from, target, name)
}

// CopyFile copies a file durably. It replaces the target with a new file of mode 0600.
func CopyFile(from, to string) error { return engine.CopyFile(from, to) }

// Rename renames a file durably.
func Rename(from, to string) error { return engine.Rename(from, to) }
