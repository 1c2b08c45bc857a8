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

// Backup writes the database as it is at one moment to a file that must not exist, with mode 0600. Servers go on
// meanwhile. SQLite only.
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

// CopyFile copies a file to one that is made anew, with mode 0600, durably.
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

// CheckBackup tells whether a file is a whole database that this program can open, and leaves it as one file, to be
// moved. The guard is asked too.
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

// intoOneFile brings everything of a database into its one file. ErrInUse if anybody else has it open.
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

// ErrInUse says that a server has the database open.
var ErrInUse = errors.New("the database is in use: stop the server first")

// CheckUnused tells whether nobody has a database open: ErrInUse if somebody has. A file that is none, or is not there,
// is used by nobody.
func CheckUnused(ctx context.Context, file string) error {
	if _, err := os.Stat(file); err != nil {
		return nil
	}
	if err := intoOneFile(ctx, file); errors.Is(err, ErrInUse) {
		return err
	}
	return nil
}

// SwapFile puts a database in the place of another, if there is one, which it keeps under a name that it returns.
// ErrInUse if anybody has either open.
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

// keep moves a database and what may lie beside it out of the way.
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

// Rename renames a file, durably.
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
