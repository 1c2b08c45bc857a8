package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// cluster is replicas on one database, each on a machine of its own, and the clock of the database.
type cluster struct {
	t        *testing.T
	config   config.Config
	machines []*machine
	replicas []*Harness
	database time.Duration // how far its clock is ahead
	alone    bool          // SQLite: there is no other clock than that of the machine
}

func newCluster(t *testing.T, databaseURL string) *cluster {
	c := &cluster{t: t, config: ConfigFor(databaseURL), alone: storagetest.SQLiteFile(databaseURL) != ""}
	if !c.alone {
		c.config.MasterKeyFile = MasterFile(t)
	}
	c.start(&machine{})
	c.replicas[0].Provision()
	return c
}

// start starts a further replica on a machine.
func (c *cluster) start(m *machine) *Harness {
	c.t.Helper()
	if len(c.machines) > 0 {
		m.gone.Store(c.machines[0].gone.Load())
	}
	o := Options{Wall: m.wall, Elapsed: m.elapsed, Module: keystest.Module()}
	if !c.alone {
		o.DatabaseNow = keystest.At(func() time.Time { return noon.Add(m.elapsed() + c.database) })
	}
	h := openWith(c.t, c.config, o)
	c.machines, c.replicas = append(c.machines, m), append(c.replicas, h)
	return h
}

// wait lets time go by for all, who look each second and clean up each minute, as their loops do.
func (c *cluster) wait(span time.Duration) {
	c.t.Helper()
	for passed := time.Duration(0); passed < span; passed += time.Second {
		for i, r := range c.replicas {
			c.machines[i].wait(time.Second)
			Must(0, r.Server.ring.Poll(ctx))
			r.Server.look(ctx)
		}
		if passed%(20*time.Second) == 0 {
			for _, r := range c.replicas {
				r.Server.cleanUpOnce(ctx) // which an unsure replica refuses
				r.Server.writeHeartbeat(ctx)
			}
		}
	}
}

// far is longer than a login may rest.
const far = 16 * 24 * time.Hour

// clockCase is what happens to clocks, and for how long.
type clockCase struct {
	name     string
	replicas int
	wrong    func(c *cluster)
	right    func(c *cluster)
	lasts    time.Duration
	postgres bool // it needs a database with a clock of its own
}

var clockCases = []clockCase{
	{name: "the machine is set 16 days ahead", replicas: 1,
		wrong: func(c *cluster) { c.machines[0].jump(far) }, right: func(c *cluster) { c.machines[0].jump(-far) }},
	{name: "the machine is set an hour back", replicas: 1, lasts: 40 * time.Second,
		wrong: func(c *cluster) { c.machines[0].jump(-time.Hour) },
		right: func(c *cluster) { c.machines[0].jump(time.Hour) }},
	{name: "one of three is set 16 days ahead", replicas: 3,
		wrong: func(c *cluster) { c.machines[1].jump(far) }, right: func(c *cluster) { c.machines[1].jump(-far) }},
	{name: "one of three starts 16 days ahead", replicas: 2, postgres: true,
		wrong: func(c *cluster) { m := &machine{}; m.jump(far); c.start(m) },
		right: func(c *cluster) { c.machines[len(c.machines)-1].jump(-far) }},
	{name: "the database is set an hour ahead", replicas: 3, postgres: true,
		wrong: func(c *cluster) { c.database = time.Hour }, right: func(c *cluster) { c.database = 0 }},
	{name: "the database is set 16 days back", replicas: 3, postgres: true,
		wrong: func(c *cluster) { c.database = -far }, right: func(c *cluster) { c.database = 0 }},
	{name: "the machine starts nine hours ahead", replicas: 1, lasts: 40 * time.Second,
		wrong: func(c *cluster) { m := &machine{}; m.jump(9 * time.Hour); c.start(m) },
		right: func(c *cluster) { c.machines[len(c.machines)-1].jump(-9 * time.Hour) }},
	{name: "the machine starts right after it was nine hours ahead", replicas: 1,
		wrong: func(c *cluster) {
			m := &machine{}
			m.jump(9 * time.Hour)
			c.start(m)
			c.wait(time.Minute)
		},
		right: func(c *cluster) {
			c.machines[len(c.machines)-1].jump(-9 * time.Hour)
			c.start(&machine{})
			c.start(&machine{})
		}},
	{name: "the machine, with its database, starts 16 days ahead", replicas: 1,
		wrong: func(c *cluster) {
			c.database = far
			m := &machine{}
			m.jump(far)
			c.start(m)
		},
		right: func(c *cluster) {
			c.database = 0
			c.machines[len(c.machines)-1].jump(-far)
		}},
	{name: "a machine with its database was saved for two hours", replicas: 1,
		wrong: func(c *cluster) {
			c.database = 2 * time.Hour
			c.machines[0].jump(2 * time.Hour)
		},
		right: func(*cluster) {}},
	{name: "the machine starts nine hours behind", replicas: 1, lasts: 20 * time.Second,
		wrong: func(c *cluster) { m := &machine{}; m.jump(-9 * time.Hour); c.start(m) },
		right: func(c *cluster) { c.machines[len(c.machines)-1].jump(9 * time.Hour) }},
}

