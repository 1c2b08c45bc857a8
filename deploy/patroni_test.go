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
	t           *testing.T
	folder      string
	hub         space
	nodes       []*node
	uid         uint32
	gid         uint32
	keyturn     string
	flags       []string // of keyturn's commands, which have the URL with all nodes
	synchronous bool
	crowd       *servertest.Crowd
}

type node struct {
	name, address string
	space         space
}

const hubAddress = "10.91.0.1"

func newCluster(t *testing.T, synchronous bool) *cluster {
	t.Helper()
	left, err := filepath.Glob("/dev/shm/keyturn-patroni-*") // by a run that was killed
	must(t, err)
	for _, folder := range left {
		must(t, os.RemoveAll(folder))
	}
	folder, err := os.MkdirTemp("/dev/shm", "keyturn-patroni-")
	must(t, err)
	t.Cleanup(func() {
		defer func() {
			if err := os.RemoveAll(folder); err != nil {
				t.Error(err)
			}
		}()
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
	c := &cluster{t: t, folder: folder, hub: newSpace(t, "hub"), uid: uint32(uid), gid: uint32(gid),
		synchronous: synchronous}
	if err := os.Chown(folder, uid, gid); err != nil {
		t.Fatal(err)
	}
	c.network()
	t.Cleanup(c.stop)
	for _, n := range c.nodes {
		if err := os.MkdirAll(c.data(n), 0o700); err != nil {
			t.Fatal(err)
		}
		os.Chown(c.data(n), uid, gid)
		c.configure(n)
		c.startEtcd(n, "new")
	}
	for _, n := range c.nodes {
		c.startPatroni(n)
	}
	haproxy := filepath.Join(folder, "haproxy.cfg")
	c.write(c.page("sed -e 's|@LISTEN@|")[0], "/etc/haproxy/haproxy.cfg", haproxy)
	c.start(c.hub, "haproxy", "haproxy", "-f", haproxy)
	await(t, "all nodes follow a leader", 2*time.Minute, c.whole)
	return c
}

// stop stops PostgreSQL, so that it leaves nothing in shared memory. It kills children that do not end in five seconds.
func (c *cluster) stop() {
	for _, n := range c.nodes {
		c.killAll(n, "patroni")
		text, err := os.ReadFile(filepath.Join(c.data(n), "postgres", "postmaster.pid"))
		pid, invalid := strconv.Atoi(strings.Split(string(text), "\n")[0])
		if err != nil || invalid != nil {
			continue // it is stopped already
		}
		syscall.Kill(pid, syscall.SIGQUIT)
		for end := time.Now().Add(15 * time.Second); syscall.Kill(pid, 0) == nil && time.Now().Before(end); {
			time.Sleep(20 * time.Millisecond)
		}
	}
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

// page returns commands of docs/deployments.md. The page is about the node a; its addresses are those of this cluster.
func (c *cluster) page(begin string) []string {
	c.t.Helper()
	return pageCommands(c.t, "High availability", begin)
}

// pageFolder is where the page has the data of a node.
const pageFolder = "/var/lib/keyturn-patroni"

// configure writes the configuration of a node, as the page says.
func (c *cluster) configure(n *node) {
	c.t.Helper()
	binaries, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(binaries) == 0 {
		c.t.Fatal("no PostgreSQL")
	}
	mode := map[bool]string{true: "on", false: "off"}[c.synchronous]
	c.write(c.page("sed -e 's|@NODE@|")[0], "@NODE@|a|", "@NODE@|"+n.name+"|", "@ADDRESS@|"+c.nodes[0].address,
		"@ADDRESS@|"+n.address, "|on|", "|"+mode+"|", "/usr/lib/postgresql/15/bin", binaries[len(binaries)-1],
		pageFolder, c.data(n), "/etc/patroni/a.yml", filepath.Join(c.folder, n.name+".yml"))
}

// write runs a command of the page that writes a file, with words replaced.
func (c *cluster) write(command string, words ...string) {
	c.t.Helper()
	command = strings.NewReplacer(words...).Replace(command)
	if strings.Contains(command, "/etc/") {
		c.t.Fatalf("the command would write to this machine: %s", command)
	}
	run(c.t, "patroni", "sh", "-euc", command)
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

// startEtcd starts etcd as the page says. state is whether the cluster is new.
func (c *cluster) startEtcd(n *node, state string) {
	c.t.Helper()
	_, command, _ := strings.Cut(c.page("setpriv --reuid postgres --regid postgres --clear-groups etcd ")[0], "groups ")
	args := strings.Fields(strings.NewReplacer("--name a ", "--name "+n.name+" ", pageFolder, c.data(n),
		"urls http://"+c.nodes[0].address, "urls http://"+n.address, "state new", "state "+state).Replace(command))
	c.start(n.space, "etcd-"+n.name, args[0], args[1:]...)
}

func (c *cluster) startPatroni(n *node) {
	c.t.Helper()
	c.start(n.space, "patroni-"+n.name, "patroni", filepath.Join(c.folder, n.name+".yml"))
}

// killAll kills the processes of a node whose names begin with a word.
func (c *cluster) killAll(n *node, word string) {
	c.t.Helper()
	c.killIf(n, func(name string) bool { return strings.HasPrefix(name, word) })
}

// killAllBut kills the other processes of a node.
func (c *cluster) killAllBut(n *node, word string) {
	c.t.Helper()
	c.killIf(n, func(name string) bool { return !strings.HasPrefix(name, word) })
}

func (c *cluster) killIf(n *node, hit func(name string) bool) {
	c.t.Helper()
	for _, pid := range n.space.pids() {
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && hit(string(name)) {
			syscall.Kill(pid, syscall.SIGKILL)
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
	leaders, running, synchronous := 0, 0, 0
	for _, m := range all {
		if m.Role == "leader" {
			leaders++
		}
		if m.Role == "sync_standby" {
			synchronous++
		}
		if m.State == "running" || m.State == "streaming" {
			running++
		}
	}
	if leaders != 1 || running != len(c.nodes) || c.synchronous && synchronous != 1 {
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
	for _, command := range c.page("psql -h ") {
		p := c.hub.command("sh", "-euc", c.page("export PGPASSWORD=")[0]+"; "+strings.Replace(command, "LEADER",
			leads.address, 1))
		if out, err := p.CombinedOutput(); err != nil {
			c.t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	master := filepath.Join(c.folder, "master.key")
	must(c.t, os.WriteFile(master, []byte("bm90IGEgc2VjcmV0LCB0aGlydHktdHdvIGJ5dGVzISE=\n"), 0o600))
	must(c.t, os.Chown(master, int(c.uid), int(c.gid)))
	for i, command := range c.page("keyturn serve ") {
		listen := fmt.Sprintf("127.0.0.1:%d", 8080+i)
		command = strings.NewReplacer("keyturn serve", c.keyturn+" serve", "master.key", master).Replace(command)
		c.start(c.hub, "keyturn-"+strconv.Itoa(i), "sh", "-euc", fmt.Sprintf("exec %s --listen %s --admin-listen "+
			"127.0.0.1:%d --anchor-file %s/anchor", command, listen, 9080+i, c.folder))
		client := c.hub.client(listen, nil)
		await(c.t, listen+" is ready", time.Minute, func() error {
			return answers(client, "http://"+listen+"/readyz")
		})
		_, database, _ := strings.Cut(command, "--database '")
		database, _, _ = strings.Cut(database, "'")
		c.flags = []string{"--database", database, "--allow-insecure-database", "--master-key-file", master,
			"--anchor-file", c.folder + "/anchor"}
	}
	c.command("a secret that is long enough", "client", "create", "app", "--grant=password", "--grant=refresh_token",
		"--audience=https://api.example.com", "--scope=read", "--secret-stdin")
	c.command("a secret that is long enough", "client", "create", "api", "--resource=https://api.example.com",
		"--secret-stdin")
	c.command("correct horse battery staple", "user", "create", "alice", "--password-stdin")
	c.newCrowd()
}

// newCrowd makes clients without a history.
func (c *cluster) newCrowd() {
	if c.crowd != nil {
		c.crowd.HTTP.CloseIdleConnections()
	}
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
func (c *cluster) command(input string, args ...string) {
	c.t.Helper()
	must(c.t, c.try(input, args...))
}

func (c *cluster) try(input string, args ...string) error {
	p := c.hub.command("setpriv", append([]string{"--reuid", fmt.Sprint(c.uid), "--regid", fmt.Sprint(c.gid),
		"--clear-groups", "--", c.keyturn}, append(args, c.flags...)...)...)
	p.Stdin, p.Env = strings.NewReader(input), storagetest.Environ()
	out, err := p.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("keyturn %v: %w\n%s", args, err, out)
	}
	return err
}

// trySQL runs a statement at a node and returns its answer.
func (c *cluster) trySQL(n *node, statement string) (string, error) {
	p := n.space.command("psql", "-h", c.data(n), "-U", "postgres", "-d", "postgres", "-AtXc", statement)
	p.Env = append(os.Environ(), "PGPASSWORD=the password of the superuser")
	out, err := p.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", statement, err, out)
	}
	return strings.TrimSpace(string(out)), err
}
