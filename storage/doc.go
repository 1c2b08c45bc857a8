// Package storage is what of keyturn rests on disk: users, clients, grants (one row per login), signing keys, secret
// keys, the audit trail, throttle counters and leases, in SQLite or in PostgreSQL.
//
// There is one concrete [DB] and one SQL text for both databases: $1 placeholders, TEXT, BOOLEAN and BIGINT columns,
// unix milliseconds, JSON lists, base64url bytes. A query stands inside the method that uses it. Where a method changes
// something that a person or a client asked for, it takes an [Actor] and its audit record commits in the same
// transaction, or nothing does.
//
// Connections, transactions and migrations are in the engine below. [Clients.ByID], [Grants.TokenState] and
// [Grants.Revoke] share a statement, or a transaction, with those who come while one is under way.
//
// The package knows neither HTTP nor JOSE, and never sees a private key or a token in the clear.
package storage
