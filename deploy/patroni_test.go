//go:build deploy

package deploy_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyturn/keyturn/server/servertest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// cluster is three nodes with etcd, Patroni and PostgreSQL, each in a network namespace. HAProxy and two servers of
// keyturn are in another one: one reaches the leader through HAProxy, one has the URL of all nodes.
type cluster struct {
	t       *testing.T
	folder  string
	hub     space
	nodes   []*node
	uid     uint32
	gid     uint32
	keyturn string
	flags   []string // of keyturn's commands
	crowd   *servertest.Crowd
}

type node struct {
	name, address string
	space         space
}

const hubAddress = "10.91.0.1"

func newCluster(t *testing.T, synchronous bool) *cluster {
	t.Helper()
	folder, err := os.MkdirTemp("/dev/shm", "keyturn-patroni-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer os.RemoveAll(folder)
		if t.Failed() { // its logs tell why
			kept := "bin/deploy/" + filepath.Base(t.Name())
			out, err := exec.Command("sh", "-euc", "cd ..; rm -rf "+kept+"; mkdir -p "+kept+"; cp "+folder+"/*.log "+
				kept).CombinedOutput()
			t.Logf("the logs are in %s: %s %v", kept, out, err)
		}
	})
	postgres, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(postgres.Uid)
	gid, _ := strconv.Atoi(postgres.Gid)
	c := &cluster{t: t, folder: folder, hub: newSpace(t, "hub"), uid: uint32(uid), gid: uint32(gid)}
	if err := os.Chown(folder, uid, gid); err != nil {
		t.Fatal(err)
	}
	c.network()
	mode := map[bool]string{true: "on", false: "off"}[synchronous]
	binaries, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(binaries) == 0 {
		t.Fatal("no PostgreSQL")
	}
	for _, n := range c.nodes {
		if err := os.MkdirAll(c.data(n), 0o700); err != nil {
			t.Fatal(err)
		}
		os.Chown(c.data(n), uid, gid)
		c.write("patroni/patroni.yml", n.name+".yml", "NODE", n.name, "ADDRESS", n.address, "SYNCHRONOUS", mode,
			"BIN", binaries[len(binaries)-1], "DATA", c.data(n))
		c.startEtcd(n, "new")
	}
	for _, n := range c.nodes {
		c.startPatroni(n)
	}
	c.write("patroni/haproxy.cfg", "haproxy.cfg", "LISTEN", hubAddress)
	c.start(c.hub, "haproxy", "haproxy", "-f", filepath.Join(folder, "haproxy.cfg"))
	await(t, "all nodes follow a leader", time.Minute, c.whole)
	return c
}

// network joins the nodes by a bridge in the hub.
func (c *cluster) network() {
	c.t.Helper()
	ip := func(args ...string) { c.t.Helper(); run(c.t, ".", "ip", args...) }
	ip("-n", string(c.hub), "link", "add", "br0", "type", "bridge")
	ip("-n", string(c.hub), "addr", "add", hubAddress+"/24", "dev", "br0")
	ip("-n", string(c.hub), "link", "set", "br0", "up")
	for i, name := range []string{"a", "b", "c"} {
		n := &node{name, fmt.Sprintf("10.91.0.1%d", i+1), newSpace(c.t, name)}
		ip("-n", string(c.hub), "link", "add", "to-"+name, "type", "veth",
			"peer", "name", "eth0", "netns", string(n.space))
		ip("-n", string(c.hub), "link", "set", "to-"+name, "master", "br0", "up")
		ip("-n", string(n.space), "addr", "add", n.address+"/24", "dev", "eth0")
		ip("-n", string(n.space), "link", "set", "eth0", "up")
		c.nodes = append(c.nodes, n)
	}
}

func (c *cluster) data(n *node) string { return filepath.Join(c.folder, n.name) }

