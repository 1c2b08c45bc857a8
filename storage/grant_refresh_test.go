package storage_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// refreshCase is one row of the table of refresh cases: what was done to the grant before, what is presented, what
// comes of it.
type refreshCase struct {
	name       string
	before     func(t *testing.T, db *storage.DB, g storage.Grant)
	present    func(*storage.Refresh)
	after      time.Duration // since noon
	want       storage.RefreshOutcome
	generation int64  // afterwards
	revoked    string // reason, afterwards
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func refreshOf(g storage.Grant, generation int64) storage.Refresh {
	return storage.Refresh{
		ID:          g.ID,
		Generation:  generation,
		FamilyHash:  g.FamilyHash,
		Caller:      storage.Caller{ID: g.ClientID},
		KID:         "kid2",
		IdleTTL:     time.Hour,
		RetryWindow: 10 * time.Second,
	}
}

// rotated refreshes n times, a second before the presentation that the case is about.
func rotated(n int64) func(*testing.T, *storage.DB, storage.Grant) {
	return func(t *testing.T, db *storage.DB, g storage.Grant) {
		for i := range n {
			_, outcome, err := db.Grants().Rotate(ctx, refreshOf(g, i), noon.Add(time.Minute))
			if err != nil || outcome != storage.RefreshFresh {
				t.Fatal(outcome, err)
			}
		}
	}
}

// late presents a token where late retries are taken once in a period.
func late(period time.Duration, generation int64) func(*storage.Refresh) {
	return func(r *storage.Refresh) { r.LateRetry, r.Generation = period, generation }
}

// lately rotates once, and takes a late retry at a moment since noon.
func lately(at time.Duration) func(*testing.T, *storage.DB, storage.Grant) {
	return func(t *testing.T, db *storage.DB, g storage.Grant) {
		rotated(1)(t, db, g)
		r := refreshOf(g, 0)
		r.LateRetry = time.Hour
		s, outcome, err := db.Grants().Rotate(ctx, r, noon.Add(at))
		if err != nil || outcome != storage.RefreshLate || s.Generation != 1 {
			t.Fatal(outcome, err)
		}
	}
}

// maxRoles presents a generation with a bound of the roles, which are ["reader"], 10 bytes.
func maxRoles(generation, bound int64) func(*storage.Refresh) {
	return func(r *storage.Refresh) { r.Generation, r.MaxRoles = generation, bound }
}

// soon is when most cases present their token, since noon: a second after rotated.
const soon = time.Minute + time.Second

var refreshCases = []refreshCase{
	{
		name:       "fresh",
		after:      soon,
		want:       storage.RefreshFresh,
		generation: 1,
	},
	{
		name:       "fresh, twice rotated",
		before:     rotated(2),
		present:    func(r *storage.Refresh) { r.Generation = 2 },
		after:      soon,
		want:       storage.RefreshFresh,
		generation: 3,
	},
	{
		name:       "ahead",
		present:    func(r *storage.Refresh) { r.Generation = 7 },
		after:      soon,
		want:       storage.RefreshAhead,
		generation: 8,
	},
	{
		name:       "retry",
		before:     rotated(1),
		after:      soon,
		want:       storage.RefreshRetry,
		generation: 1,
	},
	{
		name:       "retry at the last moment",
		before:     rotated(1),
		after:      time.Minute + 10*time.Second - time.Millisecond,
		want:       storage.RefreshRetry,
		generation: 1,
	},
	{
		name:       "the window is over",
		before:     rotated(1),
		after:      time.Minute + 10*time.Second,
		want:       storage.RefreshReuse,
		generation: 1,
		revoked:    "reuse",
	},
	{
		name:       "a late retry",
		before:     rotated(1),
		present:    late(time.Hour, 0),
		after:      30 * time.Minute,
		want:       storage.RefreshLate,
		generation: 1,
	},
	{
		name:       "a retry of a late retry",
		before:     lately(20 * time.Minute),
		present:    late(time.Hour, 0),
		after:      20*time.Minute + 9*time.Second,
		want:       storage.RefreshRetry,
		generation: 1,
	},
	{
		name:       "a second late retry in the period",
		before:     lately(20 * time.Minute),
		present:    late(time.Hour, 0),
		after:      40 * time.Minute,
		want:       storage.RefreshReuse,
		generation: 1,
		revoked:    "reuse",
	},
	{
		name:       "a late retry in the next period",
		before:     lately(20 * time.Minute),
		present:    late(30*time.Minute, 0),
		after:      50 * time.Minute,
		want:       storage.RefreshLate,
		generation: 1,
	},
	{
		name:       "a late retry of a token before the last",
		before:     rotated(2),
		present:    late(time.Hour, 0),
		after:      30 * time.Minute,
		want:       storage.RefreshReuse,
		generation: 2,
		revoked:    "reuse",
	},
	{
		name:       "a request that waited here is judged by when it came",
		before:     rotated(1),
		after:      5 * time.Minute,
		present:    func(r *storage.Refresh) { r.Arrived = noon.Add(time.Minute + 9*time.Second) },
		want:       storage.RefreshRetry,
		generation: 1,
	},
	{
		name:       "strict",
		before:     rotated(1),
		present:    func(r *storage.Refresh) { r.RetryWindow = 0 },
		after:      soon,
		want:       storage.RefreshReuse,
		generation: 1,
		revoked:    "reuse",
	},
	{
		name:       "the successor was used",
		before:     rotated(2),
		after:      soon,
		want:       storage.RefreshReuse,
		generation: 2,
		revoked:    "reuse",
	},
	{name: "idle", after: time.Hour, want: storage.RefreshDead},
	{
		name: "expired",
		before: func(t *testing.T, db *storage.DB, g storage.Grant) {
			for h := range int64(30) {
				r := refreshOf(g, h)
				r.IdleTTL = 100 * time.Hour
				if _, outcome, err := db.Grants().Rotate(ctx, r, noon.Add(50*time.Minute)); err != nil ||
					outcome != storage.RefreshFresh {
					t.Fatal(outcome, err)
				}
			}
		},
		present:    func(r *storage.Refresh) { r.Generation = 30 },
		after:      24 * time.Hour,
		want:       storage.RefreshDead,
		generation: 30,
	},
	{
		name: "revoked",
		before: func(t *testing.T, db *storage.DB, g storage.Grant) {
			ended, err := db.Grants().Revoke(
				ctx,
				admin,
				storage.Revocation{ID: g.ID, Caller: storage.Caller{ID: g.ClientID}, FamilyHash: g.FamilyHash},
				noon,
			)
			if must(t, err); !ended {
				t.Fatal("not ended")
			}
		},
		after:   soon,
		want:    storage.RefreshDead,
		revoked: "revoked",
	},
	{
		name: "user disabled",
		before: func(t *testing.T, db *storage.DB, g storage.Grant) {
			must(t, db.Users().Disable(ctx, admin, "alice", noon))
		},
		after: soon,
		want:  storage.RefreshDead,
	},
	{
		name: "user disabled and enabled again",
		before: func(t *testing.T, db *storage.DB, g storage.Grant) {
			must(t, db.Users().Disable(ctx, admin, "alice", noon))
			must(t, db.Users().Enable(ctx, admin, "alice", "", noon))
		},
		after: soon,
		want:  storage.RefreshDead,
	},
	{
		name: "user deleted",
		before: func(t *testing.T, db *storage.DB, g storage.Grant) {
			must(t, db.Users().Delete(ctx, admin, "alice", noon))
		},
		after: soon,
		want:  storage.RefreshDead,
	},
	{
		name: "password changed",
		before: func(t *testing.T, db *storage.DB, g storage.Grant) {
			must(t, db.Users().SetPassword(ctx, admin, "alice", "other", "", noon))
		},
		after: soon,
		want:  storage.RefreshDead,
	},
	{
		name: "client disabled",
		before: func(t *testing.T, db *storage.DB, g storage.Grant) {
			must(t, db.Clients().Disable(ctx, admin, "app", noon))
		},
		after: soon,
		want:  storage.RefreshDead,
	},
	{
		name: "client made anew",
		before: func(t *testing.T, db *storage.DB, g storage.Grant) {
			must(t, db.Clients().Delete(ctx, admin, "app", noon))
			later := storage.At(noon.Add(time.Second))
			must(t, db.Clients().Create(ctx, admin, storage.Client{ID: "app", CreatedAt: later}))
		},
		after: soon,
		want:  storage.RefreshDead,
	},
	{
		name: "all grants of the client ended",
		before: func(t *testing.T, db *storage.DB, g storage.Grant) {
			must(t, db.Clients().RevokeGrants(ctx, admin, "app", noon))
		},
		after: soon,
		want:  storage.RefreshDead,
	},
	{
		name:    "another client",
		present: func(r *storage.Refresh) { r.Caller.ID = "thief" },
		after:   soon,
		want:    storage.RefreshDead,
	},
	{
		name:       "another client, a used token",
		before:     rotated(2),
		present:    func(r *storage.Refresh) { r.Caller.ID = "thief" },
		after:      soon,
		want:       storage.RefreshDead,
		generation: 2,
	},
	{
		name:    "another family",
		present: func(r *storage.Refresh) { r.FamilyHash = "guess" },
		after:   soon,
		want:    storage.RefreshDead,
	},
	{
		name:    "no such grant",
		present: func(r *storage.Refresh) { r.ID++ },
		after:   soon,
		want:    storage.RefreshDead,
	},
	{
		name:       "roles fit",
		present:    maxRoles(0, 10),
		after:      soon,
		want:       storage.RefreshFresh,
		generation: 1,
	},
	{
		name:    "roles too large",
		present: maxRoles(0, 9),
		after:   soon,
		want:    storage.RefreshTooLarge,
	},
	{
		name:    "roles too large, ahead",
		present: maxRoles(7, 9),
		after:   soon,
		want:    storage.RefreshTooLarge,
	},
	{
		name:       "roles too large, retry",
		before:     rotated(1),
		present:    maxRoles(0, 9),
		after:      soon,
		want:       storage.RefreshRetry,
		generation: 1,
	},
	{
		name:       "roles too large, reuse",
		before:     rotated(2),
		present:    maxRoles(0, 9),
		after:      soon,
		want:       storage.RefreshReuse,
		generation: 2,
		revoked:    "reuse",
	},
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	storagetest.EachReady(t, func(t *testing.T, databaseURL string) {
		db, raw := storagetest.MustOpen(t, databaseURL), storagetest.Raw(t, databaseURL)
		for _, c := range refreshCases {
			t.Run(c.name, func(t *testing.T) {
				mustEmpty(t, raw)
				c.run(t, db, db.Grants().Rotate)
			})
		}
	})
}

// rotate is Grants.Rotate, or does the same with others.
type rotate func(context.Context, storage.Refresh, time.Time) (storage.GrantState, storage.RefreshOutcome, error)

func (c refreshCase) run(t *testing.T, db *storage.DB, rotate rotate) {
	g := mustGrant(t, db, mustUser(t, db, "alice"), mustClient(t, db, "app"))
	if c.before != nil {
		c.before(t, db, g)
	}
	r := refreshOf(g, 0)
	if c.present != nil {
		c.present(&r)
	}
	s, outcome, err := rotate(ctx, r, noon.Add(c.after))
	if err != nil || outcome != c.want {
		t.Fatalf("outcome %q, %v; want %q", outcome, err, c.want)
	}
	if outcome == storage.RefreshFresh || outcome == storage.RefreshAhead || outcome == storage.RefreshRetry {
		if s.Generation != c.generation || s.Sub == nil || *s.Sub != "usr_alice" ||
			!cmp.Equal(s.Roles, storage.List{"reader"}) {
			t.Errorf("returned %+v", s)
		}
	}
	after, err := db.Grants().State(ctx, g.ID)
	must(t, err)
	reason := ""
	if after.RevokedReason != nil {
		reason = *after.RevokedReason
	}
	if after.Generation != c.generation || reason != c.revoked {
		t.Errorf("afterwards generation %d, revoked %q; want %d, %q", after.Generation, reason, c.generation, c.revoked)
	}
	wantAudit := map[storage.RefreshOutcome]string{
		storage.RefreshAhead: "grant.ahead",
		storage.RefreshReuse: "grant.reuse",
	}[outcome]
	if wantAudit != "" {
		if rows, err := db.Audit().Records(ctx, storage.AuditFilter{Type: wantAudit}); err != nil || len(rows) != 1 {
			t.Errorf("audit of %s: %d rows, %v", wantAudit, len(rows), err)
		}
	}
	if _, err := db.Audit().Verify(ctx); err != nil {
		t.Error(err)
	}
}

// The absolute expiry is set at login; no refresh moves it, and the idle one never passes it.
func TestRefreshMovesIdleExpiryOnly(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		g := mustGrant(t, db, mustUser(t, db, "alice"), mustClient(t, db, "app"))
		r := refreshOf(g, 0)
		r.IdleTTL = 48 * time.Hour
		s, _, err := db.Grants().Rotate(ctx, r, noon.Add(time.Minute))
		must(t, err)
		if !s.ExpiresAt.Equal(g.ExpiresAt.Time) || !s.IdleExpiresAt.Equal(g.ExpiresAt.Time) {
			t.Errorf("expires %v, idle %v; want both %v", s.ExpiresAt, s.IdleExpiresAt, g.ExpiresAt)
		}
	})
}

