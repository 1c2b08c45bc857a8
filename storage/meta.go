package storage

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Meta is the table of named values, such as the canary of the master key.
type Meta struct{ db *DB }

// Meta returns the table of named values.
func (d *DB) Meta() Meta { return Meta{d} }

// Value reads a named value. ErrNotFound if it was never set.
func (m Meta) Value(ctx context.Context, name string) (string, error) {
	var value string
	return value, m.db.engine.Get(ctx, "meta", &value, `SELECT value FROM meta WHERE name = $1`, name)
}

// SetOnce sets a named value unless it is set, and returns the value in the table.
func (m Meta) SetOnce(ctx context.Context, name, value string) (string, error) {
	if _, err := m.db.engine.Change(ctx, "set meta", `INSERT INTO meta (name, value) VALUES ($1, $2)
		ON CONFLICT (name) DO NOTHING`, name, value); err != nil {
		return "", err
	}
	return m.Value(ctx, name)
}

// Set sets a named value.
func (m Meta) Set(ctx context.Context, name, value string) error {
	_, err := m.db.engine.Change(
		ctx,
		"set meta",
		`INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`,
		name,
		value,
	)
	return err
}

// The timestamps, which never decrease.
const (
	TimestampHeartbeat = "heartbeat"  // of the last sign of life of a server
	TimestampNotBefore = "not before" // of the last restore: grants from before it have ended
)

// Timestamp reads a timestamp; the zero time if it was never set.
func (m Meta) Timestamp(ctx context.Context, name string) (time.Time, error) {
	value, err := m.Value(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	ms, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("timestamp %s: %w", name, err)
	}
	return time.UnixMilli(ms).UTC(), nil
}

// setTimestamp writes unix milliseconds with leading zeros, so that they compare as text.
const setTimestamp = `INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name)
	DO UPDATE SET value = excluded.value WHERE meta.value < excluded.value`

func timestampText(at time.Time) string { return fmt.Sprintf("%015d", at.UnixMilli()) }

// SetTimestamp advances a timestamp, never back.
func (m Meta) SetTimestamp(ctx context.Context, name string, at time.Time) error {
	_, err := m.db.engine.Change(ctx, "set timestamp", setTimestamp, name, timestampText(at))
	return err
}

// RecordRestore ends every grant of a database that was restored from a backup, and sets its timestamps to now.
func (d *DB) RecordRestore(ctx context.Context, by Actor, now time.Time) error {
	return d.inTx(ctx, "restore", func(t *tx) error {
		for _, name := range []string{TimestampHeartbeat, TimestampNotBefore} {
			if _, err := t.Change(setTimestamp, name, timestampText(now)); err != nil {
				return err
			}
		}
		// this database is the one in use from now on
		if _, err := t.Change(`DELETE FROM meta WHERE name = $1`, MetaMoved); err != nil {
			return err
		}
		if err := t.endClient("", EndedRestore, true, now); err != nil {
			return err
		}
		// Invalidate clients cached before the restore. An epoch starts at the creation time of its client and is
		// incremented by one: now is beyond every epoch that was lost.
		if _, err := t.Change(`UPDATE clients SET epoch = CASE WHEN epoch < $1 THEN $1 ELSE epoch + 1 END,
			revision = $2`, At(now), randomID()); err != nil {
			return err
		}
		return t.audit(by, now, Event{"database.restore", "", nil})
	})
}

// SwapSealed replaces a sealed value, or sets it if from is "". ErrConflict if it, or the set of signing keys, has
// changed since it was read.
func (m Meta) SwapSealed(ctx context.Context, name, from, to string, setVersion int64) error {
	return m.db.inTx(ctx, "swap meta", func(t *tx) error {
		if err := t.holdKeySet(setVersion); err != nil {
			return err
		}
		if from == "" {
			return t.ChangeAsRead(
				`INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`,
				name,
				to,
			)
		}
		return t.ChangeAsRead(`UPDATE meta SET value = $1 WHERE name = $2 AND value = $3`, to, name, from)
	})
}

// Reseal replaces a sealed value, with an audit record. ErrConflict if it, or the set of signing keys, has changed
// since it was read.
func (m Meta) Reseal(
	ctx context.Context, by Actor, e Event, name, from, to string, setVersion int64, now time.Time,
) error {
	return m.db.inTx(ctx, e.Type, func(t *tx) error {
		if err := t.holdKeySet(setVersion); err != nil {
			return err
		}
		err := t.ChangeAsRead(`UPDATE meta SET value = $1 WHERE name = $2 AND value = $3`, to, name, from)
		if err != nil {
			return err
		}
		return t.audit(by, now, e)
	})
}
