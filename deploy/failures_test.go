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
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Both modes of replication go through what may happen to a cluster.
func TestRunPatroni(t *testing.T) {
	for _, mode := range []string{"synchronous", "asynchronous"} {
		t.Run(mode, func(t *testing.T) {
			c := newCluster(t, mode == "synchronous")
			c.serve()
			c.disturb("planned switchover", false, c.switchOver)
			if mode == "asynchronous" {
				c.loseCommits() // while the anchor is as the servers have made it
			}
			c.disturb("kill of the leader", true, c.killLeader)
			c.disturb("kill of the leader; one standby lags, the other replays late", true, c.killBeforeLate)
			c.disturb("kill of etcd's leader", true, c.killEtcd)
			c.disturb("the leader is cut off from all", true, c.partition)
			c.disturb("the leader is cut off from the nodes, not from clients", true, c.isolate)
		})
	}
}

// failures are the columns of the table of failures. keyturn serves by two URLs.
var failures = []string{
	"replication",
	"failure",
	"no refresh through HAProxy",
	"no refresh with all nodes in the URL",
	"logins lost",
	"revoked logins that go on",
	"audit trail",
}

func (c *cluster) mode() string {
	if c.synchronous {
		return "synchronous"
	}
	return "asynchronous"
}

// disturb lets something happen while clients work, and waits until the cluster is whole again. Without synchronous
// replication the last commits may be lost where loses is set.
func (c *cluster) disturb(what string, loses bool, do func()) {
	c.t.Helper()
	c.newCrowd()
	c.crowd.Lossy = loses && !c.synchronous
	var probes []*interruption
	for _, base := range c.crowd.Bases {
		session := newLogin(c.t, c.crowd)
		session.base = base
		probes = append(probes, &interruption{session: session})
	}
	var goes, ended []*login
	for range 5 {
		goes, ended = append(goes, newLogin(c.t, c.crowd)), append(ended, newLogin(c.t, c.crowd))
		must(c.t, ended[len(ended)-1].revoke())
	}
	await(c.t, "the standbys have the logins", time.Minute, c.caughtUp)
	working, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	all.Go(func() { c.crowd.Run(working, 2) })
	for _, probe := range probes {
		all.Go(func() { probe.watch(working) })
	}
	time.Sleep(time.Second)
	do()
	served(c.t, c.crowd, time.Minute)
	await(c.t, "the cluster is whole after: "+what, 2*time.Minute, c.whole)
	time.Sleep(time.Second)
	stop()
	all.Wait()
	trail := c.trail()
	lost, revived := c.count(goes, ended)
	addLine(c.t, "failures", failures, []string{
		c.mode(),
		what,
		fmt.Sprintf("%.1f s", probes[0].longest.Seconds()),
		fmt.Sprintf("%.1f s", probes[1].longest.Seconds()),
		fmt.Sprintf("%d of %d", lost, len(goes)),
		fmt.Sprintf("%d of %d", revived, len(ended)),
		trail,
	})
	if probes[0].lost || probes[1].lost || lost+revived > 0 {
		c.t.Errorf("%s: %d logins are lost, %d revoked ones go on; the probes are lost: %v, %v", what, lost, revived,
			probes[0].lost, probes[1].lost)
	}
	c.crowd.Check(c.t)
}

// trail verifies the audit trail. Without synchronous replication it may lack a record that this host has seen: then it
// does what docs/deployments.md says.
func (c *cluster) trail() string {
	c.t.Helper()
	err := c.try("", "audit", "verify")
	if err == nil {
		return "intact"
	}
	if c.synchronous || !strings.Contains(err.Error(), "was cut off") {
		c.t.Error(err)
	}
	must(c.t, os.Remove(filepath.Join(c.folder, "anchor")))
	c.command("", "audit", "verify")
	return "without its last records"
}

// count returns how many logins do not go on, and how many go on that were revoked.
func (c *cluster) count(goes, ended []*login) (lost, revived int) {
	c.t.Helper()
	for i := range goes {
		if !goes[i].goesOn(c.t) {
			lost++
		}
		if ended[i].goesOn(c.t) {
			revived++
		}
	}
	return lost, revived
}

