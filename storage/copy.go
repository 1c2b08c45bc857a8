package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// copiedTables are all tables except the leases, the replicas and the schema version, which belong to one database.
var copiedTables = []string{
	"meta",
	"users",
	"clients",
	"grants",
	"signing_keys",
	"key_set",
	"secret_keys",
	"audit",
	"audit_head",
	"throttle",
	"familiar_addresses",
	"endings",
	"forgeries",
	"status_lists",
	"status_ranges",
	"status_marks",
	"verifiers",
	"jwks_fetches",
	"sightings",
	"probe_runs",
	"probe_reports",
	"admins",
	"admin_links",
	"admin_passkeys",
	"admin_sessions",
	"admin_ceremonies",
	"admin_requests",
}

// MetaMoved names the value that says where a database was copied to.
const MetaMoved = "moved"

// CopyTo copies an SQLite database to an empty one in one transaction, and records the target under MetaMoved. Other
// writers wait; what they write afterwards is not in the copy. It calls told with the number of rows of each table.
// ErrConflict if the target is not empty.
func (d *DB) CopyTo(ctx context.Context, to *DB, name string, told func(table string, rows int64)) error {
	if d.engine.Kind() != SQLite {
		return errors.New("copy: from SQLite only: PostgreSQL has pg_dump")
	}
	for _, table := range []string{"users", "clients", "signing_keys", "secret_keys", "audit"} {
		var n int64
		if err := to.engine.Get(ctx, "copy", &n, `SELECT COUNT(*) FROM `+table); err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf(
				"copy: %w: there are %d rows in %s of the other database, which must be new",
				ErrConflict,
				n,
				table,
			)
		}
	}
	// This transaction keeps other writers out of SQLite.
	return d.inLongTx(ctx, "copy", importTimeout, func(from *tx) error {
		err := to.inLongTx(ctx, "copy", importTimeout, func(into *tx) error {
			for _, table := range copiedTables {
				n, err := engine.CopyTable(from.Tx, into.Tx, table)
				if err != nil {
					return fmt.Errorf("%s: %w", table, err)
				}
				told(table, n)
			}
			return nil
		})
		if err != nil {
			return err
		}
		_, err = from.Change(
			`INSERT INTO meta (name, value) VALUES ($1, $2)`,
			MetaMoved,
			name,
		) // before another writer gets in
		return err
	})
}

// UnmarkMoved removes MetaMoved after a failed copy.
func (d *DB) UnmarkMoved(ctx context.Context) error {
	_, err := d.engine.Change(ctx, "stay", `DELETE FROM meta WHERE name = $1`, MetaMoved)
	return err
}

// RecordCopy writes the audit record of a copy to its target.
func (d *DB) RecordCopy(ctx context.Context, by Actor, rows map[string]int64, now time.Time) error {
	return d.inTx(ctx, "copied", func(t *tx) error {
		details := map[string]any{}
		for table, n := range rows {
			details[table] = n
		}
		return t.audit(by, now, Event{"database.copy", "", details})
	})
}
