package storage

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"
)

// parseURL tells which database a URL names. The target is the file for SQLite and the whole URL for PostgreSQL. The URL may hold a
// password, so no error repeats it.
func parseURL(raw string) (kind Kind, target string, err error) {
	switch {
	case strings.HasPrefix(raw, "sqlite:"):
		path := strings.TrimPrefix(raw, "sqlite:")
		if path == "" || strings.ContainsAny(path, "?\x00") {
			return "", "", errors.New("database: sqlite: takes the path of a file, as in sqlite:keyturn.db")
		}
		return SQLite, path, nil
	case strings.HasPrefix(raw, "postgres://"), strings.HasPrefix(raw, "postgresql://"):
		return Postgres, raw, nil
	}
	return "", "", errors.New("database: begins with neither sqlite: nor postgres://")
}

// CheckURL tells whether Open would take the URL, without opening anything.
func CheckURL(raw string, allowInsecure bool) error {
	kind, target, err := parseURL(raw)
	if err != nil || kind == SQLite {
		return err
	}
	_, err = postgresDSN(target, allowInsecure)
	return err
}

// How many connections a replica keeps: about eight do more than thirty-two. Those that read are apart, so that what is quick does not wait
// behind commits.
const (
	writers = 5
	readers = 3
)

// openPostgres opens small pools. Timeouts are those of the session, so a statement ends in the database as well, soon after keyturn has
// stopped waiting for it.
func openPostgres(raw string, allowInsecure bool) (*DB, error) {
	dsn, err := postgresDSN(raw, allowInsecure)
	if err != nil {
		return nil, err
	}
	const deadline = 1500 * time.Millisecond
	db := &DB{kind: Postgres, deadline: deadline, dsn: dsn}
	for _, p := range []struct {
		pool     **sqlx.DB
		patience time.Duration
		size     int
	}{{&db.write, deadline + deadline/3, writers}, {&db.read, deadline + deadline/3, readers}, {&db.slow, migrationTimeout, 2}} {
		if *p.pool, err = db.pool(p.patience, p.size); err != nil { // by then the server has had the time to cancel
			return nil, errors.New("database: the postgres:// URL cannot be used: " + withoutURL(err))
		}
	}
	return db, nil
}

func postgresDSN(raw string, allowInsecure bool) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", errors.New("database: the postgres:// URL does not parse: " + withoutURL(err))
	}
	q := u.Query()
	local := localHost(u, q)
	switch mode := q.Get("sslmode"); {
	case mode == "" && local:
		q.Set("sslmode", "disable")
	case mode != "verify-full" && !local && !allowInsecure:
		return "", errors.New("database: PostgreSQL on another host needs sslmode=verify-full in the URL (or --allow-insecure-database, in words, to do without)")
	case mode == "":
		q.Set("sslmode", "require")
	}
	for name, value := range map[string]string{
		"statement_timeout": "3000", "lock_timeout": "1000", "connect_timeout": "2",
		"application_name": "keyturn", "binary_parameters": "yes", "synchronous_commit": "on",
	} {
		if !q.Has(name) {
			q.Set(name, value)
		}
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// localHost tells whether the connection stays on this machine: a loopback address or a Unix socket.
func localHost(u *url.URL, q url.Values) bool {
	hosts := u.Hostname()
	if h := q.Get("host"); h != "" {
		hosts = h
	}
	if a := q.Get("hostaddr"); a != "" {
		hosts = a
	}
	for host := range strings.SplitSeq(hosts, ",") {
		ip := net.ParseIP(host)
		if host != "" && host != "localhost" && host[0] != '/' && (ip == nil || !ip.IsLoopback()) {
			return false
		}
	}
	return true
}

func withoutURL(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err.Error()
	}
	return "see the manual of the database setting"
}

func postgresCode(err error) (code string, ok bool) {
	var e *pq.Error
	if !errors.As(err, &e) {
		return "", false
	}
	return string(e.Code), true
}

// isUnavailable tells a database that cannot answer now from one that was asked something wrong. SQLSTATE classes: 08 connection,
// 25006 read-only (a standby), 40 repeat, 53 resources, 55 not in a state to answer, 57 operator, 58 system.
func isUnavailable(err error) bool {
	if code, ok := sqliteCode(err); ok {
		return sqliteUnavailable(code)
	}
	var connecting *connectError
	if errors.As(err, &connecting) {
		return true
	}
	if code, ok := postgresCode(err); ok {
		switch code[:2] {
		case "08", "40", "53", "55", "57", "58":
			return true
		}
		return code == "25006"
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, sql.ErrTxDone) || errors.Is(err, sql.ErrConnDone) // the deadline came between two statements
}

func isRepeatable(err error) bool {
	code, ok := postgresCode(err)
	return ok && (code == "40001" || code == "40P01")
}

// isReadOnly tells of a connection to a server that has become a standby.
func isReadOnly(err error) bool {
	code, ok := postgresCode(err)
	return ok && code == "25006"
}

func isUnique(err error) bool {
	if code, ok := sqliteCode(err); ok {
		return sqliteUnique(code)
	}
	code, ok := postgresCode(err)
	return ok && code == "23505"
}

// Clock is the time of the database: that of this machine for SQLite. Replicas on one PostgreSQL agree by it.
func (d *DB) Clock(ctx context.Context) (time.Time, error) {
	if d.kind != Postgres {
		return time.Now(), nil
	}
	var at Time
	err := d.get(ctx, "clock", &at, `SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)`)
	return at.Time, err
}

// keysChannel is the channel of NOTIFY on which a replica tells the others that the keys have changed.
const keysChannel = "keyturn_keys"

// announceKeys wakes the pollers of other replicas, outside the transaction of the change, where it would hold up every commit. Nobody
// relies on it: they poll anyway.
func (d *DB) announceKeys(ctx context.Context) {
	if d.kind == Postgres {
		d.change(ctx, "announce keys", `SELECT pg_notify($1, '')`, keysChannel)
	}
}

// KeyChanges sends a value soon after another replica has changed the keys, until the context ends. What is missed while the connection
// is away is not sent again. On SQLite, and where LISTEN does not work (some connection poolers), nothing is ever sent.
func (d *DB) KeyChanges(ctx context.Context) <-chan struct{} {
	if d.kind != Postgres {
		return nil
	}
	changes := make(chan struct{}, 1)
	listener := pq.NewListener(d.dsn, time.Second, time.Minute, nil)
	context.AfterFunc(ctx, func() { listener.Close() })
	go func() {
		listener.Listen(keysChannel) // waits for the first connection, or for Close
		for {
			select {
			case <-ctx.Done():
				return
			case <-listener.Notify:
			}
			select {
			case changes <- struct{}{}:
			default: // one is waiting already
			}
		}
	}()
	return changes
}

// tuneGrants leaves room on each page of grants, so that a refresh rewrites its row in place (HOT update).
func (d *DB) tuneGrants(ctx context.Context) error {
	if d.kind != Postgres {
		return nil
	}
	if _, err := d.slow.ExecContext(ctx, `ALTER TABLE grants SET (fillfactor = 90)`); err != nil {
		return fmt.Errorf("fillfactor: %w", err)
	}
	return nil
}
