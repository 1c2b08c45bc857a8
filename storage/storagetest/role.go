package storagetest

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// PostgresURLWith names a new, empty database that was created with the given options, for instance ENCODING 'LATIN1'
// TEMPLATE template0.
func PostgresURLWith(t testing.TB, options string) string {
	t.Helper()
	c := mustCluster(t)
	name := fmt.Sprintf("test_%d", databases.Add(1))
	if _, err := c.admin.Exec("CREATE DATABASE " + name + " " + options + c.strategy); err != nil {
		t.Fatal(err)
	}
	return c.url(name)
}

// AsRole returns the URL of the database for a new role with the given attributes, for instance CONNECTION LIMIT 4. The
// role has no privileges.
func AsRole(t testing.TB, databaseURL, attributes string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	role := fmt.Sprintf("role_%d", databases.Add(1))
	if _, err := mustCluster(t).admin.Exec("CREATE ROLE " + role + " LOGIN " + attributes); err != nil {
		t.Fatal(err)
	}
	MustExec(t, Raw(t, databaseURL), `REVOKE CREATE ON SCHEMA public FROM PUBLIC`) // the default since PostgreSQL 15
	u.User = url.User(role)
	return u.String()
}

// AsOwner is AsRole for a role that owns the database.
func AsOwner(t testing.TB, databaseURL, attributes string) string {
	t.Helper()
	owners := AsRole(t, databaseURL, attributes)
	// The owner's right since PostgreSQL 15; before, everybody has it.
	MustExec(t, Raw(t, databaseURL), `GRANT CREATE ON SCHEMA public TO PUBLIC`)
	u, err := url.Parse(owners)
	if err != nil {
		t.Fatal(err)
	}
	statement := "ALTER DATABASE " + strings.TrimPrefix(u.Path, "/") + " OWNER TO " + u.User.Username()
	if _, err := mustCluster(t).admin.Exec(statement); err != nil {
		t.Fatal(err)
	}
	return owners
}

// MustAdmin runs a statement as the superuser, outside the databases of the tests.
func MustAdmin(t testing.TB, statement string) {
	t.Helper()
	if _, err := mustCluster(t).admin.Exec(statement); err != nil {
		t.Fatal(err)
	}
}