// interruption is the longest time in which no refresh succeeded.
type interruption struct {
	session *login
	longest time.Duration
	lost    bool
}

func (i *interruption) watch(ctx context.Context) {
	last := time.Now()
	defer func() { i.longest = max(i.longest, time.Since(last)) }()
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		err := i.session.refresh()
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
	c.killAllBut(leads, "etcd")
	await(c.t, "another leader", time.Minute, func() error { return c.leadsOther(leads) })
	c.startPatroni(leads)
}

// killBeforeLate kills the leader while one standby has none of the last commits, and the other one has not replayed
// them: that one must lead, and replay before it serves.
func (c *cluster) killBeforeLate() {
	c.t.Helper()
	leads, follows := c.leader()
	late := c.nodes[0]
	for _, n := range c.nodes {
		if n != leads && n != follows {
			late = n
		}
	}
	c.starve(late, leads, "--append")
	c.replay(follows, syscall.SIGSTOP)
	c.t.Cleanup(func() { c.replay(follows, syscall.SIGCONT) })
	behind := func(n *node, difference string) func() error {
		return func() error { // clients work
			return c.differs(leads, "SELECT "+difference+" FROM pg_stat_replication WHERE application_name = '"+
				n.name+"'")
		}
	}
	await(c.t, "a standby lags", time.Minute, behind(late, "pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)"))
	await(c.t, "a standby replays late", time.Minute, behind(follows, "pg_wal_lsn_diff(flush_lsn, replay_lsn)"))
	c.killAllBut(leads, "etcd")
	await(c.t, "another leader", time.Minute, func() error { return c.leadsOther(leads) })
	if now, _ := c.leader(); now == late {
		c.t.Error("the standby that lags leads")
	}
	if err := c.differs(follows, "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"+
		" WHERE pg_is_in_recovery()"); err != nil {
		c.t.Errorf("the new leader has nothing to replay: %v", err)
	}
	c.replay(follows, syscall.SIGCONT)
	c.starve(late, leads, "--delete")
	c.startPatroni(leads)
}

// starve lets a standby get nothing from the leader, or ends that.
func (c *cluster) starve(standby, leads *node, do string) {
	c.t.Helper()
	run(c.t, ".", "ip", "netns", "exec", string(standby.space), "iptables", do, "INPUT", "--protocol", "tcp",
		"--source", leads.address, "--sport", "5432", "--jump", "DROP")
}

// differs returns nil if a node answers with at least 10,000 bytes.
func (c *cluster) differs(n *node, query string) error {
	answer, err := c.trySQL(n, query)
	if bytes, invalid := strconv.Atoi(answer); err == nil && (invalid != nil || bytes < 10_000) {
		err = fmt.Errorf("%q bytes", answer)
	}
	return err
}

// replay sends a signal to the process of a standby that replays.
func (c *cluster) replay(standby *node, signal syscall.Signal) {
	c.t.Helper()
	for _, pid := range standby.space.pids() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.HasPrefix(string(line), "postgres:") && strings.Contains(string(line), " startup ") {
			must(c.t, syscall.Kill(pid, signal))
			return
		}
	}
	if signal == syscall.SIGSTOP {
		c.t.Fatal("nothing replays at " + standby.name)
	}
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

// etcdLeader returns the node whose etcd leads, as any etcd but the given one tells.
func (c *cluster) etcdLeader(but *node) (*node, error) {
	for _, n := range c.nodes {
		if n == but {
			continue
		}
		out, err := n.space.command("env", "ETCDCTL_API=3", "etcdctl", "--endpoints", n.address+":2379", "endpoint",
			"status", "-w", "simple").CombinedOutput()
		if err == nil && strings.Contains(string(out), ", true, ") { // the first boolean: it leads
			return n, nil
		}
	}
	return nil, errors.New("no etcd leads")
}

