package storage

import "github.com/keyturn/keyturn/storage/internal/engine"

// Source is a parsed database setting: which database, where it is and how to connect.
type Source = engine.Source

// Target is the PostgreSQL connection of a Source, without secrets.
type Target = engine.Target

// ParseSource parses sqlite:FILE or a postgres:// URL, and opens nothing. Unless allowInsecure is set, a PostgreSQL on
// another host needs sslmode=verify-full. Errors never repeat the URL.
func ParseSource(url string, allowInsecure bool) (Source, error) {
	return engine.ParseSource(url, allowInsecure)
}
