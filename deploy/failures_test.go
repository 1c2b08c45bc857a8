//go:build deploy

package deploy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyturn/keyturn/server/servertest"
)

// Both modes of replication go through what may happen to a cluster.
func TestRunPatroni(t *testing.T) {
	for _, mode := range []string{"synchronous", "asynchronous"} {
		t.Run(mode, func(t *testing.T) {
			c := newCluster(t, mode == "synchronous")
			c.serve()
			c.disturb("planned switchover", c.switchOver)
			c.disturb("kill of the leader", c.killLeader)
			c.disturb("kill of the leader while one standby lags and one replays late", c.killBeforeLate)
			c.disturb("kill of etcd's leader", c.killEtcd)
			c.disturb("partition of the leader", c.partition)
			if mode == "asynchronous" {
				c.loseCommits()
			}
		})
	}
}

// failures are the columns of the table of failures.
var failures = []string{
	"replication",
	"failure",
	"time without a refresh",
	"sessions lost",
	"sessions revived",
	"audit chain",
}

func (c *cluster) mode() string {
	return strings.TrimPrefix(filepath.Base(c.t.Name()), "TestRunPatroni/")
}

// disturb lets something happen while clients work, and waits until the cluster is whole again.
func (c *cluster) disturb(what string, do func()) {
	c.t.Helper()
	probe := &interruption{}
	session := newLogin(c.t, c.crowd)
	var goes, ended []*login
	for range 5 {
		goes, ended = append(goes, newLogin(c.t, c.crowd)), append(ended, newLogin(c.t, c.crowd))
		must(c.t, ended[len(ended)-1].revoke())
	}
	working, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { c.crowd.Run(working, 2) })
	all.Go(func() { probe.watch(working, session) })
	time.Sleep(time.Second)
	do()
	served(c.t, c.crowd, time.Minute)
	await(c.t, "the cluster is whole after a "+what, 2*time.Minute, c.whole)
	time.Sleep(time.Second)
	stop()
	all.Wait()
	c.command("", "audit", "verify")
	lost, revived := count(goes, ended)
	addLine(c.t, "failures", failures, []string{
		c.mode(),
		what,
		fmt.Sprintf("%.1f s", probe.longest.Seconds()),
		fmt.Sprintf("%d of %d", lost, len(goes)),
		fmt.Sprintf("%d of %d", revived, len(ended)),
		"intact",
	})
	if probe.lost || lost+revived > 0 {
		c.t.Errorf("%s: %d logins are lost, %d revoked ones go on; the probe is lost: %v", what, lost, revived,
			probe.lost)
	}
	if c.mode() == "synchronous" {
		c.crowd.Check(c.t) // every promise: no commit is lost
		c.crowd = &servertest.Crowd{
			Bases:  c.crowd.Bases,
			App:    c.crowd.App,
			Server: c.crowd.Server,
			Users:  c.crowd.Users,
			HTTP:   c.crowd.HTTP,
			Pause:  c.crowd.Pause,
		}
	}
}

// count returns how many logins do not go on, and how many go on that were revoked.
func count(goes, ended []*login) (lost, revived int) {
	for i := range goes {
		if goes[i].refresh() != nil {
			lost++
		}
		if ended[i].refresh() == nil {
			revived++
		}
	}
	return lost, revived
}

// interruption is the longest time in which no refresh succeeded.
type interruption struct {
	longest time.Duration
	lost    bool
}

func (i *interruption) watch(ctx context.Context, l *login) {
	last := time.Now()
	defer func() { i.longest = max(i.longest, time.Since(last)) }()
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		err := l.refresh()
		if err != nil && strings.Contains(err.Error(), "invalid_grant") {
			i.lost = true
			return
		}
		if err == nil {
			i.longest, last = max(i.longest, time.Since(last)), time.Now()
		}
	}
}

