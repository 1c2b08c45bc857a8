//go:build deploy

package deploy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/server/servertest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// installation is a database and what runs on it.
type installation struct {
	t        *testing.T
	folder   string
	database string // URL
	crowd    *servertest.Crowd
}

// upgrades are the columns of the table of upgrades.
var upgrades = []string{"database", "from", "logins", "audit trail", "backup"}

// What the last release has left goes on with this version: logins, keys that were rotated and revoked, the audit
// trail, a backup. On PostgreSQL both versions serve at the same time.
func TestRunUpgrade(t *testing.T) {
	folder := t.TempDir()
	before, now := filepath.Join(folder, "before"), filepath.Join(folder, "now")
	release := buildRelease(t, before)
	run(t, "..", "go", "build", "-o", now, "./cmd/keyturn")
	for name, database := range map[string]string{
		"sqlite":   "sqlite:" + filepath.Join(folder, "keyturn.db"),
		"postgres": storagetest.PostgresURL(t),
	} {
		t.Run(name, func(t *testing.T) {
			i := &installation{t: t, folder: t.TempDir(), database: database}
			old, stopOld := i.serve(before)
			i.fill(before, old)
			goes, ended := newLogin(t, i.crowd), newLogin(t, i.crowd)
			must(t, goes.refresh())
			must(t, ended.revoke())
			if name == "sqlite" {
				backup := filepath.Join(i.folder, "backup.db")
				stop := i.load()
				i.command(before, "", "backup", backup)
				time.Sleep(time.Second)
				stopOld() // an SQLite file has one server
				base, _ := i.serve(now)
				stop()
				i.crowd.Bases = []string{base}
				i.crowd.Check(t)
				i.goOn(now, base, goes, ended)
				i.restored("sqlite:"+filepath.Join(i.folder, "restored.db"), now, goes, backup)
			} else {
				dump, err := exec.Command("pg_dump", database).Output()
				must(t, err)
				i.share(now, old, stopOld, goes, ended)
				empty := storagetest.PostgresURL(t)
				load := exec.Command("psql", "-qX", "-v", "ON_ERROR_STOP=1", empty)
				load.Stdin = bytes.NewReader(dump)
				if out, err := load.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				i.restored(empty, now, goes)
			}
			addLine(t, "upgrades", upgrades, []string{name, release, "go on", "intact", "restores"})
		})
	}
}

// share lets both versions serve on one database, under load, and then the new one alone.
func (i *installation) share(now, old string, stopOld func(), goes, ended *login) {
	i.t.Helper()
	stop := i.load()
	base, _ := i.serve(now) // migrates the schema under the old version
	stop()
	i.crowd.Bases = []string{old, base}
	stop = i.load()
	for range 3 {
		for _, goes.base = range i.crowd.Bases {
			must(i.t, goes.refresh())
		}
	}
	time.Sleep(time.Second)
	stop()
	i.crowd.Check(i.t)
	stopOld()
	i.goOn(now, base, goes, ended)
}

// load lets clients work, until stop.
func (i *installation) load() (stop func()) {
	working, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { i.crowd.Run(working, 2) })
	stop = func() {
		cancel()
		all.Wait()
	}
	i.t.Cleanup(stop)
	return stop
}

// goOn checks that nobody is logged out or in, and that the new version works with what the old one left.
func (i *installation) goOn(now, base string, goes, ended *login) {
	i.t.Helper()
	i.crowd.Bases = []string{base}
	goes.base, ended.base = base, base
	must(i.t, goes.refresh())
	if ended.goesOn(i.t) {
		i.t.Error("a login that was revoked goes on after the upgrade")
	}
	served(i.t, i.crowd, 10*time.Second)
	i.command(now, "", "keys", "rotate", "--force", "--reason=drill")
	i.command(now, "", "audit", "verify")
}

// restored checks that the new version restores what the old one had saved: from a file, or in the database already.
// People can log in; earlier logins have ended.
func (i *installation) restored(database, now string, earlier *login, backup ...string) {
	i.t.Helper()
	r := &installation{t: i.t, folder: i.folder, database: database, crowd: i.crowd}
	anchor := "--anchor-file=" + i.folder + "/restored.anchor"
	restore := append([]string{"restore"}, backup...)
	r.command(now, "", append(restore, "--confirm", "--reason=drill", anchor)...)
	r.command(now, "", "audit", "verify", anchor)
	base, stop := r.serve(now)
	defer stop()
	r.crowd.Bases, earlier.base = []string{base}, base
	served(r.t, r.crowd, 10*time.Second)
	if earlier.goesOn(r.t) {
		r.t.Error("a login from before the restore goes on")
	}
}

