package admin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// Verify follows the chain and returns how many records it has; an error names the first that is not as it was
// written, or says that the end was cut off which this host has seen.
func (a Audit) Verify(ctx context.Context) (int64, error) {
	n, err := a.db.Audit().Verify(ctx)
	if err != nil {
		return n, err
	}
	anchor, err := a.ring.Anchor(a.place.AnchorFile).Read()
	if err != nil || anchor.AuditSeq == 0 {
		return n, err
	}
	hash, err := a.db.Audit().Hash(ctx, anchor.AuditSeq)
	if errors.Is(err, ErrNotFound) || err == nil && hash != anchor.AuditHash {
		err = fmt.Errorf(
			"audit: record %d, which this host has seen at %s, is missing or another one: the end of the trail was cut off",
			anchor.AuditSeq,
			anchor.Heartbeat.Format(time.RFC3339),
		)
	}
	return n, err
}

// Backup writes a copy of an SQLite database to a file that must not exist, while servers run. ErrInvalid for
// PostgreSQL, which has its own tools.
func (a *Admin) Backup(ctx context.Context, file string) error {
	if a.db.Kind() != storage.SQLite {
		return invalid(
			"PostgreSQL is backed up by its own tools: pg_dump --format=custom --file=%s DATABASE, or a base backup with "+
				"WAL archiving",
			file,
		)
	}
	return a.db.Backup(ctx, file)
}

// Restore puts a backup in the place of an SQLite database, if file is not "", and makes what is there the database
// from now on: every login from before ends, and keys that were revoked since stay revoked. No server may run on it. It
// returns where the old file was put. All is done to a copy that then takes the place of the database, so that it may
// be interrupted and run again.
func Restore(ctx context.Context, c config.Config, p keys.Place, o Options, file string) (kept string, err error) {
	o.Moved = true // it is the database from now on
	onAdmin := func(p keys.Place, do func(a *Admin) error) error {
		a, err := Open(ctx, c, p, o)
		if err != nil {
			return err
		}
		return errors.Join(do(a), a.Close())
	}
	mark := func(a *Admin) error { return a.ring.Anchor(p.AnchorFile).RecordRestore(ctx, a.by) }
	if file == "" {
		err = onAdmin(p, mark)
	} else {
		kept, err = restoreFile(ctx, p, file, func(onCopy keys.Place) error { return onAdmin(onCopy, mark) })
	}
	if err != nil {
		return kept, err
	}
	return kept, onAdmin(p, func(a *Admin) error { return a.ring.Anchor(p.AnchorFile).FollowRestore(ctx) })
}

// restoreFile makes a copy of a backup, lets mark make it the database from now on, and puts it in place.
func restoreFile(
	ctx context.Context, p keys.Place, file string, mark func(onCopy keys.Place) error,
) (kept string, err error) {
	target := p.Database.File()
	if target == "" {
		return "", invalid(
			"with PostgreSQL put the backup back by pg_restore first, then run `keyturn restore --confirm` without a file",
		)
	}
	if err := storage.CheckUnused(ctx, target); err != nil {
		return "", err
	}
	copied := target + ".restoring"
	defer os.Remove(copied)
	if err := storage.CopyFile(file, copied); err != nil {
		return "", err
	}
	if err := p.CheckBackup(ctx, copied, filepath.Base(file)); err != nil {
		return "", err
	}
	onCopy := p
	if onCopy.Database, err = storage.ParseSource("sqlite:"+copied, false); err != nil {
		return "", err
	}
	if err := mark(onCopy); err != nil {
		return "", err
	}
	kept = target + ".before-restore-" + time.Now().UTC().Format("20060102T150405.000Z")
	return storage.SwapFile(ctx, copied, target, kept)
}
