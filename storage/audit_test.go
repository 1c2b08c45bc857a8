package storage_test

import (
	"strings"
	"testing"

	"github.com/keyturn/keyturn/storage/storagetest"
)

// Whoever edits, removes, re-orders or cuts the table is found out.
func TestTamperedAudit(t *testing.T) {
	t.Parallel()
	tampering := map[string][]string{
		"edited reason": {`UPDATE audit SET reason = 'nothing' WHERE seq = 3`},
		"edited time":   {`UPDATE audit SET time = time + 1 WHERE seq = 3`},
		"edited hash":   {`UPDATE audit SET hash = prev_hash WHERE seq = 3`},
		"removed":       {`DELETE FROM audit WHERE seq = 3`},
		"removed first": {`DELETE FROM audit WHERE seq = 1`},
		"cut off":       {`DELETE FROM audit WHERE seq = 6`},
		"swapped": {
			`UPDATE audit SET seq = 99 WHERE seq = 3`,
			`UPDATE audit SET seq = 3 WHERE seq = 4`,
			`UPDATE audit SET seq = 4 WHERE seq = 99`,
		},
		"moved the head": {`UPDATE audit_head SET seq = 5`},
		"inserted": {`INSERT INTO audit (seq, time, type, actor, target, reason, details, prev_hash, hash)
			SELECT 7, time, type, actor, target, reason, details, hash, hash FROM audit WHERE seq = 6`},
	}
	storagetest.EachReady(t, func(t *testing.T, url string) {
		db, raw := storagetest.MustOpen(t, url), storagetest.Raw(t, url)
		for name, statements := range tampering {
			t.Run(name, func(t *testing.T) {
				mustEmpty(t, raw)
				mustUser(t, db, "alice")
				for range 5 {
					must(t, db.Users().RevokeGrants(ctx, admin, "alice", noon))
				}
				if n, err := db.Audit().Verify(ctx); err != nil || n != 6 {
					t.Fatal(n, err)
				}
				storagetest.MustExec(t, raw, statements...)
				if _, err := db.Audit().Verify(ctx); err == nil || !strings.HasPrefix(err.Error(), "audit: ") {
					t.Error("not found out:", err)
				}
			})
		}
	})
}
