package server

import (
	"testing"

	"github.com/keyturn/keyturn/storage/storagetest"
)

// Counters of failures go in one round, however many there are.
func TestCleanUpOfFailures(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		raw := storagetest.Raw(t, h.Config.Database)
		for _, from := range []string{"0", "1"} {
			storagetest.MustExec(
				t,
				raw,
				`INSERT INTO throttle (bucket, failures, last_at)
				WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1
					FROM n WHERE i < 1500)
				SELECT '`+from+` ' || CAST(i AS TEXT), 1, 1 FROM n`,
			)
		}
		if err := h.Server.cleanUpOnce(ctx); err != nil {
			t.Fatal(err)
		}
		var left int
		if err := raw.QueryRow(`SELECT COUNT(*) FROM throttle`).Scan(&left); err != nil || left > 0 {
			t.Errorf("%d are left, %v", left, err)
		}
	})
}
