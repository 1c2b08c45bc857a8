package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// anchorPath is where the anchor lies: beside the master key unless something else is said.
func (c Config) anchorPath() string {
	if c.AnchorFile != "" {
		return c.AnchorFile
	}
	return c.masterKeyPath() + ".anchor"
}

// beat leaves a heartbeat, the anchor, and the head of the trail in the log, where somebody who can write both database
// and anchor does not reach it.
func (s *Server) beat(ctx context.Context) {
	a, err := s.ring.WriteHeartbeat(ctx, s.config().anchorPath())
	if err == nil {
		s.metrics.anchored.Set(1)
	} else if !errors.Is(err, storage.ErrUnavailable) {
		s.metrics.anchored.Set(0)
	}
	if a.AuditSeq > 0 {
		s.log.Info("audit head", "event", "audit.head", "seq", a.AuditSeq, "hash", a.AuditHash)
	}
	var older *keys.OlderError
	if err == nil {
		err = checkMoved(ctx, s.db)
		s.older.Store(err != nil && !errors.Is(err, storage.ErrUnavailable))
	} else if errors.As(err, &older) {
		s.older.Store(true)
	}
	if err != nil && !errors.Is(err, storage.ErrUnavailable) { // of that polling tells
		s.log.Error("the anchor could not be kept", "error", err.Error())
	}
}

// errOlder says that the database has gone back to an older state: nothing in it can be trusted until a person has
// looked.
var errOlder = fmt.Errorf("the database has gone back to an older state: %w", keys.ErrStale)

// lastBeat bounds the one of a server that stops.
const lastBeat = 1500 * time.Millisecond

// keepAnchor beats until the context ends, and then once more.
func (s *Server) keepAnchor(ctx context.Context) {
	tick := time.NewTicker(keys.HeartbeatInterval)
	defer tick.Stop()
	for {
		s.beat(ctx)
		s.warnOfClock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(s.db.Patience(), lastBeat))
			defer cancel()
			s.beat(last)
			return
		}
	}
}

// VerifyAudit follows the chain and returns how many records it has; an error names the first that is not as it was
// written, or says that the end was cut off which this host has seen.
func (a *Admin) VerifyAudit(ctx context.Context) (int64, error) {
	n, err := a.db.Audit().Verify(ctx)
	if err != nil {
		return n, err
	}
	anchor, err := a.ring.Anchor(a.config.anchorPath())
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
func Restore(ctx context.Context, c Config, o AdminOptions, file string) (kept string, err error) {
	if problems := c.Problems(false); problems != nil {
		return "", &ConfigError{problems}
	}
	o.Moved = true // it is the database from now on
	onAdmin := func(c Config, do func(a *Admin) error) error {
		a, err := OpenAdmin(ctx, c, o)
		if err != nil {
			return err
		}
		return errors.Join(do(a), a.Close())
	}
	mark := func(a *Admin) error { return a.ring.Restored(ctx, a.by, c.anchorPath()) }
	if file == "" {
		err = onAdmin(c, mark)
	} else {
		kept, err = restoreFile(ctx, c, file, func(onCopy Config) error { return onAdmin(onCopy, mark) })
	}
	if err != nil {
		return kept, err
	}
	return kept, onAdmin(c, func(a *Admin) error { return a.ring.AnchorRestored(ctx, c.anchorPath()) })
}

// restoreFile makes a copy of a backup, lets mark make it the database from now on, and puts it in place.
func restoreFile(ctx context.Context, c Config, file string, mark func(onCopy Config) error) (kept string, err error) {
	target := c.source().File()
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
	if err := checkedCopy(ctx, c, file, copied); err != nil {
		return "", err
	}
	onCopy := c
	onCopy.Database, onCopy.MasterKeyFile, onCopy.AnchorFile = "sqlite:"+copied, c.masterKeyPath(), c.anchorPath()
	if err := mark(onCopy); err != nil {
		return "", err
	}
	kept = target + ".before-restore-" + time.Now().UTC().Format("20060102T150405.000Z")
	return storage.SwapFile(ctx, copied, target, kept)
}

// checkedCopy copies a backup and tells whether it is a whole database of this master key.
func checkedCopy(ctx context.Context, c Config, file, copied string) error {
	master, err := keys.ReadMaster(c.masterKeyPath())
	if err != nil {
		return err
	}
	if err := storage.CopyFile(file, copied); err != nil {
		return err
	}
	guard := func(ctx context.Context, db *storage.DB) error { return keys.CheckMaster(ctx, db, master) }
	if err := storage.CheckBackup(ctx, copied, guard); err != nil {
		return withMasterPath(fmt.Errorf("%s: %w", filepath.Base(file), err), c)
	}
	return nil
}
