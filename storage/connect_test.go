package storage_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

func open(databaseURL string) (*storage.DB, error) {
	source, err := storage.ParseSource(databaseURL, false)
	if err != nil {
		return nil, err
	}
	return storage.Open(ctx, storage.Options{Source: source, Create: true, Migrate: true})
}

// refused checks that a database is refused at once, in one line that says what to do.
func refused(t *testing.T, databaseURL, want string) {
	t.Helper()
	db, err := open(databaseURL)
	switch {
	case err == nil:
		db.Close()
		t.Error("it was opened")
	case errors.Is(err, storage.ErrUnavailable),
		strings.Contains(err.Error(), "\n"),
		!strings.Contains(err.Error(), want):
		t.Error(err)
	}
}

// The environment of libpq counts neither for the pools nor for the connection that listens.
func TestEnvironmentDoesNotCount(t *testing.T) {
	databaseURL := storagetest.PostgresURL(t)
	for name, value := range map[string]string{
		"PGHOST": "192.0.2.77", "PGHOSTADDR": "192.0.2.77", "PGPORT": "1", "PGDATABASE": "evil", "PGUSER": "evil",
		"PGREQUIRESSL": "1", "PGOPTIONS": "-c search_path=evil", "PGSERVICE": "evil", "PGTARGETSESSIONATTRS": "standby",
	} {
		t.Setenv(name, value)
	}
	db := storagetest.MustOpen(t, databaseURL)
	ctx, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	changes := db.SigningKeys().Changes(ctx)
	for {
		db.SigningKeys().Announce(ctx)
		select {
		case <-changes:
			return
		case <-time.After(20 * time.Millisecond): // it may not listen yet
		case <-ctx.Done():
			t.Fatal("nothing was heard")
		}
	}
}

// A server that asks for the password does not get one from a file.
func TestPasswordFileDoesNotCount(t *testing.T) {
	home := t.TempDir()
	path := filepath.Join(home, ".pgpass")
	must(t, os.WriteFile(path, []byte("*:*:*:*:from-pgpass\n"), 0o600))
	t.Setenv("HOME", home)
	t.Setenv("PGPASSFILE", path)
	t.Setenv("PGPASSWORD", "from-environment")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	sent := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		sent <- askPassword(c)
	}()
	if _, err := open("postgres://kt@" + l.Addr().String() + "/kt"); err == nil {
		t.Error("it was opened")
	}
	if got := <-sent; got != "" {
		t.Errorf("it sent %q", got)
	}
}

// askPassword is PostgreSQL that asks for a password in the clear.
func askPassword(c net.Conn) string {
	message := func(header int) []byte {
		head := make([]byte, header+4)
		if _, err := io.ReadFull(c, head); err != nil {
			return nil
		}
		body := make([]byte, binary.BigEndian.Uint32(head[header:])-4)
		io.ReadFull(c, body)
		return body
	}
	message(0)
	c.Write([]byte{'R', 0, 0, 0, 8, 0, 0, 0, 3})
	return strings.TrimRight(string(message(1)), "\x00")
}

