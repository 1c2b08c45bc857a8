package engine

import (
	"errors"
	"strconv"
	"strings"
)

// copyBatch is how many rows one statement inserts.
const copyBatch = 512

// CopyTable replaces the rows of a table, which a new schema may contain, by those of the same table in an SQLite
// database.
func CopyTable(from, into *Tx, table string) (n int64, err error) {
	if _, err := into.Change(`DELETE FROM ` + table); err != nil {
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
			places = append(places, Placeholders(i*len(columns), len(columns)))
		}
		done, err := into.Change(
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

// columnsOf returns the columns of a table, and which of them are booleans, which SQLite stores as numbers.
func columnsOf(t *Tx, table string) (names []string, isBool []bool, err error) {
	var columns []struct {
		Name string `db:"name"`
		Type string `db:"type"`
	}
	err = t.All(&columns, `SELECT name, type FROM pragma_table_info($1)`, table)
	for _, c := range columns {
		names, isBool = append(names, c.Name), append(isBool, strings.EqualFold(c.Type, "boolean"))
	}
	return names, isBool, err
}

// Placeholders returns ($n+1, $n+2, …), the placeholders of one row after n other arguments.
func Placeholders(n, columns int) string {
	var b strings.Builder
	for i := range columns {
		b.WriteString(", $" + strconv.Itoa(n+i+1))
	}
	return "(" + b.String()[2:] + ")"
}
