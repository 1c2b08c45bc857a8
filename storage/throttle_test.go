package storage_test

import (
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// Failures from before a clock was set back hold for no longer than their own window.
func TestFailuresOfAClockThatWasSetBack(t *testing.T) {
	t.Parallel()
	storagetest.EachReady(t, func(t *testing.T, databaseURL string) {
		db := storagetest.MustOpen(t, databaseURL)
		b := storage.Bucket{Name: "address", Quiet: 15 * time.Minute, Limit: 2}
		later := noon.Add(time.Hour)
		for range b.Limit {
			must(t, db.Throttle().AddFailures(ctx, []storage.Bucket{b}, later))
		}
		reserve := func(at time.Time) bool {
			t.Helper()
			ok, err := db.Throttle().Reserve(ctx, []storage.Bucket{b}, at)
			must(t, err)
			return ok
		}
		if reserve(later.Add(time.Minute)) || reserve(later.Add(-time.Minute)) {
			t.Error("more guesses than the limit in one window")
		}
		if !reserve(noon) {
			t.Error("failures of a time that has not come yet hold for longer than their window")
		}
	})
}
