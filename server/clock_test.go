package server

import (
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// machine is the clocks of a machine: one that somebody sets, and one that only goes on.
type machine struct{ set, gone atomic.Int64 }

func (m *machine) wall() time.Time        { return noon.Add(time.Duration(m.set.Load() + m.gone.Load())) }
func (m *machine) elapsed() time.Duration { return time.Duration(m.gone.Load()) }

// jump sets the clock; wait lets time go by.
func (m *machine) jump(d time.Duration) { m.set.Add(int64(d)) }
func (m *machine) wait(d time.Duration) { m.gone.Add(int64(d)) }

// onMachine is a replica on such a machine, whose database tells the right time.
func onMachine(t *testing.T, c config.Config, m *machine) *Harness {
	t.Helper()
	if !IsSQLite(c.Database) && c.MasterKeyFile == "" {
		c.MasterKeyFile = MasterFile(t)
	}
	o := Options{Wall: m.wall, Elapsed: m.elapsed, Module: keystest.Module()}
	if !IsSQLite(c.Database) { // that of PostgreSQL is no test's to set
		o.DatabaseNow = keystest.At(func() time.Time { return noon.Add(m.elapsed()) })
	}
	h := openWith(t, c, o)
	h.Provision()
	return h
}

// startOn is a further replica, on a machine of its own, whose database tells the time that now does.
func startOn(t *testing.T, c config.Config, m *machine, now func() time.Time) *Harness {
	t.Helper()
	o := Options{Wall: m.wall, Elapsed: m.elapsed, Module: keystest.Module()}
	if !IsSQLite(c.Database) {
		o.DatabaseNow = keystest.At(now)
	}
	return openWith(t, c, o)
}

func openWith(t *testing.T, c config.Config, o Options) *Harness {
	t.Helper()
	h := &Harness{T: t, Config: c, Log: &Buffer{}}
	o.Log = slog.New(slog.NewJSONHandler(h.Log, nil))
	h.Server = Must(OpenServer(ctx, c, o))
	t.Cleanup(func() { h.Server.Close() })
	h.Admin = admin.New(
		h.Server.store,
		h.Server.settingsNow(),
		h.Server.place,
		admin.Options{Actor: "os:test", Reason: "test", Now: h.Server.now},
	)
	h.ServeHTTP()
	return h
}

// The clock of the machine is set, an hour either way. Nothing that has expired comes back, no key leaves early, and no
// lockout sticks.
func TestClockIsSet(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		m := &machine{}
		c := ConfigFor(databaseURL)
		c.TrustedProxies = config.List{"127.0.0.0/8"}
		h := onMachine(t, c, m)
		tokens := h.Login("app")
		m.wait(10 * time.Minute)
		Must(0, h.Server.ring.LifeCycle().Maintain(ctx))
		if h.Active("rs", tokens.AccessToken) {
			t.Fatal("active at its exp")
		}
		m.jump(-time.Hour)
		Must(0, h.Server.ring.LifeCycle().Maintain(ctx))
		if h.Active("rs", tokens.AccessToken) {
			t.Error("set back: an expired token is active again")
		}
		tokens = h.Refresh("app", tokens.RefreshToken).Tokens(t)
		if !h.Active("rs", tokens.AccessToken) {
			t.Error("set back: not served")
		}
		if r := h.Get("/readyz?verbose"); r.Status != 503 || !strings.Contains(r.Body, "clock failed") {
			t.Errorf("set back: %d %s", r.Status, r.Body)
		}
		m.jump(time.Hour) // right again
		if r := h.Get("/readyz?verbose"); r.Status != 200 {
			t.Errorf("right again: %s", r.Body)
		}
		Must(h.Admin.Keys().Rotate(ctx, admin.Gate{Force: true}))
		keysBefore := h.Get("/.well-known/jwks.json").Header.Get("ETag")
		for range 12 {
			h.LoginFrom("203.0.113.1", "alice", "wrong")
		}
		m.jump(24 * time.Hour)
		Must(0, h.Server.ring.LifeCycle().Maintain(ctx))
		if h.Get("/.well-known/jwks.json").Header.Get("ETag") != keysBefore {
			t.Error("set forward: a key has left early")
		}
		if r := h.Get("/readyz?verbose"); r.Status != 503 || !strings.Contains(r.Body, "clock failed") {
			t.Errorf("set forward: %d %s", r.Status, r.Body)
		}
		h.LoginFrom("203.0.113.1", "alice", "wrong") // counted a day ahead
		m.jump(-24 * time.Hour)
		m.wait(2 * time.Hour)
		Must(0, h.Server.ring.LifeCycle().Maintain(ctx))
		h.LoginFrom("203.0.113.1", "alice", password).Tokens(t) // the lockout has not stuck
	})
}

// A replica that is off warns; beyond half a minute it is not ready.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		off          time.Duration
		ready, warns bool
	}{{4 * time.Second, true, false}, {6 * time.Second, true, true}, {-6 * time.Second, true, true}, {29 * time.Second,
		true, true}, {31 * time.Second, false, true}} {
		at := &Clock{}
		at.at.Store(noon.UnixNano())
		log, config := &Buffer{}, ConfigFor(SQLiteURL(t))
		OpenHarness(t, config, at) // makes the first keys
		s := Must(
			OpenServer(
				ctx,
				config,
				Options{
					Now:         func() time.Time { return at.Now().Add(c.off) },
					DatabaseNow: keystest.At(at.Now),
					Module:      keystest.Module(),
					Log:         slog.New(slog.NewTextHandler(log, nil)),
				},
			),
		)
		s.look(ctx)
		s.warnOfClock()
		if err := s.ready(); (err == nil) != c.ready {
			t.Errorf("%v off: ready: %v", c.off, err)
		}
		if strings.Contains(log.String(), "the clock here is off") != c.warns {
			t.Errorf("%v off: %s", c.off, log.String())
		}
		s.Close()
	}
}

// A server that starts with a clock that is behind knows by the database that it is later.
func TestClockBehindAtTheStart(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		c := ConfigFor(databaseURL)
		if !IsSQLite(databaseURL) {
			c.MasterKeyFile = MasterFile(t)
		}
		right := &machine{}
		h := onMachine(t, c, right)
		tokens := h.Login("app")
		right.wait(11 * time.Minute)
		Must(0, h.Server.ring.LifeCycle().Maintain(ctx))
		h.Server.writeHeartbeat(ctx)
		for _, behind := range []time.Duration{29 * time.Second, 8 * time.Minute} {
			m := &machine{}
			m.wait(11 * time.Minute)
			m.jump(-behind)
			late := startOn(t, c, m, func() time.Time { return noon.Add(right.elapsed()) })
			if late.mayBeActive(tokens.AccessToken) {
				t.Errorf("%v behind: an expired token is active", behind)
			}
		}
	})
}

// A server that once ran with a clock far ahead does not hold its database to that for ever.
func TestClockOnceFarAhead(t *testing.T) {
	t.Parallel()
	c := ConfigFor(SQLiteURL(t))
	ahead := &machine{}
	ahead.jump(365 * 24 * time.Hour)
	h := onMachine(t, c, ahead)
	h.Server.writeHeartbeat(ctx)
	right := startOn(t, c, &machine{}, nil)
	if now := right.Server.now(); now.Sub(noon) > time.Hour {
		t.Errorf("a year ahead, still: %v", now)
	}
	if !strings.Contains(right.Log.String(), "that has not come yet") {
		t.Error("nobody is told")
	}
}
