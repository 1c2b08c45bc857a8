package storagetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/keyturn/keyturn/storage"
)

// template is the name of the databases that are copied.
const template = "keyturn_template"

// EachReady runs the test once on each kind of database, given by the URL of one that has the schema already. To copy
// it takes a fraction of the time of a migration.
func EachReady(t *testing.T, test func(t *testing.T, databaseURL string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, SQLiteReady(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, PostgresReady(t)) })
}

// SQLiteReady names a new file that has the schema already.
func SQLiteReady(t testing.TB) string {
	t.Helper()
	content, err := sqliteTemplate()
	if err != nil {
		t.Fatal(err)
	}
	databaseURL := SQLiteURL(t)
	if err := os.WriteFile(SQLiteFile(databaseURL), content, 0o600); err != nil {
		t.Fatal(err)
	}
	return databaseURL
}

// PostgresReady names a new database that has the schema already.
func PostgresReady(t testing.TB) string {
	t.Helper()
	c := mustCluster(t)
	if err := c.makeTemplate(); err != nil {
		t.Fatal(err)
	}
	return PostgresURLWith(t, "TEMPLATE "+template)
}

// sqliteTemplate returns the content of a file that has the schema.
var sqliteTemplate = sync.OnceValues(func() ([]byte, error) {
	folder, err := os.MkdirTemp(InMemory(), "template-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	file := filepath.Join(folder, template)
	if err := migrate("sqlite:" + file); err != nil {
		return nil, err
	}
	return os.ReadFile(file)
})

// makeTemplate creates the database that PostgresReady copies.
func (c *Cluster) makeTemplate() error {
	c.template.Do(func() {
		databaseURL, err := c.Create(template)
		if err == nil {
			err = migrate(databaseURL)
		}
		c.templateErr = err
	})
	return c.templateErr
}

// migrate creates the schema in an empty database.
func migrate(databaseURL string) error {
	source, err := storage.ParseSource(databaseURL, true)
	if err != nil {
		return err
	}
	db, err := storage.Open(context.Background(), storage.Options{Source: source, Create: true, Migrate: true})
	if err != nil {
		return fmt.Errorf("template: %w", err)
	}
	return db.Close()
}
