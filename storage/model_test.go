package storage_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// grantModel is what a grant should do: the table of refresh cases as a state machine.
type grantModel struct {
	now, rotated, idle time.Time
	late               time.Time     // the last late retry
	period             time.Duration // of late retries; 0: there are none
	generation         int64
	revoked            bool
}

func (m *grantModel) expect(generation int64) storage.RefreshOutcome {
	switch {
	case m.revoked || !m.now.Before(m.idle) || !m.now.Before(noon.Add(24*time.Hour)):
		return storage.RefreshDead
	case generation == m.generation:
		return storage.RefreshFresh
	case generation > m.generation:
		return storage.RefreshAhead
	case generation < m.generation-1:
		return storage.RefreshReuse
	case m.now.Sub(m.rotated) < 10*time.Second, m.period > 0 && m.now.Sub(m.late) < 10*time.Second:
		return storage.RefreshRetry
	case m.period > 0 && m.now.Sub(m.late) >= m.period:
		return storage.RefreshLate
	default:
		return storage.RefreshReuse
	}
}

func (m *grantModel) apply(generation int64, outcome storage.RefreshOutcome) {
	switch outcome {
	case storage.RefreshFresh, storage.RefreshAhead:
		m.generation, m.rotated, m.idle = generation+1, m.now, m.now.Add(time.Hour)
		if end := noon.Add(24 * time.Hour); m.idle.After(end) {
			m.idle = end
		}
	case storage.RefreshLate:
		m.late = m.now
	case storage.RefreshReuse:
		m.revoked = true
	}
}

// Whatever is presented in whatever order, the grant does what the table says; never are two generations usable.
func TestRefreshModel(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		u, c := mustUser(t, db, "alice"), mustClient(t, db, "app")
		rapid.Check(t, func(r *rapid.T) {
			g := mustGrant(t, db, u, c)
			m := grantModel{now: noon, rotated: noon, idle: noon.Add(time.Hour)}
			m.period = rapid.SampledFrom([]time.Duration{0, 20 * time.Minute}).Draw(r, "period")
			r.Repeat(map[string]func(*rapid.T){
				"present": func(r *rapid.T) {
					generation := max(0, m.generation+rapid.Int64Range(-3, 1).Draw(r, "generation"))
					want := m.expect(generation)
					presented := refreshOf(g, generation)
					presented.LateRetry = m.period
					s, got, err := db.Grants().Rotate(ctx, presented, m.now)
					if err != nil || got != want {
						r.Fatalf("generation %d of %d: %q, %v; want %q", generation, m.generation, got, err, want)
					}
					m.apply(generation, got)
					if (got == storage.RefreshRetry || got == storage.RefreshLate) && s.Generation != m.generation {
						r.Fatalf("the retry yields generation %d, not %d", s.Generation, m.generation)
					}
				},
				"wait": func(r *rapid.T) {
					m.now = m.now.Add(
						rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, 9 * time.Second,
							10 * time.Second, 19 * time.Minute, 59 * time.Minute, time.Hour}).Draw(r, "span"),
					)
				},
				"revoke": func(r *rapid.T) {
					if rapid.IntRange(0, 9).Draw(r, "rarely") > 0 {
						return
					}
					revocation := storage.Revocation{
						ID:         g.ID,
						Caller:     storage.Caller{ID: "app"},
						FamilyHash: g.FamilyHash,
					}
					if _, err := db.Grants().Revoke(ctx, admin, revocation, m.now); err != nil {
						r.Fatal(err)
					}
					m.revoked = true
				},
				"": func(r *rapid.T) {
					s, err := db.Grants().State(ctx, g.ID)
					if err != nil || s.Generation != m.generation ||
						(s.RevokedAt != nil) != m.revoked && m.now.Before(noon.Add(24*time.Hour)) {
						r.Fatalf("row at generation %d, revoked %v, %v; model %+v", s.Generation, s.RevokedAt, err, m)
					}
				},
			})
		})
	})
}
