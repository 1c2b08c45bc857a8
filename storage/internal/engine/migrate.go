package engine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

// Schema describes the content of a database.
type Schema struct {
	Files  fs.FS    // migrations: 00001_NAME.sql and so on
	Tables []string // all that the program reads and writes
	Tune   string   // a statement that runs after a migration, on PostgreSQL only
}

// migrator brings the schema of a database up to date.
type migrator struct{ *DB }

// versionTable holds the versions of the schema.
const versionTable = "schema_version"

// SchemaStatus is the schema version of a database and the newest that this program knows.
type SchemaStatus struct {
	Version int64 `json:"version"`
	Known   int64 `json:"known"`
	Pending int64 `json:"pending"`
}

// SchemaStatus reads the schema version. It changes nothing.
func (d *DB) SchemaStatus(ctx context.Context) (SchemaStatus, error) {
	s := SchemaStatus{Known: d.schema.known()}
	m := migrator{d}
	exists, err := m.tableExists(ctx, versionTable)
	if err == nil && exists {
		s.Version, err = m.schemaVersion(ctx)
	}
	s.Pending = max(0, s.Known-s.Version)
	return s, err
}

// known returns the newest version of the schema.
func (s Schema) known() int64 {
	files, err := fs.ReadDir(s.Files, ".")
	if err != nil {
		panic(err) // the build is broken
	}
	return int64(len(files))
}

func (m migrator) schemaVersion(ctx context.Context) (version int64, err error) {
	err = m.getFrom(ctx, m.upkeep, "schema version", &version,
		`SELECT COALESCE(MAX(version_id), 0) FROM schema_version WHERE is_applied`)
	return version, err
}

// CheckSchema returns ErrBehind if migrations are pending.
func (d *DB) CheckSchema(ctx context.Context) error {
	version, err := migrator{d}.schemaVersion(ctx)
	if err == nil && version < d.schema.known() {
		err = fmt.Errorf("%w: migrations are pending", ErrBehind)
	}
	return err
}

// tableExists looks in the catalogue, which differs between the two databases.
func (m migrator) tableExists(ctx context.Context, table string) (bool, error) {
	query := `SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = $1`
	if m.kind == Postgres {
		query = `SELECT COUNT(*) FROM pg_catalog.pg_tables
			WHERE tablename = $1 AND schemaname = ANY (current_schemas(false))`
	}
	var n int
	err := m.getFrom(ctx, m.upkeep, "catalogue", &n, query, table)
	return n > 0, err
}

// prepare migrates the schema, or returns why it does not. The guard runs first.
func (m migrator) prepare(ctx context.Context, o Options) error {
	s, err := m.SchemaStatus(ctx)
	if err != nil {
		return err
	}
	if s.Version > s.Known {
		return fmt.Errorf(
			"%w: the database has version %d, this keyturn knows %d: run a newer keyturn",
			ErrSchema,
			s.Version,
			s.Known,
		)
	}
	if s.Version > 0 && o.Guard != nil {
		if err := o.Guard(ctx, m.DB); err != nil {
			return err
		}
	}
	if s.Pending == 0 {
		return nil
	}
	if s.Version == 0 && !o.Create && !o.Migrate {
		return fmt.Errorf("%w: `keyturn init` or `keyturn client create` begins, `keyturn migrate up` only makes "+
			"the tables", ErrEmpty)
	}
	if s.Version > 0 && !o.Migrate && o.Create {
		if s, err = m.untilCreated(ctx, s); err != nil || s.Pending == 0 {
			return err
		}
	}
	if s.Version > 0 && !o.Migrate {
		return fmt.Errorf(
			"%w: it has version %d, this keyturn needs %d: run `keyturn migrate up`",
			ErrBehind,
			s.Version,
			s.Known,
		)
	}
	if err := examiner(m).mayMigrate(ctx); err != nil {
		return err
	}
	return m.migrate(ctx)
}

// creationPause is the time after which a schema that has not advanced is not being created.
const creationPause = time.Second

// untilCreated waits while another process creates the schema, and returns its version.
func (m migrator) untilCreated(ctx context.Context, s SchemaStatus) (SchemaStatus, error) {
	for at := time.Now(); s.Pending > 0 && time.Since(at) < creationPause; {
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-time.After(creationPause / 20):
		}
		now, err := m.SchemaStatus(ctx)
		if err != nil {
			return s, err
		}
		if now.Version > s.Version {
			at = time.Now()
		}
		s = now
	}
	return s, nil
}

// migrationTimeout bounds a whole migration.
const migrationTimeout = 5 * time.Minute

// migrate applies the pending migrations. A second process waits for the first, and then finds nothing to do.
func (m migrator) migrate(ctx context.Context) error {
	p, err := m.migrations()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	if _, err := p.Up(ctx); isUnavailable(err) {
		return fmt.Errorf("migrate: %w: %w", ErrUnavailable, err)
	} else if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if m.kind != Postgres || m.schema.Tune == "" {
		return nil
	}
	if _, err := m.slow.ExecContext(ctx, m.schema.Tune); err != nil {
		return fmt.Errorf("tune: %w", err)
	}
	return nil
}

func (m migrator) migrations() (*goose.Provider, error) {
	options := []goose.ProviderOption{goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true)}
	dialect := goose.DialectSQLite3
	if m.kind == Postgres {
		dialect = goose.DialectPostgres
		options = append(options, goose.WithSessionLocker(schemaLock{}))
	}
	return goose.NewProvider(dialect, m.slow.DB, m.schema.Files, options...)
}

// schemaLock is the PostgreSQL lock of migrations, the one that goose also takes. goose itself retries only once a
// second.
type schemaLock struct{}

const schemaLockRetry = 20 * time.Millisecond

// SessionLock implements [lock.SessionLocker].
func (schemaLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	for {
		var locked bool
		err := conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, lock.DefaultLockID).Scan(&locked)
		if err != nil || locked {
			return err
		}
		if pause(ctx, schemaLockRetry); ctx.Err() != nil {
			return fmt.Errorf("another process migrates the database: %w", ctx.Err())
		}
	}
}

// SessionUnlock implements [lock.SessionLocker].
func (schemaLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, `SELECT pg_advisory_unlock($1)`, lock.DefaultLockID)
	return errors.Join(err, conn.Raw(replicated)) // the migrations ran on this connection
}
