package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// copiedTables are all tables but those that only mean something to the servers that run: leases, and the version of
// the schema.
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
}

// copyBatch is how many rows one statement inserts.
const copyBatch = 512

// MetaMoved says, in a database that was copied to another, to which.
const MetaMoved = "moved"

// CopyTo copies everything to another database, which must be new, in one transaction, and leaves a mark of where it
// went. Nobody else writes meanwhile; what is written later is not in the copy. told hears how many rows each table
// has. From SQLite only. ErrConflict if the other database is not new.
func (d *DB) CopyTo(ctx context.Context, to *DB, name string, told func(table string, rows int64)) error {
	if d.kind != SQLite {
		return errors.New("copy: from SQLite only: PostgreSQL has pg_dump")
	}
	for _, table := range []string{"users", "clients", "signing_keys", "secret_keys", "audit"} {
		var n int64
		if err := to.get(ctx, "copy", &n, `SELECT COUNT(*) FROM `+table); err != nil {
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
	return d.inLongTx(ctx, "copy", importTimeout, func(from *tx) error { // an SQLite transaction keeps others from writing
		err := to.inLongTx(ctx, "copy", importTimeout, func(into *tx) error {
			for _, table := range copiedTables {
				n, err := copyTable(from, into, table)
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
		_, err = from.change(
			`INSERT INTO meta (name, value) VALUES ($1, $2)`,
			MetaMoved,
			name,
		) // before anybody else can write again
		return err
	})
}

// StayHere takes the mark of a copy back that is of no use.
func (d *DB) StayHere(ctx context.Context) error {
	_, err := d.change(ctx, "stay", `DELETE FROM meta WHERE name = $1`, MetaMoved)
	return err
}

// copyTable copies all rows of a table in place of those that a new schema has in it.
func copyTable(from, into *tx, table string) (n int64, err error) {
	if _, err := into.change(`DELETE FROM ` + table); err != nil {
		return 0, err
	}
	columns, isBool, err := columnsOf(from, table)
	if err != nil {
		return 0, err
	}
	rows, err := from.QueryxContext(from.ctx, `SELECT `+strings.Join(columns, ", ")+` FROM `+table)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	var values []any
	flush := func() error {
		count := len(values) / len(columns)
		if count == 0 {
			return nil
		}
		var places []string
		for i := range count {
			places = append(places, placeholders(i*len(columns), len(columns)))
		}
		done, err := into.change(
			`INSERT INTO `+table+` (`+strings.Join(columns, ", ")+`) VALUES `+strings.Join(places, ", "),
			values...)
		n, values = n+done, values[:0]
		return err
	}
	for rows.Next() {
		row, err := rows.SliceScan()
		if err != nil {
			return 0, err
		}
		for i, value := range row {
			if number, ok := value.(int64); ok && isBool[i] {
				row[i] = number != 0
			}
		}
		if values = append(values, row...); len(values) >= copyBatch*len(columns) {
			if err := flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, errors.Join(rows.Err(), flush())
}

// columnsOf is the columns of a table, and which of them hold truth values, which SQLite keeps as numbers.
func columnsOf(t *tx, table string) (names []string, isBool []bool, err error) {
	var columns []struct {
		Name string `db:"name"`
		Type string `db:"type"`
	}
	err = t.all(&columns, `SELECT name, type FROM pragma_table_info($1)`, table)
	for _, c := range columns {
		names, isBool = append(names, c.Name), append(isBool, strings.EqualFold(c.Type, "boolean"))
	}
	return names, isBool, err
}

// Copied leaves an audit record of where a database came from.
func (d *DB) Copied(ctx context.Context, by Actor, rows map[string]int64, now time.Time) error {
	return d.inTx(ctx, "copied", func(t *tx) error {
		details := map[string]any{}
		for table, n := range rows {
			details[table] = n
		}
		return t.audit(by, now, Event{"database.copy", "", details})
	})
}
