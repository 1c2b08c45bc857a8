package storage

import (
	"context"
	"time"
)

// Meta reads a named value: the stamp of a development database, the canary of the master key. ErrNotFound if it was never set.
func (d *DB) Meta(ctx context.Context, name string) (string, error) {
	var value string
	return value, d.get(ctx, "meta", &value, `SELECT value FROM meta WHERE name = $1`, name)
}

// SetMetaOnce sets a named value unless it is set, and returns the one that stands.
func (d *DB) SetMetaOnce(ctx context.Context, name, value string) (string, error) {
	if _, err := d.change(ctx, "set meta", `INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, name, value); err != nil {
		return "", err
	}
	return d.Meta(ctx, name)
}

// SetMeta sets a named value, whatever it was.
func (d *DB) SetMeta(ctx context.Context, name, value string) error {
	_, err := d.change(ctx, "set meta", `INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
	return err
}

// ReplaceMeta replaces a named value, with an audit record. ErrConflict if it is not the one that was read.
func (d *DB) ReplaceMeta(ctx context.Context, by Actor, e Event, name, from, to string, now time.Time) error {
	return d.inTx(ctx, e.Type, func(t *tx) error {
		if err := t.changeAsRead(`UPDATE meta SET value = $1 WHERE name = $2 AND value = $3`, to, name, from); err != nil {
			return err
		}
		return t.audit(by, now, e)
	})
}