// A process that is stopped for a while, as a virtual machine is, has answered nobody meanwhile. A client that repeats
// its refresh afterwards is none that comes too late.
func TestPause(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		m := &machine{}
		h := onMachine(t, ConfigFor(databaseURL), m)
		tokens := h.Login("app")
		lost := h.Refresh("app", tokens.RefreshToken).Tokens(t)
		m.wait(15 * time.Second)
		Must(0, h.Server.ring.Poll(ctx))
		if again := h.Refresh("app", tokens.RefreshToken).Tokens(t); again.RefreshToken != lost.RefreshToken {
			t.Error("after a pause the retry gets another successor")
		}
		for range 15 {
			m.wait(time.Second)
			Must(0, h.Server.ring.Poll(ctx))
		}
		if r := h.Refresh("app", tokens.RefreshToken); r.Status != 400 {
			t.Errorf("the window never ends: %d", r.Status)
		}
	})
}

// A step of seconds, such as NTP makes, leaves a replica ready. It turns no honest retry into reuse, on the replica
// that has seen it nor on another.
func TestSmallStep(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{25 * time.Second, -25 * time.Second} {
		storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
			c := newCluster(t, databaseURL)
			tokens := c.replicas[0].Login("app")
			lost := c.replicas[0].Refresh("app", tokens.RefreshToken).Tokens(t)
			c.database = by
			c.machines[0].jump(by)
			c.wait(2 * time.Second)
			other := &machine{}
			other.jump(by)
			c.start(other)
			again := c.replicas[0].Refresh("app", tokens.RefreshToken).Tokens(t)
			if again.RefreshToken != lost.RefreshToken {
				t.Errorf("%v: the retry gets another successor", by)
			}
			if apart := c.replicas[0].Server.now().Sub(c.replicas[1].Server.now()); apart.Abs() > time.Second {
				t.Errorf("%v: the replicas are %v apart", by, apart)
			}
		})
	}
}

// Whatever happens to clocks, no live session is lost, nothing that was over comes back, nothing is deleted, and all
// replicas are ready again within a minute of the clocks being right.
func TestClocks(t *testing.T) {
	t.Parallel()
	for _, c := range clockCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
				if c.postgres && storagetest.SQLiteFile(databaseURL) != "" {
					return // SQLite has no clock of its own
				}
				t.Log(c.run(t, newCluster(t, databaseURL)))
			})
		})
	}
}

func (c clockCase) run(t *testing.T, cl *cluster) string {
	for len(cl.replicas) < c.replicas {
		cl.start(&machine{})
	}
	const sessions = 6
	live, over := make([]string, sessions), make([]string, sessions)
	for i := range live {
		tokens := cl.replicas[0].Login("app")
		live[i], over[i] = tokens.RefreshToken, tokens.AccessToken
	}
	revoked := cl.replicas[0].Login("app")
	Must(0, Status200(cl.replicas[0].Post("/revoke", "app", "token", revoked.RefreshToken)))
	for _, m := range cl.machines {
		m.wait(11 * time.Minute) // the access tokens are over
	}
	cl.wait(time.Second)
	rows := cl.grants()
	c.wrong(cl)
	lost, revived, unserved := 0, 0, 0
	judge := func() {
		for i, r := range cl.replicas {
			for j := range over {
				if r.mayBeActive(over[j]) {
					revived++
				}
			}
			s := (i + lost) % sessions
			switch answer := r.Refresh("app", live[s]); answer.Status {
			case 200:
				live[s] = answer.Tokens(t).RefreshToken
			case 503:
				unserved++
			default:
				lost++
			}
			if r.Refresh("app", revoked.RefreshToken).Status == 200 {
				revived++
			}
		}
	}
	judge()
	cl.wait(max(c.lasts, time.Minute))
	judge()
	c.right(cl)
	judge()
	cl.wait(time.Minute)
	for i, r := range cl.replicas {
		if ready := r.Get("/readyz?verbose"); ready.Status != 200 {
			t.Errorf("replica %d is not ready after a minute: %s", i, ready.Body)
		}
	}
	judge()
	if n := cl.grants(); n != rows {
		t.Errorf("%d of %d rows of grants are left", n, rows)
	}
	for i := range live {
		if answer := cl.replicas[0].Refresh("app", live[i]); answer.Status != 200 {
			lost++
		}
	}
	if lost+revived > 0 {
		t.Errorf("%d sessions lost, %d things revived", lost, revived)
	}
	return fmt.Sprintf("%d lost, %d revived, %d times 503, ready again", lost, revived, unserved)
}

// grants is how many rows of grants there are.
func (c *cluster) grants() (n int) {
	raw := storagetest.Raw(c.t, c.config.Database)
	defer raw.Close()
	Must(0, raw.QueryRow(`SELECT COUNT(*) FROM grants`).Scan(&n))
	return n
}

// mayBeActive reports whether introspection calls the token active. A replica that does not know the time says nothing.
func (h *Harness) mayBeActive(token string) bool {
	h.T.Helper()
	return strings.Contains(h.Post("/introspect", "rs", "token", token).Body, `"active":true`)
}
