package storage

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// Verifier is a resource server that fetches the JWKS under a name of its own.
type Verifier struct {
	Name      string `db:"name" json:"name"`
	Handle    string `db:"handle" json:"handle"`     // in the query of its JWKS URL; not a secret
	Resource  string `db:"resource" json:"resource"` // the audience of the tokens that it verifies
	Note      string `db:"note" json:"note"`
	CreatedAt Time   `db:"created_at" json:"created_at"`
}

const verifierColumns = `name, handle, resource, note, created_at`

// MaxVerifiers is the largest number of verifiers. Each server keeps their handles in memory.
const MaxVerifiers = 10_000

// Verifiers is the table of verifiers.
type Verifiers struct{ db *DB }

// Verifiers returns the table of verifiers.
func (d *DB) Verifiers() Verifiers { return Verifiers{d} }

// ErrFull means that a table has as many rows as it may have.
var ErrFull = fmt.Errorf("%w: the table is full", ErrConflict)

// Create inserts a verifier. ErrConflict if the name is taken, ErrFull if there are MaxVerifiers.
func (v Verifiers) Create(ctx context.Context, by Actor, verifier Verifier) error {
	return v.db.inTx(ctx, "create verifier", func(t *tx) error {
		var n int64
		if err := t.Get(&n, `SELECT COUNT(*) FROM verifiers`); err != nil {
			return err
		}
		if n >= MaxVerifiers {
			return ErrFull
		}
		if _, err := t.Change(`INSERT INTO verifiers (`+verifierColumns+`) VALUES ($1, $2, $3, $4, $5)`,
			verifier.Name, verifier.Handle, verifier.Resource, verifier.Note, verifier.CreatedAt); err != nil {
			return err
		}
		return t.audit(by, verifier.CreatedAt.Time, Event{"verifier.create", verifier.Name, map[string]any{
			"handle":   verifier.Handle,
			"resource": verifier.Resource,
			"note":     verifier.Note,
		}})
	})
}

// Delete deletes a verifier, and what was observed of it. ErrNotFound.
func (v Verifiers) Delete(ctx context.Context, by Actor, name string, now time.Time) error {
	return v.db.inTx(ctx, "delete verifier", func(t *tx) error {
		if _, err := t.Change(`DELETE FROM jwks_fetches WHERE handle <> ''
			AND handle = (SELECT handle FROM verifiers WHERE name = $1)`, name); err != nil {
			return err
		}
		if err := t.ChangeOne(`DELETE FROM verifiers WHERE name = $1`, name); err != nil {
			return err
		}
		return t.audit(by, now, Event{"verifier.delete", name, nil})
	})
}

// ByName reads one verifier. ErrNotFound.
func (v Verifiers) ByName(ctx context.Context, name string) (verifier Verifier, err error) {
	err = v.db.engine.Get(ctx, "verifier", &verifier, `SELECT `+verifierColumns+` FROM verifiers WHERE name = $1`,
		name)
	return verifier, err
}

// All reads all verifiers, by name.
func (v Verifiers) All(ctx context.Context) (all []Verifier, err error) {
	return all, v.db.engine.AllForUpkeep(ctx, "verifiers", &all, `SELECT `+verifierColumns+` FROM verifiers
		ORDER BY name`)
}

// Pages hands the verifiers after a name, ordered by name and page by page, to do, until that returns an error.
func (v Verifiers) Pages(ctx context.Context, after string, do func([]Verifier) error) error {
	return engine.InPages(func(last *Verifier) ([]Verifier, error) {
		if last != nil {
			after = last.Name
		}
		return v.After(ctx, after, engine.PageRows)
	}, do)
}

// After reads the first verifiers after a name, at most limit.
func (v Verifiers) After(ctx context.Context, name string, limit int) ([]Verifier, error) {
	return engine.ReadSlowly[Verifier](ctx, v.db.engine, engine.PageTimeout, "verifiers",
		`SELECT `+verifierColumns+` FROM verifiers WHERE name > $1 ORDER BY name LIMIT $2`, name, limit)
}

// Near lists names around a name, for suggestions.
func (v Verifiers) Near(ctx context.Context, name string) ([]string, error) {
	return near(ctx, v.db, "verifiers", "name", name)
}

// handleLength is the length of a handle.
const handleLength = 16

// NewHandle returns a random handle. It is not a secret; nobody invents one by chance.
func NewHandle() string { return strings.ToLower(rand.Text())[:handleLength] }

// IsHandle reports whether a text has the form of a handle: 16 letters and digits of base32.
func IsHandle(text string) bool {
	return len(text) == handleLength && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz234567") == ""
}
