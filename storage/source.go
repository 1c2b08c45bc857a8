package storage

import "github.com/keyturn/keyturn/storage/internal/engine"

// Source is a database setting, parsed: which database, and where and how to connect to it.
type Source = engine.Source

// Target is the connection to PostgreSQL that a Source leads to, without its secrets.
type Target = engine.Target

// ParseSource parses sqlite:FILE or a postgres:// URL. It opens nothing. A PostgreSQL on another host needs
// sslmode=verify-full, unless allowInsecure is set. No error repeats the URL.
func ParseSource(url string, allowInsecure bool) (Source, error) {
	return engine.ParseSource(url, allowInsecure)
}

// WithoutPassword is a database URL as it may be shown, also one that cannot be parsed.
func WithoutPassword(url string) string { return engine.WithoutPassword(url) }

// HasPassword reports whether a database URL holds a password, or may hold one.
func HasPassword(url string) bool { return engine.HasPassword(url) }
