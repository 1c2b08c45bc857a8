package console_test

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/console/consoletest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// million is the number of rows of each list.
const million = 1_000_000

// BenchmarkLists measures a page of each list of the API, over the Unix socket, with a million users, logins, clients
// and audit records, at pages all over the list. p99-ms is the 99th percentile.
func BenchmarkLists(b *testing.B) {
	for name, open := range map[string]func(testing.TB) string{
		"sqlite":   storagetest.SQLiteURL,
		"postgres": func(b testing.TB) string { return storagetest.PostgresURL(b) },
	} {
		b.Run(name, func(b *testing.B) {
			databaseURL := open(b)
			s := consoletest.Open(b, databaseURL, consoletest.Options{})
			fillLists(b, s, storagetest.Raw(b, databaseURL))
			c := s.OverSocket()
			for _, list := range lists {
				b.Run(list.name, func(b *testing.B) { measureList(b, c, list) })
			}
		})
	}
}

// measured is a list with a value of after for a place between 0 and a million.
type measured struct {
	name, path string
	after      func(i int) string
}

func padded(i int) string { return fmt.Sprintf("m%07d", i) }

var lists = []measured{
	{"clients", "clients", padded},
	{"users", "users", padded},
	{"users/prefix", "users?prefix=m05", func(i int) string { return padded(500_000 + i%100_000) }},
	{"users/disabled", "users?disabled=true", padded},
	{"grants", "grants?active=true", grantAt},
	{"grants/client", "grants?client=app", grantAt},
	{"grants/user", "grants?user=busy", func(int) string { return "" }},
	{"keys", "keys", func(int) string { return "" }},
	{"keys/status", "keys/status", func(int) string { return "" }},
	{"keys/readiness", "keys/readiness", func(int) string { return "" }},
	{"audit", "audit", decimal},
	{"audit/newest", "audit?newest=true", decimal},
	{"audit/type", "audit?type=client.update", decimal},
	{"audit/actor and type", "audit?actor=os:root&type=client.delete", decimal},
	{"audit/target", "audit?target=target7", func(int) string { return "" }},
}

func decimal(i int) string { return fmt.Sprint(i) }

// grantIDs are ids of grants all over the table.
var grantIDs []string

func grantAt(i int) string { return grantIDs[i%len(grantIDs)] }

// fillLists fills the tables.
func fillLists(b *testing.B, s *consoletest.Server, raw *sql.DB) {
	b.Helper()
	app, err := s.Admin("").Clients().Find(b.Context(), "app")
	if err != nil {
		b.Fatal(err)
	}
	fill := storagetest.Fill{N: million, Client: app, Lifetime: 90 * 24 * time.Hour, Now: time.Now()}
	if err := fill.Write(b.Context(), raw); err != nil {
		b.Fatal(err)
	}
	series := fmt.Sprintf(`WITH RECURSIVE series (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM series WHERE i < %d) `,
		million)
	name := `'m' || substr(CAST(10000000 + i AS TEXT), 2)`
	for _, statement := range []string{
		`INSERT INTO users (id, sub, username, password_hash, roles, epoch, created_at, disabled_at) ` + series +
			`SELECT -i, ` + name + `, ` + name + `, '', '[]', 0, 0, CASE WHEN i % 50 = 0 THEN 1 END FROM series`,
		`INSERT INTO clients (id, public, secret_hash, previous_secret_hash, grants, scope, audiences, resource,
			access_ttl, epoch, created_at, updated_at) ` + series +
			`SELECT ` + name + `, TRUE, '', '', '[]', '', '[]', '', 0, 0, 0, 0 FROM series`,
		`INSERT INTO audit (seq, time, type, actor, target, reason, details, prev_hash, hash) ` + series +
			`SELECT 1000 + i, i, CASE WHEN i % 1000 = 0 THEN 'client.delete' ELSE 'client.update' END,
			CASE WHEN i % 3 = 0 THEN 'os:root' ELSE 'client:app' END, 'target' || CAST(i % 1000 AS TEXT), '', '{}', '',
			'' FROM series`,
		`UPDATE users SET username = 'busy' WHERE username = 'filled 500'`,
		`ANALYZE`,
	} {
		storagetest.MustExec(b, raw, statement)
	}
	grantIDs = nil
	for i := range 1000 {
		grantIDs = append(grantIDs, fill.ID(i*1000).String())
	}
}

// measureList asks for pages, and reports the 99th percentile of the times.
func measureList(b *testing.B, c *consoletest.Client, list measured) {
	b.Helper()
	var took []time.Duration
	for b.Loop() {
		path := c.Base + "/api/v1/" + list.path
		if after := list.after(1 + rand.IntN(million-1)); after != "" {
			joiner := map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")]
			path += joiner + "after=" + url.QueryEscape(after)
		}
		begun := time.Now()
		answer, err := c.HTTP.Get(path)
		if err != nil {
			b.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		took = append(took, time.Since(begun))
		var page struct {
			Items []json.RawMessage `json:"items"`
		}
		if err != nil || answer.StatusCode != http.StatusOK || json.Unmarshal(body, &page) != nil {
			b.Fatalf("%v %d %.300s", err, answer.StatusCode, body)
		}
		if len(page.Items) > admin.PageSize {
			b.Fatalf("%d items", len(page.Items))
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(0, "ns/op")
}
