package server

import (
	"os"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage/storagetest"
)

// Generations of logins come and go, and the tables stay as large as one of them: whoever cleans up keeps up. With
// KEYTURN_SOAK there are two million logins.
func TestTablesStayFlat(t *testing.T) {
	logins, generations := 10_000, 4
	if os.Getenv("KEYTURN_SOAK") != "" {
		logins, generations = 400_000, 5
	}
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		h := OpenHarness(t, ConfigFor(databaseURL), nil)
		h.Provision()
		raw := storagetest.Raw(t, databaseURL)
		size := func() (bytes int64) {
			query := `SELECT pg_table_size('grants')` // emptied pages of an index wait for other transactions
			if storagetest.SQLiteFile(databaseURL) != "" {
				query = `SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()`
			}
			if err := raw.QueryRow(query).Scan(&bytes); err != nil {
				t.Fatal(err)
			}
			return bytes
		}
		left := func() (n int64) {
			if err := raw.QueryRow(`SELECT COUNT(*) FROM grants`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		var first int64
		for generation := range generations {
			h.FillGrants("app", logins)
			switch now := size(); {
			case generation == 0:
				first = now
			case now > first+first/5:
				t.Errorf("generation %d: %d bytes, the first had %d", generation, now, first)
			}
			h.Step(time.Duration(h.Config.RefreshMaxTTL) + 3*time.Hour)
			begun, rounds := time.Now(), 0
			for ; left() > 0; rounds++ {
				if rounds > 2+logins/(cleanUpBatch*cleanUpBatches) {
					t.Fatalf("%d grants are left after %d rounds", left(), rounds)
				}
				if err := h.Server.cleanUpOnce(ctx); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf(
				"generation %d: %d logins, %.1f MB, cleaned up in %d rounds, %v",
				generation,
				logins,
				float64(size())/1e6,
				rounds,
				time.Since(begun).Round(time.Millisecond),
			)
			storagetest.MustExec(t, raw, `DELETE FROM users WHERE username LIKE 'filled %'`)
			if !IsSQLite(databaseURL) {
				storagetest.MustExec(t, raw, `VACUUM grants`) // which autovacuum does when a fifth of the rows are dead
			}
		}
	})
}
