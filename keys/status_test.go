package keys_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// mustStatus returns the status and checks that it is consistent.
func mustStatus(t *testing.T, r *keys.Ring) keys.Status {
	t.Helper()
	s, err := r.LifeCycle().Status(ctx)
	must(t, err)
	if s.Healthy != (len(s.Problems) == 0) || s.Healthy != (s.Level == keys.LevelOK) || s.Sentence == "" {
		t.Errorf("%+v", s)
	}
	for _, p := range s.Problems {
		if p.Problem == "" || p.Advice == "" {
			t.Errorf("a problem without words: %+v", p)
		}
	}
	return s
}

// problems returns the levels of the problems that contain a text.
func problems(s keys.Status, text string) (found []keys.Level) {
	for _, p := range s.Problems {
		if strings.Contains(p.Problem, text) {
			found = append(found, p.Level)
		}
	}
	return found
}

func TestStatus(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		db, module := storagetest.MustOpen(t, url), keystest.Module()
		c := newClock()
		none := mustRing(t, db, keystest.MustMaster(t, 1), c.options(module))
		if s := mustStatus(t, none); !strings.Contains(s.Sentence, "no signing keys yet") ||
			s.Level != keys.LevelWarning {
			t.Errorf("%+v", s)
		}
		r := keystest.MustRing(t, db, c.now, module)
		s, kids := mustStatus(t, r), byState(r)
		if !s.Healthy || s.Current != kids["current"] || s.Next != kids["next"] || s.NextEvent == nil ||
			s.NextEvent.KID != kids["next"] ||
			!s.NextEvent.At.Equal(*s.NextRotationAt) ||
			s.NextRotationAt.Sub(c.now()).Round(time.Hour) != keystest.Config.RotationInterval {
			t.Errorf("%+v", s)
		}
		c.step(time.Second)
		done, err := r.LifeCycle().Revoke(ctx, admin, keys.Leak{KID: kids["current"]})
		must(t, err)
		s = mustStatus(t, r)
		if got := problems(s, "a key was revoked at"); !cmp.Equal(got, []keys.Level{keys.LevelWarning}) ||
			s.NextEvent.KID != done.Next {
			t.Errorf("in an incident: %+v", s)
		}
		// No server takes the steps that are due.
		for _, late := range []struct {
			by   time.Duration
			want []keys.Level
		}{{exposure + time.Minute, nil}, {time.Hour, []keys.Level{keys.LevelCritical}}} {
			c.step(late.by)
			if got := problems(mustStatus(t, r), "has not been made"); !cmp.Equal(got, late.want) {
				t.Errorf("late by %v: %v", late.by, got)
			}
		}
		must(t, r.LifeCycle().Maintain(ctx))
		if s := mustStatus(t, r); !s.Healthy {
			t.Errorf("after the incident: %+v", s)
		}
	})
}

// A late step is a warning first. A late rotation is critical after a week.
func TestStatusOfLateSteps(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		t.Parallel()
		c := newClock()
		r := keystest.MustRing(t, db, c.now, keystest.Module())
		_, err := r.LifeCycle().Rotate(ctx, admin, keys.Gate{Force: true})
		must(t, err)
		for _, step := range []struct {
			by           time.Duration
			retire, turn []keys.Level
		}{
			{time.Hour, nil, nil},
			{time.Hour, []keys.Level{keys.LevelWarning}, nil},
			{keystest.Config.RotationInterval, []keys.Level{keys.LevelWarning}, []keys.Level{keys.LevelWarning}},
			{7 * 24 * time.Hour, []keys.Level{keys.LevelWarning}, []keys.Level{keys.LevelCritical}},
		} {
			c.step(step.by)
			s := mustStatus(t, r)
			if got := problems(s, "was due to leave the JWKS"); !cmp.Equal(got, step.retire) {
				t.Errorf("at %v: retirement: %v", c.now(), got)
			}
			if got := problems(s, "the rotation that was due"); !cmp.Equal(got, step.turn) {
				t.Errorf("at %v: rotation: %v", c.now(), got)
			}
		}
	})
}

func TestStatusOfAnUnfinishedRewrap(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		c, db := newClock(), storagetest.MustOpen(t, url)
		keystest.MustRing(t, db, c.now, keystest.Module())
		faults := storagetest.NewFaults(t, url, "secret_keys")
		r := mustOpen(t, db, c, keystest.Module())
		faults.Arm(1)
		if _, err := r.LifeCycle().Rewrap(ctx, admin, newMaster(t)); err == nil {
			t.Fatal("not interrupted")
		}
		faults.Disarm()
		got := problems(mustStatus(t, r), "a rewrap is not finished: 5 rows")
		if !cmp.Equal(got, []keys.Level{keys.LevelWarning}) {
			t.Error(got)
		}
	})
}

// leaves returns when a key leaves the JWKS that signs until the given moment.
func leaves(stops time.Time) time.Time {
	return stops.Add(keystest.Config.TokenTTL + keys.Skew + keystest.Config.JWKSMaxAge)
}

func livesByKID(lives []keys.Life) map[string]keys.Life {
	m := map[string]keys.Life{}
	for _, l := range lives {
		m[l.KID] = l
	}
	return m
}

// firstLives returns the lives at noon of the first keys, by kid.
func firstLives(current, next string) map[string]keys.Life {
	interval := keystest.Config.RotationInterval
	turn := noon.Add(interval)
	planned := func(at time.Time) *keys.Moment { return &keys.Moment{At: at, Planned: true} }
	return livesByKID([]keys.Life{
		{
			KID:       current,
			State:     "current",
			Published: keys.Moment{At: noon},
			Signs:     &keys.Moment{At: noon},
			Stops:     planned(turn),
			Leaves:    *planned(leaves(turn)),
		},
		{
			KID:       next,
			State:     "next",
			Published: keys.Moment{At: noon},
			Signs:     planned(turn),
			Stops:     planned(turn.Add(interval)),
			Leaves:    *planned(leaves(turn.Add(interval))),
		},
		{
			State:     "next",
			Published: *planned(turn),
			Signs:     planned(turn.Add(interval)),
			Stops:     planned(turn.Add(2 * interval)),
			Leaves:    *planned(leaves(turn.Add(2 * interval))),
		},
	})
}

// Lives shows the past from the rows and the future from the schedule, and that future comes true.
func TestLivesComeTrue(t *testing.T) {
	t.Parallel()
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		t.Parallel()
		c := newClock()
		r := keystest.MustRing(t, db, c.now, keystest.Module())
		kids, turn := byState(r), noon.Add(keystest.Config.RotationInterval)
		if diff := cmp.Diff(firstLives(kids["current"], kids["next"]), livesByKID(r.Lives())); diff != "" {
			t.Error(diff)
		}
		c.step(keystest.Config.RotationInterval)
		mustSignAfterPoll(t, r, c)
		must(t, r.LifeCycle().Maintain(ctx))
		lives := livesByKID(r.Lives())
		old := lives[kids["current"]]
		if old.State != "previous" ||
			old.Stops.Planned ||
			!old.Stops.At.Equal(turn) ||
			!old.Leaves.At.Before(leaves(turn).Add(2*time.Minute)) {
			t.Errorf("%+v", old)
		}
		if now := lives[kids["next"]]; now.State != "current" || now.Signs.Planned || !now.Signs.At.Equal(turn) {
			t.Errorf("%+v", now)
		}
	})
}

func mustSignAfterPoll(t *testing.T, r *keys.Ring, c *clock) {
	t.Helper()
	must(t, r.Poll(ctx))
	mustSign(t, r, c.now().Add(time.Hour))
}
