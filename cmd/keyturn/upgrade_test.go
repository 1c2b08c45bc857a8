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

// nextVersion builds a keyturn whose schema is one step ahead of this one's.
func nextVersion(t *testing.T, folder string) string {
	t.Helper()
	source := filepath.Join(folder, "next")
	for _, part := range []string{"go.mod", "go.sum", "openapi.go", "openapi.yaml", "api", "storage", "keys", "server", "cmd/keyturn", "examples"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(source, part)), 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cp", "-r", "../../"+part, filepath.Join(source, part)).CombinedOutput(); err != nil {
			t.Fatal(string(out))
		}
	}
	const change = "-- +goose Up\nALTER TABLE grants ADD COLUMN of_the_next_version BIGINT NOT NULL DEFAULT 0;\nALTER TABLE clients ADD COLUMN of_the_next_version TEXT NOT NULL DEFAULT '';\n"
	if err := os.WriteFile(filepath.Join(source, "storage/schema/00999_next.sql"), []byte(change), 0o644); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(source, "storage/schema/*.sql"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(files[len(files)-1], filepath.Join(source, "storage/schema", fmt.Sprintf("%05d_next.sql", len(files)))); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(folder, "keyturn-next")
	build := exec.Command("go", "build", "-o", binary, "./cmd/keyturn")
	build.Dir, build.Env = source, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatal(string(out))
	}
	return binary
}

// replicaProcess is a server of some version, as a process.
type replicaProcess struct {
	*exec.Cmd
	base string
	out  *bytes.Buffer
}

// Under load, a server of the next version takes its place beside one of this version, which goes on, and then stops. No request fails but those
// whose connection was reset. One that may not migrate waits until another has.
func TestRollingUpgrade(t *testing.T) {
	databaseURL := storagetest.PostgresURL(t)
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
	environment := append(os.Environ(), "KEYTURN_DATABASE="+databaseURL, "KEYTURN_MASTER_KEY_FILE="+master, "KEYTURN_STOP_DELAY=1s", "KEYTURN_PASSWORD_HASH_MEMORY=7MiB")
	command := func(binary string, input string, args ...string) {
		t.Helper()
		c := exec.Command(binary, args...)
		c.Args[0], c.Env, c.Stdin = "keyturn", environment, strings.NewReader(input)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", args, out)
		}
	}
	const secret, password = "the secret of the client", "correct horse battery staple"
	issuer := "http://127.0.0.1:1"
	serve := func(binary string, more ...string) *replicaProcess {
		t.Helper()
		port := freePort(t)
		r := &replicaProcess{exec.Command(binary, append([]string{"serve", "--issuer", issuer, "--listen", "127.0.0.1:" + port, "--admin-listen", "127.0.0.1:0"}, more...)...),
			"http://127.0.0.1:" + port, &bytes.Buffer{}}
		r.Args[0], r.Env, r.Stdout, r.Stderr = "keyturn", environment, r.out, r.out
		if err := r.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Process.Kill() })
		return r
	}
	command(this, secret, "client", "create", "app", "--grant", "password", "--grant", "refresh_token", "--audience", "https://api.example", "--secret-stdin")
	command(this, password, "user", "create", "alice", "--password-stdin")
	old := serve(this)
	if err := waitFor(old.base + "/readyz"); err != nil {
		t.Fatal(err, old.out)
	}

	var where atomic.Pointer[string]
	where.Store(&old.base)
	var done, reset atomic.Int64
	post := func(form url.Values) (string, error) {
		base := *where.Load()
		r, err := http.NewRequest(http.MethodPost, base+"/token", strings.NewReader(form.Encode()))
		if err != nil {
			return "", err
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth("app", strings.ReplaceAll(secret, " ", "+"))
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return "", err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err == nil && answer.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", base, answer.StatusCode, body)
		}
		var tokens struct {
			Refresh string `json:"refresh_token"`
		}
		if err == nil {
			err = json.Unmarshal(body, &tokens)
		}
		done.Add(1)
		return tokens.Refresh, err
	}
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			token, err := post(url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {password}})
			if err != nil {
				t.Error(err)
			}
			for {
				select {
				case <-stop:
					return
				default:
				}
				newer, err := post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
				var network net.Error
				switch {
				case err == nil:
					token = newer
				case errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET):
					reset.Add(1) // the same token again
					time.Sleep(10 * time.Millisecond)
				default:
					t.Error(err)
				}
			}
		})
	}
	more := func() {
		t.Helper()
		for from, begun := done.Load(), time.Now(); done.Load() < from+100; time.Sleep(5 * time.Millisecond) {
			if time.Since(begun) > 30*time.Second {
				t.Fatal("no requests are answered")
			}
		}
	}
	more()
	waiting := serve(next, "--migrate=false")
	more()
	if r, err := http.Get(waiting.base + "/readyz"); err != nil || r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("it does not wait for the schema: %v %v", r, err)
	}
	new := serve(next)
	for _, r := range []*replicaProcess{new, waiting} {
		if err := waitFor(r.base + "/readyz"); err != nil {
			t.Fatal(err, r.out)
		}
	}
	more() // on the old one, whose schema has gone on under it
	where.Store(&new.base)
	if err := old.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	more()
	if err := old.Wait(); err != nil || time.Since(begun) > 10*time.Second {
		t.Errorf("the old one ends with %v after %v: %s", err, time.Since(begun), old.out)
	}
	more()
	close(stop)
	load.Wait()
	t.Logf("%d requests, %d connections reset", done.Load(), reset.Load())
	refused := exec.Command(this, "serve", "--issuer", issuer)
	refused.Args[0], refused.Env = "keyturn", environment
	if out, err := refused.CombinedOutput(); err == nil || !strings.Contains(string(out), "run a newer keyturn") {
		t.Errorf("the version of before takes a newer schema: %s", out)
	}
}
