package storage_test

import (
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// The next try is the first moment at which the throttle judges a guess.
func TestNextTryIsWhenTheThrottleAllows(t *testing.T) {
	t.Parallel()
	policy := storage.GuessPolicy{Limit: 10, Window: 15 * time.Minute}
	for failures := range int64(storage.MaxConsecutive + 2) {
		f := storage.AccountFailures{Count: failures, LastAt: storage.At(noon)}
		allows := func(now time.Time) bool {
			read := storage.Failures{Count: failures, LastAt: noon}
			return policy.Allows(storage.Bucket{Limit: policy.Limit, Read: read}, now)
		}
		at, never := policy.NextTry(f, noon)
		switch {
		case never:
			if allows(noon.Add(100 * 24 * time.Hour)) {
				t.Errorf("%d failures: a guess is judged after all", failures)
			}
		case at == nil:
			if !allows(noon) {
				t.Errorf("%d failures: a guess is not judged now", failures)
			}
		case allows(at.Add(-time.Millisecond)) || !allows(at.Time):
			t.Errorf("%d failures: it is not at %v", failures, at)
		}
	}
}
