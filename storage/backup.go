package storage

import (
	"context"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// Backup writes the database as it is at one moment to a file that must not exist, with mode 0600. Servers go on
// meanwhile. SQLite only.
func (d *DB) Backup(ctx context.Context, file string) error { return d.engine.Backup(ctx, file) }

// CheckBackup tells whether a file is a whole database of keyturn that this program can open, and leaves it as one
// file, to be moved. The guard is asked too.
func CheckBackup(ctx context.Context, file string, guard func(context.Context, *DB) error) error {
	return engine.CheckBackup(ctx, file, schema, func(ctx context.Context, e *engine.DB) error {
		return guard(ctx, newDB(e))
	})
}

// CheckUnused tells whether nobody has a database open: ErrInUse if somebody has. A file that is none, or is not there,
// is used by nobody.
func CheckUnused(ctx context.Context, file string) error { return engine.CheckUnused(ctx, file) }

// SwapFile puts a database in the place of another, if there is one, which it keeps under a name that it returns.
// ErrInUse if anybody has either open.
func SwapFile(ctx context.Context, from, target, name string) (kept string, err error) {
	return engine.SwapFile(ctx, from, target, name)
}

// CopyFile copies a file to one that is made anew, with mode 0600, durably.
func CopyFile(from, to string) error { return engine.CopyFile(from, to) }

// Rename renames a file, durably.
func Rename(from, to string) error { return engine.Rename(from, to) }
