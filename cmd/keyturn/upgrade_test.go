package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage/storagetest"
)

// nextVersion builds a keyturn whose schema is one step ahead. An overlay adds that step to the source, so that the
// build cache has most of the packages.
func nextVersion(t *testing.T, folder string) string {
	t.Helper()
	schema, err := filepath.Abs("../../storage/schema")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(schema, "*.sql"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has no migrations: %v", schema, err)
	}
	const change = "-- +goose Up\n" +
		"ALTER TABLE grants ADD COLUMN of_the_next_version BIGINT NOT NULL DEFAULT 0;\n" +
		"ALTER TABLE clients ADD COLUMN of_the_next_version TEXT NOT NULL DEFAULT '';\n"
	step, overlay := filepath.Join(folder, "next.sql"), filepath.Join(folder, "overlay.json")
	replace, err := json.Marshal(map[string]map[string]string{
		"Replace": {filepath.Join(schema, fmt.Sprintf("%05d_next.sql", len(files)+1)): step},
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{step: []byte(change), overlay: replace} {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	binary := filepath.Join(folder, "keyturn-next")
	build := exec.Command("go", "build", "-overlay", overlay, "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	return binary
}

const upgradeSecret, upgradePassword = "the secret of the client", "correct horse battery staple"

// upgrade has replicas of several versions on one database, as processes, and clients that keep refreshing.
type upgrade struct {
	t           *testing.T
	environment []string
	where       atomic.Pointer[string] // the replica that clients use
	done, reset atomic.Int64           // answered requests, and reset connections
	stop        chan struct{}
	load        sync.WaitGroup
}

// replicaProcess is a server of one version.
type replicaProcess struct {
	*exec.Cmd
	base string
	out  *bytes.Buffer
}

func (u *upgrade) command(binary, input string, args ...string) {
	u.t.Helper()
	c := exec.Command(binary, args...)
	c.Args[0], c.Env, c.Stdin = "keyturn", u.environment, strings.NewReader(input)
	if out, err := c.CombinedOutput(); err != nil {
		u.t.Fatalf("%v: %s", args, out)
	}
}

func (u *upgrade) serve(binary string, more ...string) *replicaProcess {
	u.t.Helper()
	port := storagetest.FreePort(u.t)
	line := "serve --issuer http://127.0.0.1:1 --admin-listen 127.0.0.1:0 --listen 127.0.0.1:" + port
	args := append(strings.Fields(line), more...)
	r := &replicaProcess{exec.Command(binary, args...), "http://127.0.0.1:" + port, &bytes.Buffer{}}
	r.Args[0], r.Env, r.Stdout, r.Stderr = "keyturn", u.environment, r.out, r.out
	if err := r.Start(); err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { r.Process.Kill() })
	return r
}

// post sends a token request and returns the refresh token of the answer, which must be 200.
func (u *upgrade) post(form url.Values) (string, error) {
	base := *u.where.Load()
	r, err := http.NewRequest(http.MethodPost, base+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("app", strings.ReplaceAll(upgradeSecret, " ", "+"))
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		u.t.Errorf("%s: %d %s", base, answer.StatusCode, body)
	}
	var tokens struct {
		Refresh string `json:"refresh_token"`
	}
	if err == nil {
		err = json.Unmarshal(body, &tokens)
	}
	u.done.Add(1)
	return tokens.Refresh, err
}

// refreshes logs in and keeps refreshing until the load stops.
func (u *upgrade) refreshes() {
	token, err := u.post(url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {upgradePassword}})
	if err != nil {
		u.t.Error(err)
	}
	for {
		select {
		case <-u.stop:
			return
		default:
		}
		newer, err := u.post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
		var network net.Error
		switch {
		case err == nil:
			token = newer
		case errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET):
			u.reset.Add(1) // the same token again
			time.Sleep(10 * time.Millisecond)
		default:
			u.t.Error(err)
		}
	}
}

// more waits for a hundred more answers.
func (u *upgrade) more() {
	u.t.Helper()
	for from, begun := u.done.Load(), time.Now(); u.done.Load() < from+100; time.Sleep(5 * time.Millisecond) {
		if time.Since(begun) > 30*time.Second {
			u.t.Fatal("no requests are answered")
		}
	}
}

// newUpgrade prepares a database with a client and a user, by this version.
func newUpgrade(t *testing.T, this, master string) *upgrade {
	t.Helper()
	u := &upgrade{t: t, stop: make(chan struct{})}
	u.environment = append(
		storagetest.Environ(),
		"KEYTURN_DATABASE="+storagetest.PostgresURL(t),
		"KEYTURN_MASTER_KEY_FILE="+master,
		"KEYTURN_STOP_DELAY=1s",
		"KEYTURN_PASSWORD_HASH_MEMORY=7MiB",
	)
	const create = "client create app --grant password --grant refresh_token --audience https://api.example " +
		"--secret-stdin"
	u.command(this, upgradeSecret, strings.Fields(create)...)
	u.command(this, upgradePassword, "user", "create", "alice", "--password-stdin")
	return u
}

// mustBeReady waits for a replica.
func (u *upgrade) mustBeReady(r *replicaProcess) {
	u.t.Helper()
	if err := waitFor(r.base + "/readyz"); err != nil {
		u.t.Fatal(err, r.out)
	}
}

// Under load, a server of the next version migrates the database beside a server of this version, which continues and
// then stops. No request fails except by a reset connection. A server that may not migrate waits for the migration.
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	master := filepath.Join(folder, "master.key")
	if err := os.WriteFile(master, []byte(strings.Repeat("ab", 32)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	next := nextVersion(t, folder)
	this, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	u := newUpgrade(t, this, master)
	old := u.serve(this)
	u.mustBeReady(old)
	u.where.Store(&old.base)
	for range 4 {
		u.load.Go(u.refreshes)
	}
	u.more()
	waiting := u.serve(next, "--migrate=false")
	u.more()
	if r, err := http.Get(waiting.base + "/readyz"); err != nil || r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("it does not wait for the schema: %v %v", r, err)
	}
	new := u.serve(next)
	u.mustBeReady(new)
	u.mustBeReady(waiting)
	u.more() // on the old server, after the migration
	u.where.Store(&new.base)
	u.stopUnderLoad(old)
	u.more()
	close(u.stop)
	u.load.Wait()
	t.Logf("%d requests, %d connections reset", u.done.Load(), u.reset.Load())
	refused := exec.Command(this, "serve", "--issuer", "http://127.0.0.1:1")
	refused.Args[0], refused.Env = "keyturn", u.environment
	if out, err := refused.CombinedOutput(); err == nil || !strings.Contains(string(out), "run a newer keyturn") {
		t.Errorf("this version accepts a newer schema: %s", out)
	}
}

// stopUnderLoad stops a replica while others answer.
func (u *upgrade) stopUnderLoad(old *replicaProcess) {
	u.t.Helper()
	if err := old.Process.Signal(syscall.SIGTERM); err != nil {
		u.t.Fatal(err)
	}
	begun := time.Now()
	u.more()
	if err := old.Wait(); err != nil || time.Since(begun) > 10*time.Second {
		u.t.Errorf("the old server ends with %v after %v: %s", err, time.Since(begun), old.out)
	}
}
