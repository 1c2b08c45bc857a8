package admin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// Verify checks the chain and returns its number of records. An error names the first changed record, or reports that
// the chain lacks a record that this host has seen.
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
	if errors.Is(err, ErrNotFound) ||
		err == nil && hash != anchor.AuditHash {
		err = fmt.Errorf(
			"audit: record %d, which this host has seen at %s, is missing or replaced: the end of the trail was "+
				"cut off",
			anchor.AuditSeq,
			anchor.Heartbeat.Format(time.RFC3339),
		)
	}
	return n, err
}

// Backup copies an SQLite database to a file that must not exist, while servers run. It returns ErrInvalid for
// PostgreSQL, which has its own tools.
func (a *Admin) Backup(ctx context.Context, file string) error {
	if a.db.Kind() != storage.SQLite {
		return invalid(
			"back PostgreSQL up with its own tools: pg_dump --format=custom --file=%s DATABASE, or a base backup "+
				"with WAL archiving",
			file,
		)
	}
	return a.db.Backup(ctx, file)
}

// Restore replaces an SQLite database by a backup, unless file is "", and accepts the present database from now on:
// every login ends, and keys that were revoked since the backup stay revoked. No server may run on it. It returns the
// path of the old file. It works on a copy that replaces the database at the end, so that an interrupted run can be
// repeated.
func Restore(ctx context.Context, c config.Config, p keys.Place, o Options, file string) (kept string, err error) {
	o.Moved = true         // accept it from now on
	o.Migrate = file != "" // only the copy, which nobody uses yet
	onAdmin := func(p keys.Place, do func(a *Admin) error) error {
		a, err := Open(ctx, c, p, o)
		if err != nil {
			return err
		}
		return errors.Join(do(a), a.Close())
	}
	mark := func(a *Admin) error { return a.ring.Anchor(p.AnchorFile).RecordRestore(ctx, a.by) }
	if file == "" {
		err = onAdmin(p, func(a *Admin) error {
			if err := a.checkStopped(ctx); err != nil {
				return err
			}
			return mark(a)
		})
	} else {
		kept, err = restoreFile(ctx, p, file, func(onCopy keys.Place) error { return onAdmin(onCopy, mark) })
	}
	if err != nil {
		return kept, err
	}
	return kept, onAdmin(p, func(a *Admin) error { return a.ring.Anchor(p.AnchorFile).FollowRestore(ctx) })
}

// aliveFor is how long after its last heartbeat a server counts as running.
const aliveFor = keys.HeartbeatInterval*3/2 + keys.Skew

// Running lists the servers that have written a heartbeat recently.
func (a *Admin) Running(ctx context.Context) ([]storage.Replica, error) {
	now, err := a.db.Clock(ctx)
	if err != nil {
		return nil, err
	}
	return a.db.Replicas().Since(ctx, now.Add(-aliveFor))
}

// answering lists the servers that answer a roll call. The table itself cannot tell: it may have come with a backup,
// and the servers of its rows may be gone.
func (a *Admin) answering(ctx context.Context) (answered []storage.Replica, err error) {
	before, err := a.Running(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.db.Replicas().CallRoll(ctx); err != nil {
		return nil, err
	}
	if a.say != nil {
		a.say("Waiting %v for running servers to answer.", rollCall)
	}
	for deadline := time.Now().Add(rollCall); time.Now().Before(deadline); {
		now, err := a.Running(ctx)
		if err != nil {
			return nil, err
		}
		answered = slices.DeleteFunc(now, func(r storage.Replica) bool { return slices.Contains(before, r) })
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(rollCall / 30):
		}
	}
	for _, r := range before {
		silent := !slices.ContainsFunc(answered, func(other storage.Replica) bool { return other.ID == r.ID })
		if silent && a.say != nil {
			a.say("The server %s, last seen at %s, does not answer: see that it is stopped.", r.Name,
				r.SeenAt.Format(time.RFC3339))
		}
	}
	return answered, nil
}

// rollCall is how long a server has to answer a roll call. It looks once a second.
const rollCall = 3 * time.Second

// checkStopped refuses (ErrRefused) while servers run.
func (a *Admin) checkStopped(ctx context.Context) error {
	running, err := a.answering(ctx)
	if err != nil || len(running) == 0 {
		return err
	}
	var names []string
	for _, r := range running {
		names = append(names, fmt.Sprintf("%s (seen at %s)", r.Name, r.SeenAt.Format(time.RFC3339)))
	}
	return refusal{fmt.Errorf("restore: servers run on this database: %s. Stop all of them first",
		strings.Join(names, ", "))}
}

// restoreFile copies a backup, calls mark on the copy, and replaces the database by it.
func restoreFile(
	ctx context.Context, p keys.Place, file string, mark func(onCopy keys.Place) error,
) (kept string, err error) {
	target := p.Database.File()
	if target == "" {
		return "", invalid(
			"with PostgreSQL first restore the backup with pg_restore, then run `keyturn restore --confirm` " +
				"without a file",
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
