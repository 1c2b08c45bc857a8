package server

import (
	"context"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Places of a ThrottleState.
const (
	PlaceNew      = "new addresses"      // all those that the account has not logged in from
	PlaceFamiliar = "a familiar address" // one that it has
)

// ThrottleState is how an account stands with the throttle at one place.
type ThrottleState struct {
	Place         string        `json:"place"`
	Failures      int64         `json:"failures"` // without a success between
	LastFailedAt  storage.Time  `json:"last_failed_at"`
	NextTryAt     *storage.Time `json:"next_try_at"` // when the next guess is judged; nil: now
	UntilUnlocked bool          `json:"until_unlocked"`
}

// UnlockUser lifts every throttle of the account. ErrNotFound.
func (a *Admin) UnlockUser(ctx context.Context, name string) error {
	name, err := a.username(name)
	if err != nil {
		return err
	}
	return named("user", name, a.db.Users().Unlock(ctx, a.by, name, accountBucket(name), a.now()))
}

// Throttle tells how the account stands with the throttle, by the settings of this host, the newest failures first.
func (a *Admin) Throttle(ctx context.Context, name string) ([]ThrottleState, error) {
	name, err := a.username(name)
	if err != nil {
		return nil, err
	}
	account := accountBucket(name)
	failures, err := a.db.Throttle().OfAccount(ctx, account)
	states := []ThrottleState{}
	t := &throttle{config: func() *Config { return &a.config }}
	for _, f := range failures {
		s := ThrottleState{Place: PlaceFamiliar, Failures: f.Count, LastFailedAt: f.LastAt}
		if f.Bucket == account {
			s.Place = PlaceNew
		}
		s.NextTryAt, s.UntilUnlocked = t.nextTry(f, a.now())
		states = append(states, s)
	}
	return states, err
}

// nextTry is when throttle.allows lets the next guess of a bucket be judged. nil: now, or, if never is true, not before
// it is emptied.
func (t *throttle) nextTry(f storage.AccountFailures, now time.Time) (at *storage.Time, never bool) {
	b := storage.Bucket{Limit: t.limit(), Read: storage.Failures{Count: f.Count, LastAt: f.LastAt.Time}}
	if t.allows(b, now) {
		return nil, false
	}
	if f.Count >= maxConsecutive {
		return nil, true
	}
	return storage.AtPtr(f.LastAt.Add(t.delay(b))), false
}
