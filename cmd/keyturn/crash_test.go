package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/server/servertest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// process runs the commands and a server of keyturn as processes, on one database.
type process struct {
	t           *testing.T
	databaseURL string
	master      string
	port, admin string
	running     *exec.Cmd
	environ     []string  // more variables of commands and server
	log         io.Writer // log of the server at debug level; nil: discarded
	hashMemory  string    // of the server; "": the minimum
	wrapper     string    // a shell script that starts the server as "$0" "$@"; "": none
}

func newProcess(t *testing.T, databaseURL string) *process {
	master := filepath.Join(t.TempDir(), "master.key")
	if err := os.WriteFile(master, []byte(strings.Repeat("ab", 32)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &process{
		t:           t,
		databaseURL: databaseURL,
		master:      master,
		port:        storagetest.FreePort(t),
		admin:       storagetest.FreePort(t),
	}
	t.Cleanup(p.kill)
	return p
}

func (p *process) command(args ...string) *exec.Cmd {
	c := exec.Command(os.Args[0], args...)
	c.Args[0] = "keyturn"
	c.Env = append(
		storagetest.Environ(),
		"KEYTURN_DATABASE="+p.databaseURL,
		"KEYTURN_MASTER_KEY_FILE="+p.master,
		"KEYTURN_PASSWORD_HASH_MEMORY=7MiB",
		"KEYTURN_LOG_LEVEL=error",
	)
	c.Env = append(c.Env, p.environ...)
	return c
}

// must runs a command and returns its standard output.
func (p *process) must(stdin string, args ...string) string {
	p.t.Helper()
	c := p.command(args...)
	c.Stdin = strings.NewReader(stdin)
	out, err := c.Output()
	if err != nil {
		if exit, ok := err.(*exec.ExitError); ok {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		p.t.Fatalf("keyturn %v: %v", args, err)
	}
	return string(out)
}

func (p *process) base() string { return "http://127.0.0.1:" + p.port }

// start starts the server and returns how long it took to be ready.
func (p *process) start() time.Duration {
	p.t.Helper()
	began := time.Now()
	p.running = p.command(
		"serve",
		"--issuer",
		p.base(),
		"--listen",
		"127.0.0.1:"+p.port,
		"--admin-listen",
		"127.0.0.1:"+p.admin,
	)
	if p.wrapper != "" {
		p.wrap()
	}
	if p.hashMemory != "" {
		p.running.Env = append(p.running.Env, "KEYTURN_PASSWORD_HASH_MEMORY="+p.hashMemory)
	}
	if p.log != nil {
		p.running.Stderr = p.log
		p.running.Env = append(p.running.Env, "KEYTURN_LOG_LEVEL=debug")
	}
	if err := p.running.Start(); err != nil {
		p.t.Fatal(err)
	}
	if err := waitFor(p.base() + "/readyz"); err != nil {
		p.t.Fatal(err)
	}
	return time.Since(began)
}

// wrap lets a shell start the server under the name keyturn, by which the test binary acts as keyturn.
func (p *process) wrap() {
	name := filepath.Join(p.t.TempDir(), "keyturn")
	if err := os.Symlink(os.Args[0], name); err != nil {
		p.t.Fatal(err)
	}
	wrapped := exec.Command("sh", append([]string{"-c", p.wrapper, name}, p.running.Args[1:]...)...)
	wrapped.Env = p.running.Env
	p.running = wrapped
}

// kill ends the server as a power failure does.
func (p *process) kill() {
	if p.running != nil {
		p.running.Process.Kill()
		p.running.Wait()
		p.running = nil
	}
}

// crowd creates clients and users, and returns them.
func (p *process) crowd() *servertest.Crowd {
	c := &servertest.Crowd{
		Bases:  []string{p.base()},
		App:    servertest.Party{ID: "app", Secret: "a secret of the app"},
		Server: servertest.Party{ID: "api", Secret: "a secret of the api"},
	}
	p.createApp(c.App.Secret)
	p.must(c.Server.Secret, "client", "create", c.Server.ID, "--resource", "https://api.example", "--secret-stdin")
	for i := range 4 {
		u := servertest.Party{ID: fmt.Sprintf("user%d", i), Secret: "correct horse battery staple"}
		p.must(u.Secret, "user", "create", u.ID, "--password-stdin")
		c.Users = append(c.Users, u)
	}
	return c
}

// createApp creates the client app with both grants.
func (p *process) createApp(secret string) {
	p.t.Helper()
	const create = "client create app --grant password --grant refresh_token --scope read --audience " +
		"https://api.example"
	p.must(secret, append(strings.Fields(create), "--secret-stdin")...)
}

// footprint has resources that a server holds.
type footprint struct{ goroutines, files, hashes float64 }

func (p *process) footprint() (f footprint) {
	p.t.Helper()
	res, err := http.Get("http://127.0.0.1:" + p.admin + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		n, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "go_goroutines":
			f.goroutines = n
		case "process_open_fds":
			f.files = n
		case "keyturn_password_hashes_running":
			f.hashes = n
		}
	}
	if f.goroutines == 0 || f.files == 0 {
		p.t.Fatal("the metrics are incomplete")
	}
	return f
}

// returnsTo waits until the server holds about as much as before. The tolerance covers pools, and connections that
// other clients keep open.
func (p *process) returnsTo(before footprint) {
	p.t.Helper()
	http.DefaultClient.CloseIdleConnections()
	var now footprint
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		servertest.CloseIdle()
		if now = p.footprint(); now.hashes == 0 &&
			now.goroutines <= before.goroutines+40 &&
			now.files <= before.files+40 {
			return
		}
	}
	p.t.Errorf("before the load %+v, after it %+v", before, now)
}

// The server is killed under load, again and again. Every answer that a client received holds, and every request
// without an answer can be repeated.
func TestKilledUnderLoad(t *testing.T) {
	eachURL(t, func(t *testing.T, databaseURL string) {
		p := newProcess(t, databaseURL)
		p.must("", "migrate", "up")
		crowd := p.crowd()
		p.start()
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			crowd.Run(ctx, 8)
			close(done)
		}()
		slowest := time.Duration(0)
		rounds := servertest.Times(4, 100)
		for i := range rounds {
			time.Sleep(time.Duration(200+rand.IntN(500)) * time.Millisecond)
			p.must("", "keys", "rotate", "--force", "--reason", fmt.Sprintf("drill %d.", i))
			p.kill()
			slowest = max(slowest, p.start())
		}
		stop()
		<-done
		crowd.Check(t)
		p.must("", "audit", "verify")
		trail := p.must("", "audit", "export")
		for i := range rounds {
			if !strings.Contains(trail, fmt.Sprintf("drill %d.", i)) {
				t.Errorf("rotation %d was acknowledged and is not in the trail", i)
			}
		}
		if file, ok := strings.CutPrefix(databaseURL, "sqlite:"); ok {
			if err := servertest.SQLiteIsWhole(file); err != nil {
				t.Error(err)
			}
		}
		if states := p.must("", "keys", "list", "--json"); strings.Count(states, `"state": "current"`) != 1 {
			t.Error(states)
		}
		t.Logf("slowest restart: %v", slowest.Round(time.Millisecond))
		if slowest > 5*time.Second {
			t.Errorf("a restart took %v", slowest)
		}
		before := p.footprint()
		working, stop := context.WithTimeout(context.Background(), time.Second)
		defer stop()
		crowd.Run(working, 30)
		p.returnsTo(before)
	})
}
