package storage_test

import (
	"cmp"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/server/servertest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// series is n rows of numbers i, from 1, in SQL that both databases know.
func series(n int) string {
	return fmt.Sprintf(`WITH RECURSIVE series (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM series WHERE i < %d) `, n)
}

// pages collects keys of rows that come in pages, and watches that little is held at once.
type pages struct {
	t     *testing.T
	base  uint64
	keys  []string
	count int
}

func newPages(t *testing.T) *pages { return &pages{t: t, base: heap()} }

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

const (
	maxPage = 5000
	maxHeld = 32 << 20
)

func collect[T any](p *pages, key func(T) string) func([]T) error {
	return func(page []T) error {
		if len(page) == 0 || len(page) > maxPage {
			p.t.Errorf("a page of %d rows", len(page))
		}
		for _, row := range page {
			p.keys = append(p.keys, key(row))
		}
		if p.count++; p.count%20 == 1 { // less the keys, of which each takes about 40 bytes, twice while they are moved
			if held := heap() - p.base - uint64(len(p.keys))*80; int64(held) > maxHeld {
				p.t.Errorf("%d bytes are held at page %d", held, p.count)
			}
		}
		return nil
	}
}

// checkAll holds that each row came once.
func (p *pages) checkAll(err error, n int) {
	p.t.Helper()
	once := slices.Compact(slices.Sorted(slices.Values(p.keys)))
	if err != nil || len(p.keys) != n || len(once) != n {
		p.t.Errorf("%d rows, %d of them different, not %d: %v", len(p.keys), len(once), n, err)
	}
}

// fillTables fills the tables at noon, and adds f.N users and audit records, and 3000 clients.
func fillTables(t *testing.T, db *storage.DB, raw *sql.DB, f storagetest.Fill) {
	t.Helper()
	f.Now = noon
	must(t, f.Write(ctx, raw))
	n := f.N
	storagetest.MustExec(t, raw,
		`INSERT INTO users (id, sub, username, password_hash, roles, epoch, created_at) `+series(n)+`
			SELECT -i, 'more ' || CAST(i AS TEXT), 'more ' || CAST(i AS TEXT), '', '[]', 0, 0 FROM series`,
		`INSERT INTO audit (seq, time, type, actor, target, reason, details, prev_hash, hash) `+series(n)+`
			SELECT 1000 + i, i, CASE WHEN i % 1000 = 0 THEN 'rare' ELSE 'common' END, '', '', '', '{}', '', ''
			FROM series`,
		`INSERT INTO clients (id, public, secret_hash, previous_secret_hash, grants, scope, audiences, resource,
			access_ttl, epoch, created_at, updated_at) `+series(3000)+`
			SELECT 'more ' || CAST(i AS TEXT), TRUE, '', '', '[]', '', '[]', '', 0, 0, 0, 0 FROM series`)
}

// Lists of large tables bring every row once, in order, and hold little of them. With KEYTURN_SOAK there are a million.
func TestListsOfLargeTables(t *testing.T) {
	n := servertest.Times(2*maxPage+1000, 1_000_000) // three pages at least
	storagetest.EachReady(t, func(t *testing.T, url string) {
		db, raw := storagetest.MustOpen(t, url), storagetest.Raw(t, url)
		const lifetime = 90 * 24 * time.Hour
		app, other := mustClient(t, db, "app"), mustClient(t, db, "other")
		fillTables(t, db, raw, storagetest.Fill{N: n, Client: app, Lifetime: lifetime})
		alice := mustUser(t, db, "alice")
		for range 3 {
			mustGrant(t, db, alice, other)
		}

		grants := func(f storage.GrantFilter, want int) {
			t.Helper()
			p := newPages(t)
			collected := collect(p, func(g storage.ListedGrant) string { return g.ID.String() })
			last := noon.Add(lifetime + 2*time.Hour)
			p.checkAll(db.Grants().Pages(ctx, f, noon, func(page []storage.ListedGrant) error {
				before := last
				for _, g := range page { // within a page it is the newest login that comes first
					hour := g.ExpiresAt.Truncate(time.Hour)
					if hour.After(before) {
						t.Errorf("%v comes on a page after %v", hour, before)
					}
					if hour.Before(last) {
						last = hour
					}
				}
				return collected(page)
			}), want)
		}
		grants(storage.GrantFilter{}, n+3)
		grants(storage.GrantFilter{ClientID: "other"}, 3)
		grants(storage.GrantFilter{Username: "alice"}, 3)
		grants(storage.GrantFilter{Username: "filled 1", ClientID: "app"}, storagetest.FilledPerUser)
		grants(storage.GrantFilter{Username: "alice", ClientID: "app"}, 0)
		grants(storage.GrantFilter{Username: "nobody"}, 0)

		p := newPages(t)
		names := collect(p, func(u storage.User) string { return u.Username })
		p.checkAll(db.Users().Pages(ctx, storage.UserSelection{}, names), n+n/storagetest.FilledPerUser+1)
		p = newPages(t)
		p.checkAll(db.Clients().Pages(ctx, "", collect(p, func(c storage.Client) string { return c.ID })), 3002)
		audit := func(f storage.AuditFilter, want int) {
			t.Helper()
			p, last := newPages(t), int64(0)
			p.checkAll(db.Audit().Pages(ctx, f, collect(p, func(r storage.AuditRecord) string {
				if cmp.Compare(last, r.Seq) >= 0 {
					t.Errorf("%d comes after %d", r.Seq, last)
				}
				last = r.Seq
				return fmt.Sprint(r.Seq)
			})), want)
		}
		audit(storage.AuditFilter{}, n+3)
		audit(storage.AuditFilter{Type: "rare"}, n/1000)
		audit(storage.AuditFilter{Type: "common", Since: time.UnixMilli(int64(n) - 9)}, 9)
		audit(storage.AuditFilter{Since: noon}, 3)
	})
}

// The newest come first in a list of one page, as before there were pages.
func TestNewestGrantsFirst(t *testing.T) {
	t.Parallel()
	storagetest.EachReady(t, func(t *testing.T, url string) {
		db := storagetest.MustOpen(t, url)
		alice, app := mustUser(t, db, "alice"), mustClient(t, db, "app")
		for range 20 {
			mustGrant(t, db, alice, app)
		}
		storagetest.MustExec(t, storagetest.Raw(t, url), `UPDATE grants SET created_at = created_at - id % 7`)
		var all []storage.ListedGrant
		must(t, db.Grants().Pages(ctx, storage.GrantFilter{}, noon, func(page []storage.ListedGrant) error {
			all = append(all, page...)
			return nil
		}))
		if len(all) != 20 || !slices.IsSortedFunc(all, func(a, b storage.ListedGrant) int {
			return cmp.Compare(b.ID, a.ID)
		}) {
			t.Errorf("%d grants, not by id, the latest first", len(all))
		}
	})
}

func second[T any](_ T, err error) error { return err }

// A list or a count that is given up says that it took too long, and not that the database is away.
func TestTooSlowIsNotAway(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		const at = time.Nanosecond
		for name, count := range map[string]func() error{
			"users without": func() error {
				return second(db.Users().Count(ctx, storage.UserFilter{OtherHashThan: "x"}, at))
			},
			"live tokens": func() error { return second(db.Grants().LiveTokens(ctx, time.Minute, noon, at)) },
			"use of a key": func() error {
				return second(db.Grants().KeyUse(ctx, storage.KeyGrants{}, time.Minute, noon, at))
			},
			"old grants": func() error { return second(db.Grants().AnyBefore(ctx, noon, noon, at)) },
		} {
			if err := count(); !errors.Is(err, storage.ErrTooSlow) || errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n, err := db.Users().Count(ctx, storage.UserFilter{OtherHashThan: "x"}, time.Minute); err != nil || n != 0 {
			t.Error(n, err)
		}
	})
}

