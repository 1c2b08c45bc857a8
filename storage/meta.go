package storage

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Meta reads a named value: the stamp of a development database, the canary of the master key. ErrNotFound if it was
// never set.
func (d *DB) Meta(ctx context.Context, name string) (string, error) {
	var value string
	return value, d.engine.Get(ctx, "meta", &value, `SELECT value FROM meta WHERE name = $1`, name)
}

// SetMetaOnce sets a named value unless it is set, and returns the one that stands.
func (d *DB) SetMetaOnce(ctx context.Context, name, value string) (string, error) {
	if _, err := d.engine.Change(ctx, "set meta", `INSERT INTO meta (name, value) VALUES ($1, $2)
		ON CONFLICT (name) DO NOTHING`, name, value); err != nil {
		return "", err
	}
	return d.Meta(ctx, name)
}

// SetMeta sets a named value, whatever it was.
func (d *DB) SetMeta(ctx context.Context, name, value string) error {
	_, err := d.engine.Change(
		ctx,
		"set meta",
		`INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`,
		name,
		value,
	)
	return err
}

// Marks of the database: moments that only move on.
const (
	MarkHeartbeat = "heartbeat"  // when a server last said that it runs
	MarkNotBefore = "not before" // the last restore: grants from before it have ended
)

// Mark reads a mark; the zero time if it was never set.
func (d *DB) Mark(ctx context.Context, name string) (time.Time, error) {
	value, err := d.Meta(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	ms, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("mark %s: %w", name, err)
	}
	return time.UnixMilli(ms).UTC(), nil
}

// setMark writes unix milliseconds with leading zeros, so that text compares like numbers.
const setMark = `INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name)
	DO UPDATE SET value = excluded.value WHERE meta.value < excluded.value`

func markText(at time.Time) string { return fmt.Sprintf("%015d", at.UnixMilli()) }

// SetMark moves a mark on, never back.
func (d *DB) SetMark(ctx context.Context, name string, at time.Time) error {
	_, err := d.engine.Change(ctx, "set mark", setMark, name, markText(at))
	return err
}

// MarkRestored ends every grant of a database that was restored from a backup, and sets its marks to now.
func (d *DB) MarkRestored(ctx context.Context, by Actor, now time.Time) error {
	return d.inTx(ctx, "restore", func(t *tx) error {
		for _, mark := range []string{MarkHeartbeat, MarkNotBefore} {
			if _, err := t.Change(setMark, mark, markText(now)); err != nil {
				return err
			}
		}
		// this database is the one from now on
		if _, err := t.Change(`DELETE FROM meta WHERE name = $1`, MetaMoved); err != nil {
			return err
		}
		// Who remembers a client of before must not take it for one of now, nor for what it is changed to.
		// Epochs begin at the moment of a client's creation and move on by one: now is beyond every epoch that was lost.
		if _, err := t.Change(`UPDATE clients SET epoch = CASE WHEN epoch < $1 THEN $1 ELSE epoch + 1 END,
			revision = $2`, At(now), randomID()); err != nil {
			return err
		}
		return t.audit(by, now, Event{"database.restore", "", nil})
	})
}

// ReplaceMeta replaces a named value, with an audit record. ErrConflict if it is not the one that was read.
func (d *DB) ReplaceMeta(ctx context.Context, by Actor, e Event, name, from, to string, now time.Time) error {
	return d.inTx(ctx, e.Type, func(t *tx) error {
		if err := t.ChangeAsRead(`UPDATE meta SET value = $1 WHERE name = $2 AND value = $3`, to, name, from); err != nil {
			return err
		}
		return t.audit(by, now, e)
	})
}