func (c *cluster) switchOver() {
	c.t.Helper()
	leads, follows := c.leader()
	body, err := json.Marshal(map[string]string{"leader": leads.name, "candidate": follows.name})
	if err != nil {
		c.t.Fatal(err)
	}
	client := leads.space.client(leads.address+":8008", nil)
	client.Timeout = time.Minute
	answer, err := client.Post("http://patroni/switchover", "application/json", bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, _ := io.ReadAll(answer.Body); answer.StatusCode != http.StatusOK {
		c.t.Fatalf("switchover: %s", text)
	}
}

func (c *cluster) killLeader() {
	leads, _ := c.leader()
	c.kill(leads, "etcd", true)
	await(c.t, "another leader", time.Minute, func() error { return c.leadsOther(leads) })
	c.startPatroni(leads)
}

// killBeforeLate kills the leader while one standby has none of the last commits, and the other one has not replayed
// them: that one must lead, once it has.
func (c *cluster) killBeforeLate() {
	c.t.Helper()
	leads, follows := c.leader()
	late := c.nodes[0]
	for _, n := range c.nodes {
		if n != leads && n != follows {
			late = n
		}
	}
	block := func(do string) {
		run(c.t, ".", "ip", "netns", "exec", string(late.space), "iptables", do, "INPUT", "--protocol", "tcp",
			"--source", leads.address, "--sport", "5432", "--jump", "DROP")
	}
	block("--append")
	c.replay(follows, syscall.SIGSTOP)
	time.Sleep(3 * time.Second) // clients work
	c.behind(leads, late, "pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)")
	c.behind(leads, follows, "pg_wal_lsn_diff(flush_lsn, replay_lsn)")
	c.kill(leads, "etcd", true)
	time.Sleep(5 * time.Second)
	c.replay(follows, syscall.SIGCONT)
	await(c.t, "another leader", time.Minute, func() error { return c.leadsOther(leads) })
	if c.leadsOther(late) != nil {
		c.t.Error("the standby that lags leads")
	}
	block("--delete")
	c.startPatroni(leads)
}

// behind checks that a standby is behind, by at least 10,000 bytes.
func (c *cluster) behind(leads, standby *node, difference string) {
	c.t.Helper()
	answer, err := c.trySQL(leads, "SELECT "+difference+" FROM pg_stat_replication WHERE application_name = '"+
		standby.name+"'")
	if bytes, invalid := strconv.Atoi(answer); err != nil || invalid != nil || bytes < 10_000 {
		c.t.Errorf("the standby %s is behind by %s bytes: %v", standby.name, answer, err)
	}
}

// replay sends a signal to the process of a standby that replays.
func (c *cluster) replay(standby *node, signal syscall.Signal) {
	c.t.Helper()
	for _, pid := range strings.Fields(run(c.t, ".", "ip", "netns", "pids", string(standby.space))) {
		line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		if strings.HasPrefix(string(line), "postgres:") && strings.Contains(string(line), " startup ") {
			id, _ := strconv.Atoi(pid)
			must(c.t, syscall.Kill(id, signal))
			return
		}
	}
	c.t.Fatal("nothing replays at " + standby.name)
}

// leadsOther returns nil if another node leads.
func (c *cluster) leadsOther(before *node) error {
	all, err := c.members(before)
	for _, m := range all {
		if m.Role == "leader" && m.Name != before.name && m.State == "running" {
			return nil
		}
	}
	return errors.Join(err, fmt.Errorf("%+v", all))
}

func (c *cluster) killEtcd() {
	for _, n := range c.nodes {
		out, err := n.space.command("env", "ETCDCTL_API=3", "etcdctl", "--endpoints", n.address+":2379", "endpoint",
			"status", "-w", "simple").
			CombinedOutput()
		if err == nil && strings.Contains(string(out), ", true, ") { // the first boolean: it leads
			c.kill(n, "etcd", false)
			time.Sleep(10 * time.Second)
			c.startEtcd(n, "existing")
			return
		}
	}
	c.t.Error("no etcd leads")
}

func (c *cluster) partition() {
	leads, _ := c.leader()
	link := func(state string) { run(c.t, ".", "ip", "-n", string(c.hub), "link", "set", "to-"+leads.name, state) }
	link("down")
	await(c.t, "another leader", time.Minute, func() error { return c.leadsOther(leads) })
	time.Sleep(5 * time.Second) // clients work with it while the old one is away
	link("up")
}

// links sets the state of the links of all nodes but one.
func (c *cluster) links(but *node, state string) {
	c.t.Helper()
	for _, n := range c.nodes {
		if n != but {
			run(c.t, ".", "ip", "-n", string(c.hub), "link", "set", "to-"+n.name, state)
		}
	}
}

// loseCommits kills a leader whose last commits no standby has, and counts what that does to logins.
func (c *cluster) loseCommits() {
	c.t.Helper()
	leads, _ := c.leader()
	var goes, ended []*login
	for range 5 {
		goes, ended = append(goes, newLogin(c.t, c.crowd)), append(ended, newLogin(c.t, c.crowd))
	}
	time.Sleep(time.Second)
	c.links(leads, "down") // no standby gets anything from now on
	for i := range goes {
		if err := errors.Join(goes[i].refresh(), ended[i].revoke()); err != nil {
			c.t.Fatal(err)
		}
	}
	began := time.Now()
	c.kill(leads, "etcd", true)
	c.links(leads, "up")
	await(c.t, "another leader", time.Minute, func() error { return c.leadsOther(leads) })
	c.startPatroni(leads)
	served(c.t, c.crowd, time.Minute)
	took := time.Since(began)
	await(c.t, "the cluster is whole", 2*time.Minute, c.whole)
	lost, revived := count(goes, ended)
	c.command("", "audit", "verify")
	addLine(c.t, "failures", failures, []string{c.mode(), "the leader is lost with its last commits",
		fmt.Sprintf("%.1f s", took.Seconds()), fmt.Sprintf("%d of %d", lost, len(goes)),
		fmt.Sprintf("%d of %d that had just been revoked", revived, len(ended)), "intact"})
	if lost > 0 {
		c.t.Errorf("%d logins are lost whose refresh token was ahead of the database", lost)
	}
}