// buildRelease builds the newest release that .ci/releases lists, from its commit.
func buildRelease(t *testing.T, binary string) string {
	t.Helper()
	text, err := os.ReadFile("../.ci/releases")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	version, commit, _ := strings.Cut(lines[len(lines)-1], " ")
	source := filepath.Join(t.TempDir(), "source")
	run(t, "..", "git", "clone", "-q", "--no-hardlinks", "--no-checkout", ".", source)
	run(t, source, "git", "checkout", "-q", commit)
	run(t, source, "go", "build", "-o", binary, "./cmd/keyturn")
	return version
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (i *installation) flags() []string {
	flags := []string{"--database", i.database, "--master-key-file", filepath.Join(i.folder, "master.key")}
	return flags
}

// command runs a command of a version.
func (i *installation) command(binary, input string, args ...string) string {
	i.t.Helper()
	c := exec.Command(binary, append(args, i.flags()...)...)
	c.Stdin, c.Env, c.Dir = strings.NewReader(input), storagetest.Environ(), i.folder
	out, err := c.CombinedOutput()
	if err != nil {
		i.t.Fatalf("%s %v: %v\n%s", binary, args, err, out)
	}
	return string(out)
}

// serve starts a server of a version.
func (i *installation) serve(binary string) (base string, stop func()) {
	i.t.Helper()
	master := filepath.Join(i.folder, "master.key")
	if _, err := os.Stat(master); err != nil {
		must(i.t, os.WriteFile(master, []byte("bm90IGEgc2VjcmV0LCB0aGlydHktdHdvIGJ5dGVzISE=\n"), 0o600))
	}
	listen, admin := freeAddress(i.t), freeAddress(i.t)
	log, err := os.Create(filepath.Join(i.folder, filepath.Base(binary)+".log"))
	must(i.t, err)
	c := exec.Command(binary, append([]string{"serve", "--issuer", "http://127.0.0.1:8080", "--listen", listen,
		"--admin-listen", admin, "--stop-delay", "0s"}, i.flags()...)...)
	c.Stderr, c.Env, c.Dir = log, storagetest.Environ(), i.folder
	must(i.t, c.Start())
	var once sync.Once
	stop = func() {
		once.Do(func() {
			c.Process.Signal(os.Interrupt)
			c.Wait()
			log.Close()
		})
	}
	i.t.Cleanup(stop)
	await(i.t, "it is ready", time.Minute, func() error {
		err := answers(patient, "http://"+admin+"/readyz")
		if err != nil {
			text, _ := os.ReadFile(log.Name())
			err = fmt.Errorf("%w\n%s", err, text)
		}
		return err
	})
	return "http://" + listen, stop
}

// freeAddress returns an address of loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

// fill makes parties, rotates the keys, and revokes one.
func (i *installation) fill(binary, base string) {
	i.t.Helper()
	const secret, password = "a secret that is long enough", "correct horse battery staple"
	i.command(binary, secret, "client", "create", "app", "--grant=password", "--grant=refresh_token",
		"--audience=https://api.example.com", "--scope=read", "--secret-stdin")
	i.command(binary, secret, "client", "create", "api", "--resource=https://api.example.com", "--secret-stdin")
	i.command(binary, password, "user", "create", "alice", "--password-stdin")
	i.crowd = &servertest.Crowd{
		Bases:  []string{base},
		App:    servertest.Party{ID: "app", Secret: secret},
		Server: servertest.Party{ID: "api", Secret: secret},
		Users:  []servertest.Party{{ID: "alice", Secret: password}},
		Pause:  5 * time.Millisecond,
	}
	i.command(binary, "", "keys", "rotate", "--force", "--reason=drill")
	var status struct{ Current string }
	must(i.t, json.Unmarshal([]byte(i.command(binary, "", "keys", "status", "--json")), &status))
	i.command(binary, "", "keys", "revoke", status.Current, "--reason=drill", "--yes")
	served(i.t, i.crowd, 20*time.Second)
}
