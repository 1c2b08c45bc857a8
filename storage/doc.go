// Package storage is the data of keyturn at rest: users, clients, grants (one row per login), signing keys, secret
// keys, the audit trail, throttle counters and leases, in SQLite or PostgreSQL.
//
// [DB] is one open database. Each table has a type of its own with the queries inside its methods: db.Users(),
// db.Grants() and so on. One SQL text serves both databases: $1 placeholders, TEXT, BOOLEAN and BIGINT columns, unix
// milliseconds, JSON lists, base64url bytes. A method that makes a change for a person or a client takes an [Actor],
// and commits its audit record in the same transaction.
//
// Connections, transactions, migrations and backup are in storage/internal/engine. Concurrent calls of [Clients.ByID],
// [Grants.TokenState] and [Grants.Revoke] share a statement or a transaction.
//
// The package knows neither HTTP nor JOSE, and never sees a private key or a token in the clear.
package storage
