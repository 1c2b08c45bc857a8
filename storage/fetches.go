package storage

import (
	"cmp"
	"context"
	"database/sql/driver"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn/keyturn/storage/internal/engine"
)

// FetchKey says who fetches the JWKS.
type FetchKey struct {
	Handle string `db:"handle" json:"-"`      // of a registered verifier; "" for all others
	Source string `db:"source" json:"source"` // an address; a prefix (/24, /48) if Handle is ""
	Agent  string `db:"agent" json:"agent"`   // User-Agent, cut
}

// compare orders keys.
func (k FetchKey) compare(other FetchKey) int {
	return cmp.Or(cmp.Compare(k.Handle, other.Handle), cmp.Compare(k.Source, other.Source),
		cmp.Compare(k.Agent, other.Agent))
}

// Fetch is what one source has fetched.
type Fetch struct {
	FetchKey
	Via     bool   `db:"via" json:"via"`         // the last request named a proxy (RFC 9110 §7.6.3)
	Version int64  `db:"version" json:"version"` // of the newest key set that was sent
	KIDs    List   `db:"kids" json:"kids"`       // of that set, newest key first
	Newest  string `db:"newest" json:"-"`        // the first of KIDs
	// the first fetch of a set with Newest, and how many there were since
	GotAt    Time  `db:"got_at" json:"got_at"`
	GotCount int64 `db:"got_count" json:"got_count"`
	// the key that signed at the last fetch, and the first fetch since it did
	Signer  string     `db:"signer" json:"-"`
	BackAt  Time       `db:"back_at" json:"-"`
	FirstAt Time       `db:"first_at" json:"first_at"`
	LastAt  Time       `db:"last_at" json:"last_at"`
	Times   FetchTimes `db:"times" json:"times"` // of the last fetches, newest first, at most MaxFetchTimes
	Count   int64      `db:"count" json:"count"`
}

// FetchInterval is how often a server writes the fetches.
const FetchInterval = 10 * time.Second

// MaxFetchTimes is how many fetches of a source are kept: they have three gaps.
const MaxFetchTimes = 4

// FetchTimes is a column with the times of fetches, newest first: 13 digits of unix milliseconds each.
type FetchTimes []Time

// Value implements driver.Valuer.
func (f FetchTimes) Value() (driver.Value, error) {
	texts := make([]string, len(f))
	for i, t := range f {
		texts[i] = fmt.Sprintf("%013d", t.UnixMilli())
	}
	return strings.Join(texts, " "), nil
}

// timesLength is the length of a full column. It has room for the last fetches at two servers, which write one after
// the other.
const timesLength = 2*MaxFetchTimes*14 - 1

// Scan implements sql.Scanner. The times of two servers are out of order.
func (f *FetchTimes) Scan(src any) error {
	var text string
	switch v := src.(type) {
	case string:
		text = v
	case []byte:
		text = string(v)
	default:
		return fmt.Errorf("times column holds %T", src)
	}
	*f = nil
	for _, word := range strings.Fields(text) {
		ms, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return fmt.Errorf("times column: %w", err)
		}
		*f = append(*f, Time{time.UnixMilli(ms).UTC()})
	}
	slices.SortFunc(*f, func(a, b Time) int { return b.Compare(a.Time) })
	*f = (*f)[:min(len(*f), MaxFetchTimes)]
	return nil
}

// FetchAge is how long fetches are kept. The last one of a registered verifier stays.
const FetchAge = 30 * 24 * time.Hour

// MaxUnnamedFetches is how many sources without a registered handle the table keeps.
const MaxUnnamedFetches = 10_000

// MaxNamedFetches is how many sources of one registered verifier the table keeps.
const MaxNamedFetches = 1000

// MaxFetchRows is the largest number of rows that Add writes. A longer statement would make requests wait that write.
const MaxFetchRows = 200

const fetchColumns = `handle, source, agent, via, version, kids, newest, got_at, got_count, signer, back_at, first_at,
	last_at, times, count`

func (f Fetch) values() []any {
	return []any{f.Handle, f.Source, f.Agent, f.Via, f.Version, f.KIDs, f.Newest, f.GotAt, f.GotCount, f.Signer,
		f.BackAt, f.FirstAt, f.LastAt, f.Times, f.Count}
}

// Fetches is the table of fetches.
type Fetches struct{ db *DB }

// Fetches returns the table of fetches.
func (d *DB) Fetches() Fetches { return Fetches{d} }

