package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// ErrReplaced says that the file of an SQLite database is not the one that was opened. It is ErrUnavailable: what is
// written now would be in a file that nobody finds again.
var ErrReplaced = fmt.Errorf(
	"%w: its file was replaced or removed while this process runs: stop it, look which file is "+
		"the right one, put that in place and start again",
	ErrUnavailable,
)

// recently is how long it counts that the database has shown that it takes writes.
const recently = time.Second

// wrote keeps what the outcome of a write has shown, and returns it.
func (d *DB) wrote(err error) error {
	switch {
	case errors.Is(err, ErrBusy), errors.Is(err, context.Canceled): // which show nothing
	case errors.Is(err, ErrUnavailable):
		d.failing.Store(true)
	default:
		d.failing.Store(false)
		d.takesAt.Store(time.Now().UnixNano())
	}
	return err
}

// Serves reports why the database takes no writes; nil if it does. It goes by what the last second has shown. If that
// is nothing, it asks: an empty transaction on SQLite, the role of the server on PostgreSQL. After a write that failed,
// only a write that goes through, the probe, is an answer: a full disk refuses nothing else.
func (d *DB) Serves(ctx context.Context, probe func(context.Context) error) error {
	if err := d.Replaced(); err != nil {
		return err
	}
	switch {
	case d.kind == SQLite && d.commits.locked() > lockedFor:
		return d.unlocked(ctx)
	case d.failing.Load():
		return probe(ctx)
	case time.Since(time.Unix(0, d.takesAt.Load())) < recently:
		return nil
	case d.kind == SQLite:
		return d.unlocked(ctx)
	}
	return d.Ping(ctx)
}

// lockedFor is how long another process may hold the lock of the database before it takes no writes.
const lockedFor = time.Second

// unlocked reports whether another process holds the lock of an SQLite database, by an empty transaction.
func (d *DB) unlocked(ctx context.Context) error {
	soon, cancel := context.WithTimeout(ctx, lockedFor+lockedFor/2)
	defer cancel()
	err := d.InTx(soon, "probe", func(*Tx) error { return nil })
	if d.commits.locked() > lockedFor {
		return fmt.Errorf("probe: %w: another process holds its lock", ErrUnavailable)
	}
	return err
}

// besides are the ends of the names of the files that SQLite keeps beside a database that is open.
var besides = []string{"-wal", "-shm"}

// Replaced is ErrReplaced if a file of an SQLite database is not the one that was opened, or one that lies beside it
// while it is open: who copies an older database into the same file removes those first.
func (d *DB) Replaced() error {
	if d.kind != SQLite {
		return nil
	}
	for i, name := range append([]string{""}, besides...) {
		now, err := os.Stat(d.path + name)
		opened := d.files[i].Load()
		switch {
		case err == nil && opened == nil:
			d.files[i].Store(&now)
		case opened == nil, err == nil && os.SameFile(*opened, now):
		case err == nil, errors.Is(err, os.ErrNotExist):
			return fmt.Errorf("%s: %w", d.path+name, ErrReplaced)
		}
	}
	return nil
}