func (c *cluster) killEtcd() {
	c.t.Helper()
	leads, err := c.etcdLeader(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.killAll(leads, "etcd")
	await(c.t, "another etcd leads", time.Minute, func() error {
		_, err := c.etcdLeader(leads)
		return err
	})
	time.Sleep(8 * time.Second) // Patroni works with two
	c.startEtcd(leads, "existing")
}

func (c *cluster) partition() {
	leads, _ := c.leader()
	c.link(leads, "down")
	await(c.t, "another leader", time.Minute, func() error { return c.leadsOther(leads) })
	time.Sleep(5 * time.Second) // clients work with it while the old one is away
	c.link(leads, "up")
}

// isolate cuts the leader off from the other nodes. keyturn and HAProxy still reach it.
func (c *cluster) isolate() {
	c.t.Helper()
	leads, _ := c.leader()
	block := func(do string) {
		for _, n := range c.nodes {
			if n != leads {
				run(c.t, ".", "ip", "netns", "exec", string(leads.space), "iptables", do, "INPUT", "--source",
					n.address, "--jump", "DROP")
				run(c.t, ".", "ip", "netns", "exec", string(leads.space), "iptables", do, "OUTPUT", "--destination",
					n.address, "--jump", "DROP")
			}
		}
	}
	block("--append")
	await(c.t, "another leader", time.Minute, func() error { return c.leadsOther(leads) })
	time.Sleep(5 * time.Second) // clients reach both
	block("--delete")
}

// link sets the state of the link of a node.
func (c *cluster) link(n *node, state string) {
	c.t.Helper()
	run(c.t, ".", "ip", "-n", string(c.hub), "link", "set", "to-"+n.name, state)
}

// caughtUp returns nil if all standbys have replayed everything.
func (c *cluster) caughtUp() error {
	all, err := c.members(nil)
	if err != nil {
		return err
	}
	leads, _ := c.roles(all)
	if leads == nil {
		return fmt.Errorf("no leader: %+v", all)
	}
	n, err := c.trySQL(leads, "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()")
	if err == nil && n != strconv.Itoa(len(c.nodes)-1) {
		err = fmt.Errorf("%s standbys have", n)
	}
	return err
}

// loseCommits loses a leader whose last commits no standby has: refreshes, revocations, and a record of the audit
// trail that this host has seen. It does what docs/deployments.md says afterwards.
func (c *cluster) loseCommits() {
	c.t.Helper()
	c.newCrowd()
	var goes, ended []*login
	for range 5 {
		goes, ended = append(goes, newLogin(c.t, c.crowd)), append(ended, newLogin(c.t, c.crowd))
	}
	await(c.t, "the standbys have the logins", time.Minute, c.caughtUp)
	leads, _ := c.leader()
	starve := func(do string) {
		for _, n := range c.nodes {
			if n != leads {
				c.starve(n, leads, do)
			}
		}
	}
	starve("--append") // no standby gets anything from now on
	for i := range goes {
		must(c.t, goes[i].refresh())
		must(c.t, ended[i].revoke())
	}
	c.command("a secret that is long enough", "client", "create", "late", "--resource=https://late.example.com",
		"--secret-stdin")
	began := time.Now()
	c.killAllBut(leads, "etcd")
	await(c.t, "another leader", time.Minute, func() error { return c.leadsOther(leads) })
	served(c.t, c.crowd, time.Minute)
	took := time.Since(began)
	starve("--delete")
	c.startPatroni(leads)
	await(c.t, "the cluster is whole", 2*time.Minute, c.whole)
	lost, revived := c.count(goes, ended)
	trail := c.trail()
	addLine(c.t, "failures", failures, []string{c.mode(), "the leader is lost with its last commits",
		fmt.Sprintf("%.1f s", took.Seconds()), "", fmt.Sprintf("%d of %d", lost, len(goes)),
		fmt.Sprintf("%d of %d that had just been revoked", revived, len(ended)), trail})
	if lost > 0 || revived != len(ended) || trail == "intact" {
		c.t.Errorf("%d logins are lost whose refresh token was ahead of the database; of %d revocations %d are lost; "+
			"the audit trail is %s", lost, len(ended), revived, trail)
	}
	logs, err := filepath.Glob(filepath.Join(c.folder, "keyturn-*.log"))
	must(c.t, err)
	if out, err := exec.Command("grep", append([]string{"-c", `"kind":"ahead"`}, logs...)...).Output(); err != nil {
		c.t.Errorf("no refresh token was ahead: %s", out)
	}
}
