package storage

import (
	"net/url"
	"strings"
)

// Source is a database setting that was parsed: where a database is and how keyturn connects to it.
type Source struct {
	url      string
	insecure bool
	kind     Kind
	file     string
}

// ParseSource parses a database URL, sqlite:FILE or postgres://…, and refuses one that would be unsafe. allowInsecure
// allows PostgreSQL on another host without sslmode=verify-full. No error repeats any piece of the URL.
func ParseSource(url string, allowInsecure bool) (Source, error) {
	if err := CheckURL(url, allowInsecure); err != nil {
		return Source{}, err
	}
	kind, target, err := parseURL(url)
	s := Source{url: url, insecure: allowInsecure, kind: kind}
	if kind == SQLite {
		s.file = target
	}
	return s, err
}

// Kind is the kind of the database.
func (s Source) Kind() Kind { return s.kind }

// File is the path of the SQLite file; "" for PostgreSQL.
func (s Source) File() string { return s.file }

// Target is where the source leads to, without secrets, if that is PostgreSQL.
func (s Source) Target() (Target, bool) { return TargetOf(s.url) }

// FileProblems lists the files named by the source that cannot be read.
func (s Source) FileProblems() []error { return FileProblems(s.url) }

// String is the URL without its password.
func (s Source) String() string { return WithoutPassword(s.url) }

// HasPassword reports whether the URL holds a password, or may.
func (s Source) HasPassword() bool { return s.String() != s.url }

// WithoutPassword is a database URL as it may be shown.
func WithoutPassword(databaseURL string) string {
	scheme, rest, _ := strings.Cut(databaseURL, "://")
	if strings.HasPrefix(databaseURL, "sqlite:") {
		return databaseURL
	}
	if _, ok := TargetOf(databaseURL); !ok {
		return "(a URL that cannot be used)" // nobody knows which part of it is the password
	}
	address, query, hasQuery := strings.Cut(rest, "?")
	if i := strings.LastIndex(address, "@"); i >= 0 {
		if user, _, given := strings.Cut(address[:i], ":"); given {
			address = user + ":xxxxx" + address[i:]
		}
	}
	if !hasQuery {
		return scheme + "://" + address
	}
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		name, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); err != nil || plain == "password" {
			pairs[i] = "password=xxxxx"
		}
	}
	return scheme + "://" + address + "?" + strings.Join(pairs, "&")
}