// A lock that somebody else holds, and a server that does not answer any more, do not hold a count up for longer than
// it may take.
func TestCountsBehindALock(t *testing.T) {
	t.Parallel()
	url := storagetest.PostgresReady(t)
	proxy := storagetest.NewProxy(t, url)
	db := storagetest.MustOpen(t, proxy.URL)
	count := func() error {
		done := make(chan error, 1)
		go func() {
			_, err := db.Grants().LiveTokens(ctx, time.Minute, noon, 200*time.Millisecond)
			done <- err
		}()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			return errors.New("it waits for ever")
		}
	}
	must(t, count())
	lock, err := storagetest.Raw(t, url).Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Exec(`LOCK TABLE grants IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	if err := count(); !errors.Is(err, storage.ErrTooSlow) || errors.Is(err, storage.ErrUnavailable) {
		t.Errorf("behind a lock: %v", err)
	}
	must(t, lock.Rollback())
	proxy.Hole(true)
	if err := count(); !errors.Is(err, storage.ErrTooSlow) {
		t.Errorf("in a hole: %v", err)
	}
	proxy.Hole(false)
}

// plan is how a database would run a statement. With generic, PostgreSQL plans it as it does for arguments that it does
// not know.
func plan(t *testing.T, raw *sql.DB, postgres, generic bool, query string, args ...any) string {
	t.Helper()
	conn, err := raw.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var rows *sql.Rows
	switch {
	case !postgres:
		rows, err = conn.QueryContext(ctx, `EXPLAIN QUERY PLAN `+query, args...)
	case generic:
		rows, err = genericPlan(conn, query, args)
	default:
		rows, err = conn.QueryContext(ctx, `EXPLAIN `+query, args...)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var id, parent, unused int
		var line string
		if postgres {
			err = rows.Scan(&line)
		} else {
			err = rows.Scan(&id, &parent, &unused, &line)
		}
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func genericPlan(conn *sql.Conn, query string, args []any) (*sql.Rows, error) {
	var values []string
	for _, a := range args {
		values = append(values, strings.ReplaceAll(fmt.Sprintf("'%v'", a), "''", "'"))
	}
	before := []string{`SET plan_cache_mode = force_generic_plan`, `DEALLOCATE ALL`, `PREPARE explained AS ` + query}
	for _, s := range before {
		if _, err := conn.ExecContext(ctx, s); err != nil {
			return nil, err
		}
	}
	return conn.QueryContext(ctx, `EXPLAIN EXECUTE explained (`+strings.Join(values, ", ")+`)`)
}

// wholeTable is a plan that reads a table that may be large.
var wholeTable = regexp.MustCompile(`(SCAN|Seq Scan on) (grants|g|throttle|familiar_addresses)\b`)

// What a login counts, and what clean-up looks at, goes by an index: what it costs does not grow with the table.
func TestPlansOfBoundedQueries(t *testing.T) {
	t.Parallel()
	storagetest.EachReady(t, func(t *testing.T, url string) {
		db, raw := storagetest.MustOpen(t, url), storagetest.Raw(t, url)
		postgres := db.Kind() == storage.Postgres
		alice, app := mustUser(t, db, "alice"), mustClient(t, db, "app")
		fill := storagetest.Fill{
			N:        20_000,
			Client:   app,
			Lifetime: 90 * 24 * time.Hour,
			Now:      noon,
		}
		if postgres { // SQLite has no statistics: its plans do not depend on what is in the tables
			must(t, fill.Write(ctx, raw))
			fillEnded(t, raw, alice, app, 20_000)
			storagetest.MustExec(t, raw,
				`INSERT INTO throttle (bucket, failures, last_at) `+series(30_000)+`
					SELECT CAST(i AS TEXT), 1 + i % 20, i * 1000 FROM series`,
				`INSERT INTO familiar_addresses (user_id, address, seen_at) `+series(30_000)+`
					SELECT i, 'address', i * 1000 FROM series`,
				`VACUUM ANALYZE`)
		}
		for name, c := range map[string]struct {
			query, index string
			args         []any
		}{
			"open grants":     {storage.OpenGrantsQuery, "grants_open", []any{"alice", "app"}},
			"oldest grants":   {storage.OldestQuery, "grants_open", []any{alice.ID, "app"}},
			"throttle span":   {storage.ThrottleSpanQuery, "throttle_by_time", []any{1, 20_000_000, 1000}},
			"clean throttle":  {storage.CleanThrottleQuery, "throttle_by_time", []any{1000, 100_000, 10}},
			"address span":    {storage.AddressSpanQuery, "familiar_addresses_by_time", []any{-1, 20_000_000, 1000}},
			"clean addresses": {storage.CleanAddressesQuery, "familiar_addresses_by_time", []any{-1, 100_000}},
		} {
			for _, generic := range []bool{false, true} {
				got := plan(t, raw, postgres, generic, c.query, c.args...)
				if wholeTable.MatchString(got) || !strings.Contains(got, c.index) {
					t.Errorf("%s (generic: %v):\n%s", name, generic, got)
				}
			}
		}
	})
}

// fillEnded gives a user grants that have ended, one by one and by an epoch, and others that have rested too long.
func fillEnded(t *testing.T, raw *sql.DB, u storage.User, c storage.Client, n int) {
	t.Helper()
	insert := `INSERT INTO grants (id, user_id, user_epoch, client_epoch, client_id, family_hash, generation, kid,
		scope, audience, created_at, rotated_at, expires_at, idle_expires_at, revoked_at, revoked_reason) ` +
		series(n) +
		fmt.Sprintf(`SELECT %%d + i, %d, %%d, %d, '%s', 'f', 0, 'k', '', '', i, 0, %d, 0, %%s FROM series`,
			u.ID, c.Epoch, c.ID, noon.Add(time.Hour).UnixMilli())
	storagetest.MustExec(t, raw,
		fmt.Sprintf(insert, 1<<20, u.Epoch, `1, 'revoked'`),
		fmt.Sprintf(insert, 1<<21, u.Epoch-1, `CAST(NULL AS BIGINT), CAST(NULL AS TEXT)`))
}

// A user has 100 grants at a client at most, however many have ended and whether the others have rested too long or
// not.
func TestCapOfOpenGrants(t *testing.T) {
	t.Parallel()
	storagetest.EachReady(t, func(t *testing.T, url string) {
		db, raw := storagetest.MustOpen(t, url), storagetest.Raw(t, url)
		alice, app, other := mustUser(t, db, "alice"), mustClient(t, db, "app"), mustClient(t, db, "other")
		fillEnded(t, raw, alice, app, servertest.Times(3_000, 150_000))
		open := func(client string) int {
			t.Helper()
			v, err := db.Users().LoginView(ctx, storage.LoginKey{Username: "alice", ClientID: client})
			if err != nil {
				t.Fatal(err)
			}
			return v.Grants
		}
		if n := open("app"); n != 0 {
			t.Errorf("%d of the ended ones count", n)
		}
		mustGrant(t, db, alice, other)
		var first storage.Grant
		for i := range 105 {
			if g := mustGrant(t, db, alice, app); i == 0 {
				first = g
			}
		}
		storagetest.MustExec(t, raw, fmt.Sprintf(`UPDATE grants SET created_at = created_at - 1, idle_expires_at = 1
			WHERE id = %d`, first.ID))
		if n := open("app"); n != 101 {
			t.Errorf("%d are open; 101 are as good as all", n)
		}
		must(t, db.Grants().EndOldest(ctx, admin, alice.ID, "app", 99, noon))
		if n := open("app"); n != 99 {
			t.Errorf("%d are open, not 99", n)
		}
		if s, err := db.Grants().State(ctx, first.ID); err != nil || s.RevokedAt == nil {
			t.Errorf("the oldest, which has rested too long, is open: %v", err)
		}
		if open("other") != 1 {
			t.Error("another client's has ended")
		}
	})
}

// Clean-up deletes counters that have rested, looks at those it keeps once, and deletes what is stale.
func TestCleanThrottle(t *testing.T) {
	t.Parallel()
	storagetest.EachReady(t, func(t *testing.T, url string) {
		db, raw := storagetest.MustOpen(t, url), storagetest.Raw(t, url)
		storagetest.MustExec(t, raw,
			`INSERT INTO throttle (bucket, failures, last_at) `+series(100)+`
				SELECT CAST(i AS TEXT), CASE WHEN i % 2 = 0 THEN 10 ELSE 9 END, i FROM series`,
			`INSERT INTO familiar_addresses (user_id, address, seen_at) `+series(100)+` SELECT i, '', i FROM series`)
		left := func(table string) (n int) {
			if err := raw.QueryRow(`SELECT COUNT(*) FROM ` + table).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		var to storage.Time
		deleted, looks := int64(0), 0
		for ; ; looks++ {
			next, n, err := db.Throttle().Clean(ctx, 10, to, time.UnixMilli(81), 10)
			must(t, err)
			deleted += n
			if next == to {
				break
			}
			to = next
		}
		if deleted != 40 || looks != 8 || left("throttle") != 60 || to.UnixMilli() != 80 {
			t.Errorf("%d were deleted in %d steps, %d are left, up to %v", deleted, looks, left("throttle"), to)
		}
		for _, want := range []int64{10, 10, 0} {
			if n, err := db.Throttle().CleanStale(ctx, time.UnixMilli(41), 10); err != nil || n != want {
				t.Errorf("stale: %d, not %d, %v", n, want, err)
			}
		}
		for _, want := range []int64{60, 20, 0} {
			if n, err := db.FamiliarAddresses().Clean(ctx, time.UnixMilli(81), 60); err != nil || n != want {
				t.Errorf("addresses: %d, not %d, %v", n, want, err)
			}
		}
		if left("throttle") != 40 || left("familiar_addresses") != 20 {
			t.Errorf("%d and %d are left", left("throttle"), left("familiar_addresses"))
		}
	})
}