// write copies a file of this folder, with words replaced, and A, B and C by the addresses.
func (c *cluster) write(from, to string, words ...string) {
	c.t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		c.t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(text), "\n\n") // the comment at the top names the words
	for i := range words {
		if i%2 == 0 {
			words[i] = "@" + words[i] + "@"
		}
	}
	body = strings.NewReplacer(append(words, "@A@", c.nodes[0].address, "@B@", c.nodes[1].address, "@C@",
		c.nodes[2].address)...).Replace(body)
	if err := os.WriteFile(filepath.Join(c.folder, to), []byte(body), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// start starts a program in a namespace, as the user postgres. Its output goes into a file.
func (c *cluster) start(s space, log string, name string, args ...string) *exec.Cmd {
	c.t.Helper()
	out, err := os.OpenFile(filepath.Join(c.folder, log+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		c.t.Fatal(err)
	}
	defer out.Close()
	p := s.command("setpriv", append([]string{"--reuid", fmt.Sprint(c.uid), "--regid", fmt.Sprint(c.gid),
		"--clear-groups", "--", name}, args...)...)
	p.Stdout, p.Stderr, p.Dir = out, out, c.folder
	p.Env = append(storagetest.Environ(), "HOME="+c.folder)
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.Start(); err != nil {
		c.t.Fatal(err)
	}
	go p.Wait()
	return p
}

func (c *cluster) startEtcd(n *node, state string) {
	c.t.Helper()
	peers := ""
	for _, m := range c.nodes {
		peers += fmt.Sprintf("%s=http://%s:2380,", m.name, m.address)
	}
	client, peer := "http://"+n.address+":2379", "http://"+n.address+":2380"
	c.start(n.space, "etcd-"+n.name, "etcd", "--name", n.name, "--data-dir", c.data(n)+"/etcd", "--enable-v2",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", strings.TrimSuffix(peers, ","), "--initial-cluster-state", state)
}

func (c *cluster) startPatroni(n *node) {
	c.t.Helper()
	c.start(n.space, "patroni-"+n.name, "patroni", filepath.Join(c.folder, n.name+".yml"))
}

// kill kills the processes of a node whose names do, or do not, begin with a word.
func (c *cluster) kill(n *node, word string, not bool) {
	c.t.Helper()
	for _, pid := range strings.Fields(run(c.t, ".", "ip", "netns", "pids", string(n.space))) {
		comm, _ := os.ReadFile("/proc/" + pid + "/comm")
		if strings.HasPrefix(string(comm), word) != not {
			id, _ := strconv.Atoi(pid)
			syscall.Kill(id, syscall.SIGKILL)
		}
	}
}

// member is a node as Patroni's API tells.
type member struct {
	Name, Role, State string
}

// members asks any node that answers, but not the given one: a node that is cut off tells what it knew before.
func (c *cluster) members(but *node) (all []member, err error) {
	for _, n := range c.nodes {
		if n == but {
			continue
		}
		client := n.space.client(n.address+":8008", nil)
		client.Timeout = 2 * time.Second
		answer, failed := client.Get("http://patroni/cluster")
		if failed != nil {
			err = failed
			continue
		}
		defer answer.Body.Close()
		var body struct{ Members []member }
		if err = json.NewDecoder(answer.Body).Decode(&body); err == nil {
			return body.Members, nil
		}
	}
	return nil, err
}

// whole returns nil if all nodes run, and one of them leads.
func (c *cluster) whole() error {
	all, err := c.members(nil)
	if err != nil {
		return err
	}
	leaders, running := 0, 0
	for _, m := range all {
		if m.Role == "leader" {
			leaders++
		}
		if m.State == "running" || m.State == "streaming" {
			running++
		}
	}
	if leaders != 1 || running != len(c.nodes) {
		return fmt.Errorf("%+v", all)
	}
	leads, _ := c.roles(all)
	n, err := c.trySQL(leads, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")
	if err == nil && n != strconv.Itoa(len(c.nodes)-1) {
		err = fmt.Errorf("%s standbys follow", n)
	}
	return err
}

// leader returns the node that leads, and another one.
func (c *cluster) leader() (leads, follows *node) {
	c.t.Helper()
	all, err := c.members(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if leads, follows = c.roles(all); leads == nil || follows == nil {
		c.t.Fatalf("no leader: %+v", all)
	}
	return leads, follows
}

// roles returns the node that leads, and another one, if there is one: the synchronous standby first.
func (c *cluster) roles(all []member) (leads, follows *node) {
	for _, m := range all {
		for _, n := range c.nodes {
			switch {
			case n.name == m.Name && m.Role == "leader":
				leads = n
			case n.name == m.Name && (m.Role == "sync_standby" || follows == nil):
				follows = n
			}
		}
	}
	return leads, follows
}

// serve starts two servers of keyturn and makes the parties of a crowd.
func (c *cluster) serve() {
	c.t.Helper()
	c.keyturn = filepath.Join(c.folder, "keyturn")
	build := exec.Command("go", "build", "-o", c.keyturn, "./cmd/keyturn")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		c.t.Fatalf("%s", out)
	}
	leads, _ := c.leader()
	for _, statement := range []string{
		"CREATE ROLE keyturn LOGIN PASSWORD 'pw'",
		"CREATE DATABASE keyturn OWNER keyturn",
	} {
		c.sql(leads, statement)
	}
	var hosts []string
	for _, n := range c.nodes {
		hosts = append(hosts, n.address+":5432")
	}
	master := filepath.Join(c.folder, "master.key")
	if err := os.WriteFile(master, []byte("bm90IGEgc2VjcmV0LCB0aGlydHktdHdvIGJ5dGVzISE=\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	os.Chown(master, int(c.uid), int(c.gid))
	for i, where := range []string{hubAddress + ":5000", strings.Join(hosts, ",")} {
		flags := []string{"--database", "postgres://keyturn:pw@" + where + "/keyturn?sslmode=disable",
			"--allow-insecure-database", "--master-key-file", master, "--anchor-file", c.folder + "/anchor"}
		if i == 1 {
			c.flags = flags
		}
		listen := fmt.Sprintf("127.0.0.1:%d", 8080+i)
		c.start(c.hub, "keyturn-"+strconv.Itoa(i), c.keyturn, append([]string{"serve", "--issuer",
			"http://127.0.0.1:8080", "--listen", listen,
			"--admin-listen", fmt.Sprintf("127.0.0.1:%d", 9080+i)}, flags...)...)
		client := c.hub.client(listen, nil)
		await(c.t, listen+" is ready", 30*time.Second, func() error {
			return answers(client, "http://"+listen+"/readyz")
		})
	}
	c.command("a secret that is long enough", "client", "create", "app", "--grant=password", "--grant=refresh_token",
		"--audience=https://api.example.com", "--scope=read", "--secret-stdin")
	c.command("a secret that is long enough", "client", "create", "api", "--resource=https://api.example.com",
		"--secret-stdin")
	c.command("correct horse battery staple", "user", "create", "alice", "--password-stdin")
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	transport.DialContext = c.hub.dialTo
	c.crowd = &servertest.Crowd{
		Bases:  []string{"http://127.0.0.1:8080", "http://127.0.0.1:8081"},
		App:    servertest.Party{ID: "app", Secret: "a secret that is long enough"},
		Server: servertest.Party{ID: "api", Secret: "a secret that is long enough"},
		Users:  []servertest.Party{{ID: "alice", Secret: "correct horse battery staple"}},
		HTTP:   &http.Client{Transport: transport, Timeout: 10 * time.Second},
		Pause:  10 * time.Millisecond,
	}
}

// command runs a command of keyturn over the URL with all nodes.
func (c *cluster) command(input string, args ...string) string {
	c.t.Helper()
	p := c.hub.command("setpriv", append([]string{"--reuid", fmt.Sprint(c.uid), "--regid", fmt.Sprint(c.gid),
		"--clear-groups", "--", c.keyturn}, append(args, c.flags...)...)...)
	p.Stdin, p.Env = strings.NewReader(input), storagetest.Environ()
	out, err := p.CombinedOutput()
	if err != nil {
		c.t.Fatalf("keyturn %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// sql runs a statement at a node.
func (c *cluster) sql(n *node, statement string) {
	c.t.Helper()
	if _, err := c.trySQL(n, statement); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) trySQL(n *node, statement string) (string, error) {
	p := n.space.command("psql", "-h", c.data(n), "-U", "postgres", "-d", "postgres", "-AtXc", statement)
	p.Env = append(os.Environ(), "PGPASSWORD=the password of the superuser")
	out, err := p.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", statement, err, out)
	}
	return strings.TrimSpace(string(out)), err
}
