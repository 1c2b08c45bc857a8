package storage

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// Admin is a person or a program that may use the admin API and the console.
type Admin struct {
	Name string `db:"name" json:"name"`
	Role string `db:"role" json:"role"`
	// of the client certificate, in the form of RFC 4514; "" for none
	CertificateSubject string `db:"certificate_subject" json:"certificate_subject"`
	Handle             string `db:"handle" json:"-"` // the user handle of its passkeys, base64url
	CreatedAt          Time   `db:"created_at" json:"created_at"`
	DisabledAt         *Time  `db:"disabled_at" json:"disabled_at"`
	MAC                string `db:"mac" json:"-"`
}

// MaxAdmins is the largest number of admins.
const MaxAdmins = 1000

const adminColumns = `name, role, certificate_subject, handle, created_at, disabled_at, mac`

// fields are what the MAC of an admin covers.
func (a Admin) fields() []string {
	return []string{a.Name, a.Role, a.CertificateSubject, a.Handle, millis(&a.CreatedAt), millis(a.DisabledAt)}
}

// millis is a time in a MAC; "" for none.
func millis(t *Time) string {
	if t == nil {
		return ""
	}
	return strconv.FormatInt(t.UnixMilli(), 10)
}

// Admins is the table of admins.
type Admins struct{ db *DB }

// Admins returns the table of admins.
func (d *DB) Admins() Admins { return Admins{d} }

// AdminLink is a one-time link of an admin.
type AdminLink struct {
	Hash    string // SHA-256 of its token
	Expires time.Time
}

// Create inserts an admin. ErrConflict if the name or the subject is taken, ErrFull if there are MaxAdmins.
func (a Admins) Create(ctx context.Context, by Actor, admin Admin) error {
	return a.db.inTx(ctx, "create admin", func(t *tx) error { return t.createAdmin(by, admin) })
}

func (t *tx) createAdmin(by Actor, admin Admin) error {
	var n int64
	if err := t.Get(&n, `SELECT COUNT(*) FROM admins`); err != nil {
		return err
	}
	if n >= MaxAdmins {
		return ErrFull
	}
	mac, err := t.db.rowMAC("admins", admin.fields()...)
	if err != nil {
		return err
	}
	if _, err := t.Change(`INSERT INTO admins (`+adminColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		admin.Name,
		admin.Role,
		admin.CertificateSubject,
		admin.Handle,
		admin.CreatedAt,
		admin.DisabledAt,
		mac); err != nil {
		return err
	}
	return t.audit(by, admin.CreatedAt.Time, Event{"admin.create", admin.Name, map[string]any{
		"role":                admin.Role,
		"certificate_subject": admin.CertificateSubject,
	}})
}

// Link gives an admin a new one-time link, and ends its older one. With create, it first inserts the admin.
func (a Admins) Link(ctx context.Context, by Actor, admin Admin, create bool, link AdminLink, now time.Time) error {
	return a.db.inTx(ctx, "link admin", func(t *tx) error {
		if create {
			if err := t.createAdmin(by, admin); err != nil {
				return err
			}
		}
		expires := At(link.Expires)
		mac, err := t.db.rowMAC("admin_links", link.Hash, admin.Name, millis(&expires))
		if err != nil {
			return err
		}
		if _, err := t.Change(`INSERT INTO admin_links (name, hash, expires_at, mac) VALUES ($1, $2, $3, $4)
			ON CONFLICT (name) DO UPDATE SET hash = $2, expires_at = $3, mac = $4`,
			admin.Name, link.Hash, expires, mac); err != nil {
			return err
		}
		return t.audit(by, now, Event{"admin.link", admin.Name, map[string]any{
			"role":       admin.Role,
			"expires_at": expires,
		}})
	})
}

// All reads all admins, by name. It does not check their MACs.
func (a Admins) All(ctx context.Context) (all []Admin, err error) {
	return all, a.db.engine.All(ctx, "admins", &all, `SELECT `+adminColumns+` FROM admins ORDER BY name LIMIT $1`,
		MaxAdmins)
}

// ByName reads one admin. ErrNotFound, ErrAltered.
func (a Admins) ByName(ctx context.Context, name string) (Admin, error) {
	return a.by(ctx, "name", name)
}

// BySubject reads the admin of a certificate. ErrNotFound, ErrAltered.
func (a Admins) BySubject(ctx context.Context, subject string) (Admin, error) {
	return a.by(ctx, "certificate_subject", subject)
}

// ByHandle reads the admin of a user handle. ErrNotFound, ErrAltered.
func (a Admins) ByHandle(ctx context.Context, handle string) (Admin, error) {
	return a.by(ctx, "handle", handle)
}

func (a Admins) by(ctx context.Context, column, value string) (admin Admin, err error) {
	if value == "" {
		return admin, fmt.Errorf("admin: %w", ErrNotFound)
	}
	if err = a.db.engine.Get(ctx, "admin", &admin, `SELECT `+adminColumns+` FROM admins WHERE `+column+` = $1`,
		value); err != nil {
		return admin, err
	}
	return admin, a.db.checkMAC(admin.MAC, "admins", admin.fields()...)
}

// Near lists names around a name, for suggestions.
func (a Admins) Near(ctx context.Context, name string) ([]string, error) {
	return near(ctx, a.db, "admins", "name", name)
}

// Disable ends the sessions and the link of an admin, and refuses new ones. ErrNotFound.
func (a Admins) Disable(ctx context.Context, by Actor, name string, now time.Time) error {
	return a.db.inTx(ctx, "disable admin", func(t *tx) error {
		var admin Admin
		if err := t.Get(&admin, `UPDATE admins SET disabled_at = COALESCE(disabled_at, $1) WHERE name = $2
			RETURNING `+adminColumns, At(now), name); err != nil {
			return err
		}
		mac, err := t.db.rowMAC("admins", admin.fields()...)
		if err != nil {
			return err
		}
		if _, err := t.Change(`UPDATE admins SET mac = $1 WHERE name = $2`, mac, name); err != nil {
			return err
		}
		if err := t.removeOfAdmin(name, "admin_links", "admin_sessions"); err != nil {
			return err
		}
		return t.audit(by, now, Event{"admin.disable", name, nil})
	})
}

// Delete deletes an admin with its passkeys, its sessions and its link. ErrNotFound.
func (a Admins) Delete(ctx context.Context, by Actor, name string, now time.Time) error {
	return a.db.inTx(ctx, "delete admin", func(t *tx) error {
		if err := t.removeOfAdmin(name, "admin_links", "admin_sessions", "admin_passkeys"); err != nil {
			return err
		}
		if err := t.ChangeOne(`DELETE FROM admins WHERE name = $1`, name); err != nil {
			return err
		}
		return t.audit(by, now, Event{"admin.delete", name, nil})
	})
}

// removeOfAdmin deletes the rows of an admin in other tables.
func (t *tx) removeOfAdmin(name string, tables ...string) error {
	for _, table := range tables {
		if _, err := t.Change(`DELETE FROM `+table+` WHERE name = $1`, name); err != nil {
			return err
		}
	}
	return nil
}
