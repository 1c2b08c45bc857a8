package storage

import (
	"context"
	"time"
	"unicode/utf8"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

const (
	nearRows    = 200
	nearTimeout = 2 * time.Second
)

// near lists names from a column with an index, for suggestions: those before and after a name in order, and those
// before and after its first character.
func near(ctx context.Context, d *DB, table, column, name string) (names []string, err error) {
	_, size := utf8.DecodeRuneInString(name)
	for _, from := range []string{name, name[:size]} {
		for _, half := range []string{
			column + ` >= $1 ORDER BY ` + column,
			column + ` < $1 ORDER BY ` + column + ` DESC`,
		} {
			rows, err := engine.ReadSlowly[string](ctx, d.engine, nearTimeout, "suggestions",
				`SELECT `+column+` FROM `+table+` WHERE `+half+` LIMIT $2`, from, nearRows)
			if err != nil {
				return nil, err
			}
			names = append(names, rows...)
		}
	}
	return names, nil
}
