package storage

import (
	"context"
	"fmt"
	"time"
)

// SecretKey is a sealed symmetric key: for refresh tokens, client secrets, the audit trail or the ids of access tokens.
type SecretKey struct {
	Purpose     string `db:"purpose"`
	Number      int64  `db:"number"`
	Sealed      string `db:"sealed"`
	ActivatedAt Time   `db:"activated_at"` // when it becomes the one in use
}

func (k SecretKey) name() string { return fmt.Sprintf("%s %d", k.Purpose, k.Number) }

// SecretKeys is the table of symmetric keys.
type SecretKeys struct{ db *DB }

// SecretKeys returns the table of symmetric keys.
func (d *DB) SecretKeys() SecretKeys { return SecretKeys{d} }

// All lists the symmetric keys, ordered by purpose and activation.
func (k SecretKeys) All(ctx context.Context) ([]SecretKey, error) {
	keys := []SecretKey{}
	return keys, k.db.engine.AllForUpkeep(ctx, "secret keys", &keys, `SELECT purpose, number, sealed, activated_at
		FROM secret_keys ORDER BY purpose, activated_at, number`)
}

const insertSecretKey = `INSERT INTO secret_keys (purpose, number, sealed, activated_at) VALUES ($1, $2, $3, $4)
	ON CONFLICT (purpose, number) DO NOTHING`

// CreateFirst inserts the first symmetric keys, except those that exist. It is not audited, because one of them is the
// key of the audit trail.
func (k SecretKeys) CreateFirst(ctx context.Context, keys []SecretKey) error {
	return k.db.inTx(ctx, "begin secret keys", func(t *tx) error {
		for _, key := range keys {
			if _, err := t.Change(insertSecretKey, key.Purpose, key.Number, key.Sealed, key.ActivatedAt); err != nil {
				return err
			}
		}
		return nil
	})
}

// Add inserts symmetric keys, all or none. version is that of the signing keys which the sealing replica knows.
// ErrConflict if that has changed, perhaps with the master key, or if a key exists.
func (k SecretKeys) Add(ctx context.Context, by Actor, keys []SecretKey, version int64, now time.Time) error {
	return k.db.inTx(ctx, "secret.add", func(t *tx) error {
		if err := t.holdKeySet(version); err != nil {
			return err
		}
		for _, key := range keys {
			err := t.ChangeAsRead(insertSecretKey, key.Purpose, key.Number, key.Sealed, key.ActivatedAt)
			if err != nil {
				return err
			}
			e := Event{"secret.add", key.name(), map[string]any{"activated_at": key.ActivatedAt}}
			if err := t.audit(by, now, e); err != nil {
				return err
			}
		}
		return nil
	})
}

// Delete removes a symmetric key permanently. ErrConflict if it has changed since it was read.
func (k SecretKeys) Delete(ctx context.Context, by Actor, key SecretKey, now time.Time) error {
	return k.change(ctx, by, Event{"secret.retire", key.name(), nil}, now,
		`DELETE FROM secret_keys WHERE purpose = $1 AND number = $2 AND sealed = $3`,
		key.Purpose, key.Number, key.Sealed)
}

// Reseal replaces the sealed text of a symmetric key. ErrConflict if it, or the set of signing keys, has changed since
// it was read: another rewrap may have turned the set to another master key.
func (k SecretKeys) Reseal(
	ctx context.Context, by Actor, key SecretKey, sealed string, setVersion int64, now time.Time,
) error {
	e := Event{"secret.rewrap", key.name(), nil}
	return k.db.inTx(ctx, e.Type, func(t *tx) error {
		if err := t.holdKeySet(setVersion); err != nil {
			return err
		}
		const query = `UPDATE secret_keys SET sealed = $1 WHERE purpose = $2 AND number = $3 AND sealed = $4`
		if err := t.ChangeAsRead(query,
			sealed, key.Purpose, key.Number, key.Sealed); err != nil {
			return err
		}
		return t.audit(by, now, e)
	})
}

func (k SecretKeys) change(ctx context.Context, by Actor, e Event, now time.Time, query string, args ...any) error {
	return k.db.inTx(ctx, e.Type, func(t *tx) error {
		if err := t.ChangeAsRead(query, args...); err != nil {
			return err
		}
		return t.audit(by, now, e)
	})
}