// However many present one token at once, one rotation happens and all are told the same successor.
func TestRefreshRace(t *testing.T) {
	t.Parallel()
	storagetest.EachReady(t, func(t *testing.T, url string) {
		db, replica := storagetest.MustOpen(t, url), storagetest.MustOpen(t, url)
		g := mustGrant(t, db, mustUser(t, db, "alice"), mustClient(t, db, "app"))
		outcomes := make(chan storage.RefreshOutcome)
		for i := range 100 {
			go func() {
				d := db
				if i%2 == 1 {
					d = replica
				}
				s, outcome, err := d.Grants().Rotate(ctx, refreshOf(g, 0), noon.Add(time.Minute))
				for errors.Is(err, storage.ErrBusy) { // on a busy machine: it had no turn, and nothing was done
					s, outcome, err = d.Grants().Rotate(ctx, refreshOf(g, 0), noon.Add(time.Minute))
				}
				if err != nil || s.Generation != 1 {
					t.Errorf("generation %d, %v", s.Generation, err)
				}
				outcomes <- outcome
			}()
		}
		count := map[storage.RefreshOutcome]int{}
		for range 100 {
			count[<-outcomes]++
		}
		if want := map[storage.RefreshOutcome]int{storage.RefreshFresh: 1, storage.RefreshRetry: 99}; !cmp.Equal(
			count,
			want,
		) {
			t.Error(cmp.Diff(want, count))
		}
	})
}