// everythingWorks opens a database and uses it as a busy server does.
func everythingWorks(t *testing.T, dbs ...*storage.DB) {
	t.Helper()
	user, client := mustUser(t, dbs[0], "alice"), mustClient(t, dbs[0], "app")
	var grants []storage.Grant
	for range 8 * len(dbs) {
		grants = append(grants, mustGrant(t, dbs[0], user, client))
	}
	var all sync.WaitGroup
	for i, g := range grants {
		db := dbs[i%len(dbs)]
		all.Go(func() {
			for generation := range int64(15) {
				if _, _, err := db.Grants().Rotate(ctx, refreshOf(g, generation), noon.Add(time.Minute)); err != nil {
					t.Error(err)
				}
				if _, err := db.Grants().TokenState(ctx, callerOf(client), g.ID, "kid", noon); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Go(func() {
		for range 5 {
			nothing := func([]storage.User) error { return nil }
			if err := dbs[0].Users().Pages(ctx, storage.UserSelection{}, nothing); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
}

func TestConnectionLimits(t *testing.T) {
	t.Parallel()
	for _, limit := range []string{"1", "2", "3", "4", "8"} {
		t.Run(limit, func(t *testing.T) {
			t.Parallel()
			databaseURL := storagetest.AsOwner(t, storagetest.PostgresURL(t), "CONNECTION LIMIT "+limit)
			everythingWorks(t, storagetest.MustOpen(t, databaseURL))
		})
	}
	t.Run("two replicas under 8", func(t *testing.T) {
		t.Parallel()
		databaseURL := storagetest.AsOwner(t, storagetest.PostgresURL(t), "CONNECTION LIMIT 8")
		one := storagetest.MustOpen(t, databaseURL)
		one.SigningKeys().Changes(t.Context())
		two := storagetest.MustOpen(t, databaseURL)
		two.SigningKeys().Changes(t.Context())
		everythingWorks(t, one, two)
	})
	t.Run("two under 2", func(t *testing.T) { // as a command beside a server
		t.Parallel()
		databaseURL := storagetest.AsOwner(t, storagetest.PostgresURL(t), "CONNECTION LIMIT 2")
		one := storagetest.MustOpen(t, databaseURL)
		everythingWorks(t, one, storagetest.MustOpen(t, databaseURL))
	})
	t.Run("set while they serve", func(t *testing.T) {
		t.Parallel()
		databaseURL := storagetest.AsOwner(t, storagetest.PostgresURL(t), "CONNECTION LIMIT 40")
		db := storagetest.MustOpen(t, databaseURL)
		other := storagetest.MustOpen(t, databaseURL)
		role := strings.Split(strings.TrimPrefix(databaseURL, "postgres://"), "@")[0]
		storagetest.MustAdmin(t, "ALTER ROLE "+role+" CONNECTION LIMIT 5")
		everythingWorks(t, db, other)
	})
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what + ": not in time")
		}
	}
}

// Sessions rest that nobody needed yet, and stay when the user of another one has gone: when PostgreSQL becomes slow,
// there are enough.
func TestSessionsThatRest(t *testing.T) {
	databaseURL := storagetest.PostgresURL(t)
	db := storagetest.MustOpen(t, databaseURL)
	raw := storagetest.Raw(t, databaseURL)
	sessions := func() int {
		var n int
		must(t, raw.QueryRow(`SELECT COUNT(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'keyturn' AND pid <> pg_backend_pid()`).Scan(&n))
		return n
	}
	eventually(t, "a session rests that nobody needed", func() bool {
		var all sync.WaitGroup
		for range 2 { // at once
			all.Go(func() { must(t, db.Upkeep(ctx, `SELECT pg_sleep(0.1)`)) })
		}
		all.Wait()
		return sessions() > 2
	})

	var before, looks int
	eventually(t, "no more sessions are opened", func() bool {
		if n := sessions(); n != before {
			before, looks = n, 0
		}
		time.Sleep(50 * time.Millisecond)
		looks++
		return looks > 4
	})
	hurried, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if db.Upkeep(hurried, `SELECT pg_sleep(10)`) == nil {
		t.Error("the statement did not end with its context")
	}
	eventually(t, "the abandoned session ends", func() bool { return sessions() < before })
	for range 2 { // the others stay
		if after := sessions(); after != before-1 {
			t.Errorf("%d sessions are left of %d", after, before)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// What a server asks for itself ends in time where PostgreSQL does not answer.
func TestUpkeepEnds(t *testing.T) {
	t.Parallel()
	proxy := storagetest.NewProxy(t, storagetest.PostgresURL(t))
	db := storagetest.MustOpen(t, proxy.URL)
	must(t, db.CheckRole(ctx))
	proxy.Hole(true)
	ended := make(chan error, 1)
	go func() { ended <- db.CheckRole(ctx) }()
	select {
	case err := <-ended:
		if !errors.Is(err, storage.ErrUnavailable) {
			t.Error(err)
		}
	case <-time.After(15 * time.Second):
		t.Error("it still waits")
	}
	proxy.Hole(false)
	eventually(t, "it asks again", func() bool { return db.CheckRole(ctx) == nil })
}

// A URL may name several hosts. keyturn finds the one that accepts writes without being told to, and does not wait for
// a dead host before each session.
func TestSeveralHosts(t *testing.T) {
	t.Parallel()
	databaseURL := storagetest.PostgresURL(t)
	dead, other, primary := storagetest.NewProxy(t, databaseURL), storagetest.NewProxy(t, databaseURL),
		storagetest.NewProxy(t, databaseURL)
	dead.Hole(true)
	host := func(p *storagetest.Proxy) string {
		u, err := url.Parse(p.URL)
		must(t, err)
		return u.Host
	}
	several := func(proxies ...*storagetest.Proxy) string {
		u, err := url.Parse(primary.URL)
		must(t, err)
		var hosts []string
		for _, p := range proxies {
			hosts = append(hosts, host(p))
		}
		u.Host = strings.Join(hosts, ",")
		u.RawQuery += "&connect_timeout=1"
		return u.String()
	}
	t.Run("dead", func(t *testing.T) {
		db := storagetest.MustOpen(t, several(dead, primary))
		dead.LetThrough(0)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() { must(t, db.Upkeep(ctx, `SELECT pg_sleep(0.02)`)) })
		}
		all.Wait()
		everythingWorks(t, db)
		// On a busy machine a session may take long enough for the next host to be asked as well.
		if n := dead.Refused(); n > 4 {
			t.Errorf("the dead host was asked %d more times", n)
		}
	})
	t.Run("one after the other", func(t *testing.T) {
		other.Close(true)
		db := storagetest.MustOpen(t, several(other, primary))
		must(t, db.CheckRole(ctx))
		primary.Close(true)
		other.Close(false)
		eventually(t, "it goes to the other host", func() bool { return db.CheckRole(ctx) == nil })
		primary.Close(false)
		other.Close(true)
		eventually(t, "and back", func() bool { return db.CheckRole(ctx) == nil })
	})
	t.Run("none", func(t *testing.T) {
		other.Close(true)
		_, err := open(several(other, dead))
		for _, p := range []*storagetest.Proxy{other, dead} {
			if err == nil || !strings.Contains(err.Error(), host(p)+": ") {
				t.Errorf("%v, without a line for %s", err, host(p))
			}
		}
	})
}

// While sessions suffice, new ones that are refused are not asked for again and again.
func TestRefusedSessions(t *testing.T) {
	databaseURL := storagetest.PostgresURL(t)
	proxy := storagetest.NewProxy(t, databaseURL)
	db := storagetest.MustOpen(t, proxy.URL)
	var all sync.WaitGroup
	proxy.LetThrough(1)
	began := time.Now()
	for range 2 { // as many as there are sessions then
		all.Go(func() {
			for range 100 {
				must(t, db.Upkeep(ctx, `SELECT pg_sleep(0.005)`))
			}
		})
	}
	all.Wait()
	// About one a second, of the two hundred occasions. A busy machine takes longer.
	took := time.Since(began)
	if n, most := proxy.Refused(), 10+2*int64(took/time.Second); n == 0 || n > most {
		t.Errorf("%d sessions were asked for in vain in %v", n, took)
	}
}

func TestPgBouncer(t *testing.T) {
	t.Parallel()
	t.Run("session", func(t *testing.T) {
		db := storagetest.MustOpen(t, storagetest.NewBouncer(t, storagetest.PostgresURL(t)).URL)
		db.SigningKeys().Changes(t.Context())
		everythingWorks(t, db)
	})
	t.Run("few connections", func(t *testing.T) {
		bouncer := storagetest.NewBouncer(t, storagetest.PostgresURL(t), "default_pool_size = 3")
		everythingWorks(t, storagetest.MustOpen(t, bouncer.URL))
	})
	t.Run("few clients", func(t *testing.T) {
		bouncer := storagetest.NewBouncer(t, storagetest.PostgresURL(t), "max_client_conn = 3")
		everythingWorks(t, storagetest.MustOpen(t, bouncer.URL))
	})
	for _, mode := range []string{"transaction", "statement"} {
		for _, more := range []string{"server_round_robin = 0", "server_round_robin = 1", "default_pool_size = 1"} {
			t.Run(mode+", "+more, func(t *testing.T) {
				bouncer := storagetest.NewBouncer(t, storagetest.PostgresURL(t), "pool_mode = "+mode, more)
				refused(t, bouncer.URL, "set pool_mode = session")
			})
		}
	}
	t.Run("unsupported parameter", func(t *testing.T) {
		refused(t, storagetest.NewBouncer(t, storagetest.PostgresURL(t)).URL+"&options=-cjit%3Doff", "options")
	})
}

func TestWrongDatabases(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"LATIN1", "SQL_ASCII"} {
		t.Run(encoding, func(t *testing.T) {
			options := "ENCODING '" + encoding + "' TEMPLATE template0 LOCALE 'C'"
			refused(t, storagetest.PostgresURLWith(t, options), "ENCODING 'UTF8'")
		})
	}
	t.Run("UTF-16", func(t *testing.T) {
		databaseURL := storagetest.SQLiteURL(t)
		raw := storagetest.Raw(t, databaseURL)
		storagetest.MustExec(t, raw, `PRAGMA encoding = 'UTF-16'`, `CREATE TABLE x (y TEXT)`)
		must(t, os.Chmod(storagetest.SQLiteFile(databaseURL), 0o600))
		refused(t, databaseURL, "needs UTF-8")
	})
	t.Run("a new schema that may not be used", func(t *testing.T) {
		refused(t, storagetest.AsRole(t, storagetest.PostgresURL(t), ""), "GRANT USAGE, CREATE ON SCHEMA public")
	})
	t.Run("tables that may not be used", func(t *testing.T) {
		databaseURL := storagetest.PostgresURL(t)
		storagetest.MustOpen(t, databaseURL)
		refused(t, storagetest.AsRole(t, databaseURL, ""), "GRANT SELECT, INSERT, UPDATE, DELETE ON meta")
	})
	t.Run("a schema that may not be used", func(t *testing.T) {
		databaseURL := storagetest.PostgresURL(t)
		storagetest.MustOpen(t, databaseURL)
		storagetest.MustExec(t, storagetest.Raw(t, databaseURL), `REVOKE ALL ON SCHEMA public FROM PUBLIC`)
		refused(t, storagetest.AsRole(t, databaseURL, ""), "GRANT USAGE ON SCHEMA public")
	})
	t.Run("no such database", func(t *testing.T) {
		refused(t, strings.Replace(storagetest.PostgresURL(t), "/test_", "/none_", 1), "does not exist")
	})
	t.Run("no such role", func(t *testing.T) {
		refused(t, strings.Replace(storagetest.PostgresURL(t), "keyturn@", "nobody:hunter2@", 1), "nobody")
	})
}

// Whatever becomes of the schema while keyturn serves, it says that the database is away.
func TestSchemaVanishes(t *testing.T) {
	t.Parallel()
	vanish := map[string][]string{
		"table":     {`DROP TABLE grants`},
		"column":    {`ALTER TABLE grants RENAME COLUMN revoked_at TO was_revoked_at`},
		"clients":   {`ALTER TABLE clients RENAME TO was_clients`},
		"schema":    {`DROP SCHEMA public CASCADE`},
		"privilege": {`REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC`},
	}
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		for name, statements := range vanish {
			lite := storagetest.SQLiteFile(databaseURL) != ""
			if lite && (name == "schema" || name == "privilege") {
				continue
			}
			t.Run(name, func(t *testing.T) {
				own := storagetest.Another(t, databaseURL)
				db := storagetest.MustOpen(t, own)
				if name == "privilege" {
					others := storagetest.AsRole(t, own, "")
					role := strings.Split(strings.TrimPrefix(others, "postgres://"), "@")[0]
					raw := storagetest.Raw(t, own)
					storagetest.MustExec(t, raw, `GRANT ALL ON ALL TABLES IN SCHEMA public TO `+role)
					db = storagetest.MustOpen(t, others)
					statements = []string{`REVOKE ALL ON ALL TABLES IN SCHEMA public FROM ` + role}
				}
				client := mustClient(t, db, "app")
				g := mustGrant(t, db, mustUser(t, db, "alice"), client)
				storagetest.MustExec(t, storagetest.Raw(t, own), statements...)
				_, _, refresh := db.Grants().Rotate(ctx, refreshOf(g, 0), noon)
				_, token := db.Grants().TokenState(ctx, callerOf(client), g.ID, "kid", noon)
				for what, err := range map[string]error{"refresh": refresh, "token": token} {
					if !errors.Is(err, storage.ErrUnavailable) {
						t.Errorf("%s: %v", what, err)
					}
				}
			})
		}
	})
	t.Run("database", func(t *testing.T) {
		databaseURL := storagetest.PostgresURL(t)
		db := storagetest.MustOpen(t, databaseURL)
		client := mustClient(t, db, "app")
		name := strings.Split(strings.Split(databaseURL, "/")[3], "?")[0]
		storagetest.MustAdmin(t, "DROP DATABASE "+name+" WITH (FORCE)")
		for range 3 {
			if _, err := db.Clients().ByID(ctx, client.ID); !errors.Is(err, storage.ErrUnavailable) {
				t.Error(err)
			}
		}
	})
}

// PostgreSQL answers a commit whose wait for the standby was cancelled as if it were done. A failover may lose it, so
// the caller hears that its outcome is unknown.
func TestCommitsWithoutTheirStandby(t *testing.T) {
	t.Parallel()
	pair := storagetest.NewPair(t)
	db := storagetest.MustOpen(t, pair.URL())
	pair.LoseStandby()
	for name, write := range map[string]func() error{
		"statement":   func() error { return db.Meta().SetTimestamp(ctx, "test", time.Now()) },
		"transaction": func() error { return db.Clients().Create(ctx, admin, storage.Client{ID: "app"}) },
	} {
		ended := make(chan error, 1)
		go func() { ended <- write() }()
		pair.CancelWait()
		if err := <-ended; !errors.Is(err, storage.ErrUnavailable) || !strings.Contains(err.Error(), "standby") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A proxy, or a name, leads to a server that has become a standby. Nothing is an internal error, and all goes on once
// it leads to the primary again.
func TestStandbyBehindTheAddress(t *testing.T) {
	t.Parallel()
	pair := storagetest.NewPair(t)
	proxy := storagetest.NewProxy(t, pair.Standby())
	if _, err := storage.Open(ctx, storage.Options{Source: storagetest.MustSource(t, proxy.URL), Create: true,
		Migrate: true}); !errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("migrations at a standby: %v", err)
	}
	must(t, proxy.Turn(pair.Primary()))
	db := storagetest.MustOpen(t, proxy.URL)
	client := mustClient(t, db, "app")
	g := mustGrant(t, db, mustUser(t, db, "alice"), client)
	calls := map[string]func(time.Time) error{
		"statement": func(at time.Time) error { return db.Meta().SetTimestamp(ctx, "test", at) },
		"transaction": func(at time.Time) error {
			return db.Clients().Create(ctx, admin, storage.Client{ID: at.String()})
		},
		"refresh": func(at time.Time) error {
			_, _, err := db.Grants().Rotate(ctx, refreshOf(g, 0), at)
			return err
		},
	}
	must(t, proxy.Turn(pair.Standby()))
	for name, call := range calls {
		if err := call(noon); !errors.Is(err, storage.ErrUnavailable) {
			t.Errorf("%s at a standby: %v", name, err)
		}
	}
	must(t, proxy.Turn(pair.Primary()))
	for name, call := range calls {
		if err := call(noon); err != nil {
			t.Errorf("%s at the primary: %v", name, err)
		}
	}
}
