package storage

import "github.com/keyturn/keyturn/storage/internal/engine"

// CheckURL tells whether Open would take the URL, without opening anything.
func CheckURL(raw string, allowInsecure bool) error { return engine.CheckURL(raw, allowInsecure) }

// SQLitePath is the file of a sqlite: URL, or "" for another database.
func SQLitePath(databaseURL string) string { return engine.SQLitePath(databaseURL) }

// FileProblems tells which files that a database URL names cannot be read.
func FileProblems(databaseURL string) []error { return engine.FileProblems(databaseURL) }

// Target is the connection that a database URL leads to, without its secrets.
type Target = engine.Target

// TargetOf is the effective connection of a postgres:// URL. It reports false for another URL and for one that cannot
// be used.
func TargetOf(databaseURL string) (Target, bool) { return engine.TargetOf(databaseURL) }
