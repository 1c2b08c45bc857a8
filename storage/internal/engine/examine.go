package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jmoiron/sqlx"
)

const oldestPostgres = 13

// examiner checks that keyturn can run on a database.
type examiner struct{ *DB }

// examine refuses an unsuitable database before anything is written to it.
func (e examiner) examine(ctx context.Context) error {
	if e.kind == SQLite {
		return e.sqlite(ctx)
	}
	if err := e.postgres(ctx); err != nil {
		return err
	}
	if err := e.pooler(ctx); err != nil {
		return err
	}
	return e.mayUseTables(ctx)
}

func (e examiner) sqlite(ctx context.Context) error {
	var encoding string
	if err := e.Get(ctx, "encoding", &encoding, `SELECT encoding FROM pragma_encoding`); err != nil {
		return err
	}
	if encoding != "UTF-8" {
		return fmt.Errorf("its encoding is %s, and keyturn needs UTF-8: name a new file", encoding)
	}
	return nil
}

func (e examiner) postgres(ctx context.Context) error {
	var is struct {
		Version  int    `db:"version"`
		Encoding string `db:"encoding"`
		Limit    int    `db:"connections"`
	}
	err := e.Get(ctx, "database", &is, `SELECT CAST(current_setting('server_version_num') AS INT) AS version,
		current_setting('server_encoding') AS encoding,
		COALESCE((SELECT MIN(n) FROM (
			SELECT rolconnlimit AS n FROM pg_catalog.pg_roles WHERE rolname = session_user AND NOT rolsuper
			UNION ALL
			SELECT datconnlimit FROM pg_catalog.pg_database WHERE datname = current_database()
			UNION ALL
			SELECT CAST(current_setting('max_connections') AS INT)
				- CAST(current_setting('superuser_reserved_connections') AS INT)) AS limits
			WHERE n > 0), 0) AS connections`)
	switch {
	case err != nil:
		return err
	case is.Version/10000 < oldestPostgres:
		return fmt.Errorf("database: this is PostgreSQL %d, and keyturn needs %d or newer: upgrade it",
			is.Version/10000, oldestPostgres)
	case is.Encoding != "UTF8":
		return fmt.Errorf("database: its encoding is %s, and keyturn needs UTF8: make another one with "+
			"CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0", is.Encoding)
	}
	if is.Limit > 0 {
		e.sessions.limit(is.Limit)
	}
	return nil
}

// errPooler explains why a pooler that shares sessions is unsuitable: settings, prepared statements and locks belong to
// a session.
var errPooler = errors.New("database: the connection pooler shares a session between clients " +
	"(transaction or statement mode): set pool_mode = session for this database in PgBouncer, or connect to " +
	"PostgreSQL itself")

// pooler detects a pooler that shares sessions: one connection then shows several PostgreSQL sessions, or two
// connections show the same one. The order of the queries defeats a pooler that takes its sessions in turn.
func (e examiner) pooler(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.deadline)
	defer cancel()
	first, err := e.write.Connx(ctx)
	if err != nil {
		return e.fault("database", err)
	}
	defer first.Close()
	conns := []*sqlx.Conn{first, first}
	if e.sessions.atLeast(2) {
		// Where there is no second connection, the first one alone has to do.
		if second, err := e.secondConn(ctx); err == nil {
			defer second.Close()
			conns[1] = second
		}
	}
	pids := [2]int{}
	for _, i := range []int{0, 0, 1, 1, 0, 1, 1, 0, 0} {
		var pid int
		if err := conns[i].GetContext(ctx, &pid, `SELECT pg_backend_pid()`); err != nil {
			return e.fault("database", err)
		}
		if pids[i] == 0 {
			pids[i] = pid
		}
		shared := pids[0] == pids[1] && conns[0] != conns[1]
		if pids[i] != pid || shared {
			return errPooler
		}
	}
	return nil
}

// secondConn waits only briefly for a second connection.
func (e examiner) secondConn(ctx context.Context) (*sqlx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, e.deadline/2)
	defer cancel()
	return e.write.Connx(ctx)
}

// mayMigrate checks that a migration may create tables.
func (e examiner) mayMigrate(ctx context.Context) error {
	if e.kind == SQLite {
		return nil
	}
	var is struct {
		Schema string `db:"name"`
		Role   string `db:"role"`
		May    bool   `db:"may"`
	}
	err := e.Get(ctx, "database", &is, `SELECT current_schema() AS name, current_user AS role,
		has_schema_privilege(current_schema(), 'CREATE') AS may`)
	if err != nil || is.May {
		return err
	}
	return fmt.Errorf("database: the role may not make tables: GRANT USAGE, CREATE ON SCHEMA %s TO %s",
		is.Schema, is.Role)
}

// mayUseTables checks the rights on the existing tables.
func (e examiner) mayUseTables(ctx context.Context) error {
	if e.kind == SQLite {
		return nil
	}
	var is struct {
		Schema  *string `db:"name"`
		Role    string  `db:"role"`
		Missing string  `db:"missing"`
	}
	tables := append(slices.Clone(e.schema.Tables), versionTable)
	err := e.Get(ctx, "database", &is, `SELECT current_schema() AS name, current_user AS role,
			COALESCE(string_agg(t, ', '), '') AS missing
		FROM (SELECT t FROM unnest(string_to_array($1, ',')) AS t WHERE to_regclass(t) IS NOT NULL
			AND NOT (has_table_privilege(t, 'SELECT') AND has_table_privilege(t, 'INSERT')
				AND has_table_privilege(t, 'UPDATE') AND has_table_privilege(t, 'DELETE'))) AS missing`,
		strings.Join(tables, ","))
	switch {
	case err != nil:
		return err
	case is.Schema == nil:
		return fmt.Errorf("database: the role may use no schema: GRANT USAGE ON SCHEMA public TO %s, "+
			"or name one with search_path in the URL", is.Role)
	case is.Missing != "":
		return fmt.Errorf("database: the role may not use all tables: GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %s",
			is.Missing, is.Role)
	}
	return nil
}
