package storage

import (
	"context"
	"time"
)

// Passkey is a WebAuthn credential of an admin.
type Passkey struct {
	ID         string `db:"id" json:"id"` // credential id, base64url
	Name       string `db:"name" json:"-"`
	Handle     string `db:"handle" json:"-"`    // of the admin: a later one of the same name has another
	Label      string `db:"label" json:"label"` // for people
	Credential string `db:"credential" json:"-"`
	CreatedAt  Time   `db:"created_at" json:"created_at"`
	UsedAt     *Time  `db:"used_at" json:"used_at"`
	MAC        string `db:"mac" json:"-"`
}

func (p Passkey) fields() []string { return []string{p.ID, p.Name, p.Handle, p.Credential} }

// maxPasskeys is how many passkeys an admin may have.
const maxPasskeys = 20

const passkeyColumns = `id, name, handle, label, credential, created_at, used_at, mac`

// Passkeys are the passkeys of admins, and the ceremonies that wait for an answer.
type Passkeys struct{ db *DB }

// Passkeys returns the passkeys of admins.
func (d *DB) Passkeys() Passkeys { return Passkeys{d} }

// Add inserts a passkey. ErrConflict if it is known, ErrFull if the admin has too many.
func (p Passkeys) Add(ctx context.Context, by Actor, k Passkey) error {
	mac, err := p.db.rowMAC("admin_passkeys", k.fields()...)
	if err != nil {
		return err
	}
	return p.db.inTx(ctx, "add passkey", func(t *tx) error {
		var n int64
		if err := t.Get(&n, `SELECT COUNT(*) FROM admin_passkeys WHERE name = $1`, k.Name); err != nil {
			return err
		}
		if n >= maxPasskeys {
			return ErrFull
		}
		if _, err := t.Change(`INSERT INTO admin_passkeys (`+passkeyColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			k.ID, k.Name, k.Handle, k.Label, k.Credential, k.CreatedAt, k.UsedAt, mac); err != nil {
			return err
		}
		return t.audit(by, k.CreatedAt.Time, Event{"admin.add-passkey", k.Name, map[string]any{"label": k.Label}})
	})
}

// OfAdmin reads the passkeys of an admin, the oldest first. ErrAltered.
func (p Passkeys) OfAdmin(ctx context.Context, name string) (all []Passkey, err error) {
	if err = p.db.engine.All(ctx, "passkeys", &all, `SELECT `+passkeyColumns+` FROM admin_passkeys WHERE name = $1
		ORDER BY created_at, id`, name); err != nil {
		return nil, err
	}
	for _, k := range all {
		if err := p.db.checkMAC(k.MAC, "admin_passkeys", k.fields()...); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Count counts the passkeys of each admin.
func (p Passkeys) Count(ctx context.Context) (map[string]int64, error) {
	var rows []struct {
		Name string `db:"name"`
		N    int64  `db:"n"`
	}
	err := p.db.engine.All(ctx, "passkeys", &rows, `SELECT name, COUNT(*) AS n FROM admin_passkeys GROUP BY name`)
	counts := map[string]int64{}
	for _, row := range rows {
		counts[row.Name] = row.N
	}
	return counts, err
}

// Use replaces the credential record after a sign-in. ErrConflict if it has changed since it was read.
func (p Passkeys) Use(ctx context.Context, before Passkey, credential string, now time.Time) error {
	after := before
	after.Credential = credential
	mac, err := p.db.rowMAC("admin_passkeys", after.fields()...)
	if err != nil {
		return err
	}
	n, err := p.db.engine.Change(ctx, "passkey", `UPDATE admin_passkeys SET credential = $1, mac = $2, used_at = $3
		WHERE id = $4 AND mac = $5`, credential, mac, At(now), before.ID, before.MAC)
	if err == nil && n == 0 {
		err = ErrConflict
	}
	return err
}

// Remove deletes a passkey of an admin. ErrNotFound.
func (p Passkeys) Remove(ctx context.Context, by Actor, name, id string, now time.Time) error {
	return p.db.inTx(ctx, "remove passkey", func(t *tx) error {
		var label string
		if err := t.Get(&label, `DELETE FROM admin_passkeys WHERE id = $1 AND name = $2 RETURNING label`,
			id, name); err != nil {
			return err
		}
		return t.audit(by, now, Event{"admin.remove-passkey", name, map[string]any{"label": label}})
	})
}

// SealCeremony returns the seal of the data of a ceremony, which the browser keeps.
func (p Passkeys) SealCeremony(data string) (string, error) {
	return p.db.rowMAC("admin_ceremonies", data)
}

// CheckCeremony returns ErrAltered if a seal is not that of the data.
func (p Passkeys) CheckCeremony(data, seal string) error {
	return p.db.checkMAC(seal, "admin_ceremonies", data)
}

// Answer records that a ceremony was answered. ErrConflict if it was answered before.
func (p Passkeys) Answer(ctx context.Context, hash string, expires time.Time) error {
	n, err := p.db.engine.Change(ctx, "ceremony", `INSERT INTO admin_ceremonies (hash, expires_at) VALUES ($1, $2)
		ON CONFLICT (hash) DO NOTHING`, hash, At(expires))
	if err == nil && n == 0 {
		err = ErrConflict
	}
	return err
}