// A replica that is not sure of the time ends nothing, and one that may be too late calls nothing expired.
func TestRefreshByADoubtfulClock(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		g := mustGrant(t, db, mustUser(t, db, "alice"), mustClient(t, db, "app"))
		rotated(2)(t, db, g)
		reused := refreshOf(g, 0)
		reused.Unsure = true
		expired := refreshOf(g, 2)
		expired.Doubt = 10 * time.Hour
		for name, c := range map[string]struct {
			r     storage.Refresh
			after time.Duration
		}{"unsure": {reused, 2 * time.Minute}, "in doubt": {expired, 5 * time.Hour}} {
			_, outcome, err := db.Grants().Rotate(ctx, c.r, noon.Add(c.after))
			if !errors.Is(err, storage.ErrUnavailable) {
				t.Errorf("%s: %q, %v", name, outcome, err)
			}
		}
		if s, err := db.Grants().State(ctx, g.ID); err != nil || s.RevokedAt != nil {
			t.Errorf("the grant has ended: %v", err)
		}
		expired.Doubt = time.Minute
		if _, outcome, err := db.Grants().Rotate(ctx, expired, noon.Add(5*time.Hour)); outcome != storage.RefreshDead {
			t.Errorf("expired beyond all doubt: %q, %v", outcome, err)
		}
	})
}
