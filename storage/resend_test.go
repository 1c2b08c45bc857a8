package storage_test

import (
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// The connection is cut after PostgreSQL has run the refresh and before the answer arrives. The driver sends the
// statement again on another connection; the honest client must not be taken for a thief.
func TestRefreshWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	proxy := storagetest.NewProxy(t, storagetest.PostgresReady(t))
	db := storagetest.MustOpen(t, proxy.URL)
	g := mustGrant(t, db, mustUser(t, db, "alice"), mustClient(t, db, "app"))
	for generation := range int64(5) {
		now := noon.Add(time.Duration(generation) * time.Minute)
		proxy.LoseAnswer("UPDATE grants AS g")
		s, outcome, err := db.Grants().Rotate(ctx, refreshOf(g, generation), now)
		if err != nil || s.Generation != generation+1 || outcome != storage.RefreshRetry {
			t.Fatalf("%q, generation %d, %v", outcome, s.Generation, err)
		}
		if proxy.Cuts() != generation+1 {
			t.Fatalf("%d answers were lost", proxy.Cuts())
		}
	}
}
