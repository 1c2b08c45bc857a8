// Package engine is what package storage stands on: connections to SQLite and to PostgreSQL, transactions, migrations
// and backup. It knows no table.
//
// What many ask at once is asked together: a [Coalescer] puts questions that come while one is under way into one
// statement, and on SQLite all writes that come meanwhile share a commit (commits). Statements are prepared once for
// each connection (preparing). All pools of a process share its connections to PostgreSQL (sessions).
package engine