// addFetches adds up what several servers have seen. Each row has the fetches since that server wrote last.
var addFetches = ` ON CONFLICT (handle, source, agent) DO UPDATE SET
	via = excluded.via,
	got_at = CASE WHEN excluded.newest = f.newest AND excluded.got_at > f.got_at THEN f.got_at
		WHEN excluded.newest <> f.newest AND excluded.version < f.version THEN f.got_at ELSE excluded.got_at END,
	got_count = CASE WHEN excluded.newest = f.newest THEN f.got_count + excluded.got_count
		WHEN excluded.version < f.version THEN f.got_count ELSE excluded.got_count END,
	back_at = CASE WHEN excluded.signer = f.signer AND excluded.back_at > f.back_at THEN f.back_at
		WHEN excluded.signer <> f.signer AND excluded.version < f.version THEN f.back_at ELSE excluded.back_at END,
	signer = CASE WHEN excluded.version < f.version THEN f.signer ELSE excluded.signer END,
	newest = CASE WHEN excluded.version < f.version THEN f.newest ELSE excluded.newest END,
	kids = CASE WHEN excluded.version < f.version THEN f.kids ELSE excluded.kids END,
	version = CASE WHEN excluded.version < f.version THEN f.version ELSE excluded.version END,
	first_at = CASE WHEN excluded.first_at > f.first_at THEN f.first_at ELSE excluded.first_at END,
	last_at = CASE WHEN excluded.last_at < f.last_at THEN f.last_at ELSE excluded.last_at END,
	times = substr(excluded.times || ' ' || f.times, 1, ` + strconv.Itoa(timesLength) + `),
	count = f.count + excluded.count`

// Add adds fetches, at most MaxFetchRows, in one statement.
func (f Fetches) Add(ctx context.Context, fetches []Fetch) error {
	if len(fetches) == 0 {
		return nil
	}
	// Statements that lock the same rows in the same order do not deadlock.
	fetches = slices.SortedFunc(slices.Values(fetches), func(a, b Fetch) int { return a.compare(b.FetchKey) })
	var places []string
	var values []any
	for _, fetch := range fetches {
		row := fetch.values()
		places = append(places, engine.Placeholders(len(values), len(row)))
		values = append(values, row...)
	}
	_, err := f.db.engine.Change(ctx, "JWKS fetches", `INSERT INTO jwks_fetches AS f (`+fetchColumns+`) VALUES `+
		strings.Join(places, ", ")+addFetches, values...)
	return err
}

// Named reads the fetches of registered verifiers, by handle, the last fetch first.
func (f Fetches) Named(ctx context.Context) (fetches []Fetch, err error) {
	return fetches, f.db.engine.AllForUpkeep(ctx, "JWKS fetches", &fetches, `SELECT `+fetchColumns+`
		FROM jwks_fetches WHERE handle IN (SELECT handle FROM verifiers) ORDER BY handle, last_at DESC, source, agent`)
}

// Unnamed reads the fetches since a time without a registered handle, the last one first.
func (f Fetches) Unnamed(ctx context.Context, since time.Time) ([]Fetch, error) {
	return engine.ReadSlowly[Fetch](ctx, f.db.engine, engine.PageTimeout, "JWKS fetches", `SELECT `+fetchColumns+`
		FROM jwks_fetches WHERE handle = '' AND last_at >= $1 ORDER BY last_at DESC, source, agent LIMIT $2`,
		At(since), MaxUnnamedFetches)
}

// CountFetches returns how often verifiers of a resource have fetched the JWKS, as far as it is written; ok is false if
// none is registered.
func (f Fetches) CountFetches(ctx context.Context, resource string) (n int64, ok bool, err error) {
	var row struct {
		Verifiers int64 `db:"verifiers"`
		Count     int64 `db:"count"`
	}
	err = f.db.engine.Get(ctx, "JWKS fetches", &row, `SELECT
		(SELECT COUNT(*) FROM verifiers WHERE resource = $1) AS verifiers,
		CAST(COALESCE((SELECT SUM(f.count) FROM jwks_fetches f JOIN verifiers v ON v.handle = f.handle
			WHERE v.resource = $1), 0) AS BIGINT) AS count`, resource)
	return row.Count, row.Verifiers > 0, err
}

// Clean deletes up to limit old rows: those from before a time, except the last of a registered verifier, those of
// deleted verifiers, and the oldest of more than MaxUnnamedFetches, or MaxNamedFetches of a verifier. It reports
// whether there may be more.
func (f Fetches) Clean(ctx context.Context, before time.Time, limit int) (more bool, err error) {
	for _, statement := range []struct {
		rows string
		args []any
	}{
		{`SELECT o.handle, o.source, o.agent FROM jwks_fetches o WHERE o.last_at < $2 AND (o.handle = ''
			OR EXISTS (SELECT 1 FROM jwks_fetches n WHERE n.handle = o.handle AND n.last_at > o.last_at))
			LIMIT $1`, []any{limit, At(before)}},
		{`SELECT handle, source, agent FROM jwks_fetches WHERE handle <> ''
			AND handle NOT IN (SELECT handle FROM verifiers) LIMIT $1`, []any{limit}},
		{`SELECT handle, source, agent FROM jwks_fetches WHERE handle = '' ORDER BY last_at DESC
			LIMIT $1 OFFSET $2`, []any{limit, MaxUnnamedFetches}},
		{`SELECT handle, source, agent FROM (SELECT handle, source, agent,
			ROW_NUMBER() OVER (PARTITION BY handle ORDER BY last_at DESC) AS place
			FROM jwks_fetches WHERE handle <> '') r WHERE place > $2 LIMIT $1`, []any{limit, MaxNamedFetches}},
	} {
		n, err := f.db.engine.Change(ctx, "clean JWKS fetches", `DELETE FROM jwks_fetches
			WHERE (handle, source, agent) IN (`+statement.rows+`)`, statement.args...)
		if err != nil {
			return false, err
		}
		more = more || n == int64(limit)
	}
	return more, nil
}
