package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/jmoiron/sqlx"
)

// Backup writes a snapshot of an SQLite database to a new file with mode 0600. Servers continue to run.
func (d *DB) Backup(ctx context.Context, file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	reader, err := sqlx.Open("sqlite", sqliteDSN(d.path, ""))
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	defer reader.Close()
	if _, err := reader.ExecContext(ctx, `VACUUM INTO $1`, file); err != nil {
		return errors.Join(fmt.Errorf("backup: %w", err), os.Remove(file))
	}
	return syncFile(file)
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return errors.Join(f.Sync(), f.Close())
}

// CopyFile copies a file durably. It replaces the target with a new file of mode 0600.
func CopyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	defer in.Close()
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("copy: %w", err)
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	return nil
}

// CheckBackup checks that a file is an undamaged database that this program can open, runs the guard, and leaves the
// database as one file that can be moved.
func CheckBackup(ctx context.Context, file string, schema Schema, guard func(context.Context, *DB) error) error {
	if err := checkWhole(ctx, file, schema, guard); err != nil {
		return err
	}
	return intoOneFile(ctx, file)
}

func checkWhole(ctx context.Context, file string, schema Schema, guard func(context.Context, *DB) error) error {
	db, err := openSQLite(file, false, schema)
	if err != nil {
		return err
	}
	defer db.Close()
	s, err := db.SchemaStatus(ctx)
	switch {
	case err != nil:
		return err
	case s.Version == 0:
		return fmt.Errorf("%w: it is no database of keyturn", ErrSchema)
	case s.Version > s.Known:
		return fmt.Errorf("%w: it has version %d, this keyturn knows %d", ErrSchema, s.Version, s.Known)
	}
	var verdict string
	if err := db.write.GetContext(ctx, &verdict, `PRAGMA integrity_check(1)`); err != nil {
		return db.fault("integrity", err)
	}
	if verdict != "ok" {
		return fmt.Errorf("the database is damaged: %s", verdict)
	}
	return guard(ctx, db)
}

// intoOneFile merges the log of a database into its file. ErrInUse if another process has it open.
func intoOneFile(ctx context.Context, file string) error {
	pool, err := sqlx.Open("sqlite", sqliteDSN(file, ""))
	if err != nil {
		return err
	}
	defer pool.Close()
	pool.SetMaxOpenConns(1)
	_, err = pool.ExecContext(ctx, `PRAGMA journal_mode = DELETE`)
	if code, ok := sqliteCode(err); ok && isBusy(code) {
		return ErrInUse
	}
	return err
}

// ErrInUse means that another process has the database open.
var ErrInUse = errors.New("the database is in use: stop the server first")

// CheckUnused returns ErrInUse if a process has the database open. A file that is missing, or no database, is unused.
func CheckUnused(ctx context.Context, file string) error {
	if _, err := os.Stat(file); err != nil {
		return nil
	}
	if err := intoOneFile(ctx, file); errors.Is(err, ErrInUse) {
		return err
	}
	return nil
}

// SwapFile moves a database to target. It keeps the previous database, if there is one, as name, and then returns name.
// ErrInUse if a process has either open.
func SwapFile(ctx context.Context, from, target, name string) (kept string, err error) {
	if err := intoOneFile(ctx, from); err != nil {
		return "", err
	}
	if err := CheckUnused(ctx, target); err != nil {
		return "", err
	}
	if _, err := os.Stat(target); err == nil {
		if err := keep(target, name); err != nil {
			return "", err
		}
		kept = name
	}
	return kept, Rename(from, target)
}

// keep moves a database, and the files beside it, out of the way.
func keep(target, kept string) error {
	if _, err := os.Lstat(kept); err == nil {
		return fmt.Errorf("%s is there already: try again in a moment", kept)
	}
	for _, part := range []string{"-wal", "-shm", ""} {
		if err := Rename(target+part, kept+part); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Rename renames a file durably.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	folder, err := os.Open(filepath.Dir(to))
	if err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	return errors.Join(folder.Sync(), folder.Close())
}
