package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// Readiness says which verifiers have the next key, and what else is known of fetches of the JWKS.
type Readiness struct {
	keys.Readiness
	Unnamed []UnnamedFetches `json:"unnamed"` // the most fetches first
	// audiences of access tokens of the last week that no registered verifier has as its resource
	UnnamedAudiences []string `json:"unnamed_audiences"`
}

// UnnamedFetches are the fetches of one network and User-Agent without the handle of a registered verifier.
type UnnamedFetches struct {
	storage.FetchKey
	HasNext bool         `json:"has_next"` // the newest key set that it got has the next key
	Count   int64        `json:"count"`
	LastAt  storage.Time `json:"last_at"`
}

// Readiness returns which verifiers have the next key.
func (a Keys) Readiness(ctx context.Context) (r Readiness, err error) {
	if r.Readiness, err = a.ring.LifeCycle().Readiness(ctx); err != nil {
		return r, err
	}
	since := a.now().Add(-keys.SeenRecently)
	fetches, err := a.db.Fetches().Unnamed(ctx, since)
	if err != nil {
		return r, err
	}
	r.Unnamed = []UnnamedFetches{}
	for _, f := range fetches {
		r.Unnamed = append(r.Unnamed, UnnamedFetches{
			FetchKey: f.FetchKey,
			HasNext:  r.Next != "" && slices.Contains(f.KIDs, r.Next),
			Count:    f.Count,
			LastAt:   f.LastAt,
		})
	}
	slices.SortStableFunc(r.Unnamed, func(a, b UnnamedFetches) int { return cmp.Compare(b.Count, a.Count) })
	if r.UnnamedAudiences, err = a.db.Sightings().UnnamedAudiences(ctx, since); err != nil {
		return r, err
	}
	switch a.config.JWKSObserve {
	case config.ObserveOff:
		r.Notes = append(r.Notes, "jwks_observe is off: servers do not count who fetches the keys")
	case config.ObserveNamed:
		r.Notes = append(r.Notes, "jwks_observe is named: servers count only registered verifiers")
	}
	return r, nil
}

// KeyMark says when a registered verifier got the next key.
type KeyMark struct {
	Verifier string     `json:"verifier"`
	KID      string     `json:"kid"`
	At       *time.Time `json:"at"` // when the last of its sources got it; nil: not yet
}

// Marks returns when each registered verifier got the next key, by name.
func (a Keys) Marks(ctx context.Context) (marks []KeyMark, err error) {
	r, err := a.ring.LifeCycle().Readiness(ctx)
	if err != nil || r.Next == "" {
		return nil, err
	}
	for _, v := range r.Verifiers {
		marks = append(marks, KeyMark{v.Name, r.Next, v.GotAt})
	}
	return marks, nil
}

// checkGate returns ErrNotFound for a name that is no registered verifier, and ErrRefused if a rotation is to wait for
// verifiers that no server observes.
func (a Keys) checkGate(ctx context.Context, g Gate) error {
	if g.WhenReady && a.config.JWKSObserve == config.ObserveOff {
		return refusal{errors.New("jwks_observe is off: nobody observes who has the next key, so --when-ready " +
			"cannot tell")}
	}
	for _, name := range g.Except {
		if _, err := a.db.Verifiers().ByName(ctx, name); err != nil {
			return fmt.Errorf("--except: %w", a.missing(ctx, "verifier", name, err))
		}
	}
	return nil
}
