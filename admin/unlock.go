package admin

import (
	"context"

	"github.com/keyturn/keyturn/storage"
)

// Places of a ThrottleState.
const (
	PlaceNew      = "new addresses"      // all addresses that the account has not logged in from
	PlaceFamiliar = "a familiar address" // an address that it has logged in from
)

// ThrottleState is the throttle of an account at one place.
type ThrottleState struct {
	Place         string        `json:"place"`
	Failures      int64         `json:"failures"` // since the last success
	LastFailedAt  storage.Time  `json:"last_failed_at"`
	NextTryAt     *storage.Time `json:"next_try_at"` // when the next guess is judged; nil: now
	UntilUnlocked bool          `json:"until_unlocked"`
}

// Unlock lifts every throttle of the account. It may return ErrNotFound.
func (a Users) Unlock(ctx context.Context, name string) error {
	name, err := a.username(name)
	if err != nil {
		return err
	}
	return a.missing(ctx, "user", name, a.db.Users().Unlock(ctx, a.by, name, storage.AccountBucket(name), a.now()))
}

// Throttle returns the throttles of the account by the settings of this host, the newest failures first.
func (a Users) Throttle(ctx context.Context, name string) ([]ThrottleState, error) {
	name, err := a.username(name)
	if err != nil {
		return nil, err
	}
	account := storage.AccountBucket(name)
	failures, err := a.db.Throttle().OfAccount(ctx, account)
	states := []ThrottleState{}
	policy := storage.GuessPolicy{Limit: int64(a.config.LoginFailures), Window: a.config.LoginWindow}
	for _, f := range failures {
		s := ThrottleState{Place: PlaceFamiliar, Failures: f.Count, LastFailedAt: f.LastAt}
		if f.Bucket == account {
			s.Place = PlaceNew
		}
		s.NextTryAt, s.UntilUnlocked = policy.NextTry(f, a.now())
		states = append(states, s)
	}
	return states, err
}
