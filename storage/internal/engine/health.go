package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// ErrReplaced means that the SQLite file is not the one that was opened. It wraps ErrUnavailable: what is written now
// goes to a file that has no name any more.
var ErrReplaced = fmt.Errorf(
	"%w: its file was replaced or removed while this process runs: stop it, look which file is "+
		"the right one, put that in place and start again",
	ErrUnavailable,
)

// recently is how long evidence counts that the database accepts writes.
const recently = time.Second

// wrote records what the outcome of a write shows about the database, and returns the outcome.
func (d *DB) wrote(err error) error {
	switch {
	case errors.Is(err, ErrBusy), errors.Is(err, context.Canceled): // no evidence
	case errors.Is(err, ErrUnavailable):
		d.failing.Store(true)
	default:
		d.failing.Store(false)
		d.takesAt.Store(time.Now().UnixNano())
	}
	return err
}

// Serves returns nil if the database accepts writes. Evidence from the last second is enough. Without any, it asks:
// SQLite for an empty transaction, PostgreSQL for its role. After a failed write, it runs probe, which must write: a
// full disk refuses nothing but writes.
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

// lockedFor is how long another process may hold the lock before the database counts as not accepting writes.
const lockedFor = time.Second

// unlocked returns an error if another process holds the lock of an SQLite database. It tries an empty transaction.
func (d *DB) unlocked(ctx context.Context) error {
	soon, cancel := context.WithTimeout(ctx, lockedFor+lockedFor/2)
	defer cancel()
	err := d.InTx(soon, "probe", func(*Tx) error { return nil })
	if d.commits.locked() > lockedFor {
		return fmt.Errorf("probe: %w: another process holds its lock", ErrUnavailable)
	}
	return err
}

// besides are the suffixes of the files that SQLite keeps beside an open database.
var besides = []string{"-wal", "-shm"}

// Replaced returns ErrReplaced if the SQLite file, or one that SQLite keeps beside it, is not the one that was opened.
// Whoever copies an older database over the file removes the others first.
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
