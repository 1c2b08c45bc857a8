//go:build interop

package examples_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// guarded is an API that introspects each token.
type guarded struct {
	*httptest.Server
	keyturn    atomic.Pointer[keyturn]
	refuseNext atomic.Bool // refuse one token, as if its key had been revoked
	called     atomic.Int64
}

func newAPI(t *testing.T) *guarded {
	g := &guarded{}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		if r.Method == http.MethodOptions {
			w.Header().Set("Access-Control-Allow-Headers", "Authorization")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		g.called.Add(1)
		k := g.keyturn.Load()
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		_, body := k.post("/introspect", "api", k.apiSecret, url.Values{"token": {token}})
		var told struct {
			Active     bool
			Sub, Scope string
		}
		if err := json.Unmarshal(body, &told); err != nil {
			t.Error(err)
		}
		if !told.Active || g.refuseNext.CompareAndSwap(true, false) {
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"sub":%q,"scope":%q}`, told.Sub, told.Scope)
	}))
	t.Cleanup(g.Close)
	return g
}

// newClient makes an API and a keyturn for it. The client app gets tokens that live for two seconds.
func newClient(t *testing.T, postgres bool, flags ...string) (*keyturn, *guarded) {
	t.Helper()
	g := newAPI(t)
	k := newKeyturn(t, g.URL, postgres, flags...)
	k.do("client", "update", "app", "--access-ttl=2s")
	g.keyturn.Store(k)
	return k, g
}

// plainSecret gives app a secret of letters only, for clients that do not form-encode their Basic credentials.
func (k *keyturn) plainSecret() {
	k.t.Helper()
	k.appSecret = "thesecretoftheapplication"
	k.doWith(k.appSecret, "client", "rotate-secret", "app", "--keep=0s", "--secret-stdin")
}

// person returns the environment variables with which an example logs a user in.
func (k *keyturn) person() []string {
	return []string{"LOGIN_USER=" + k.username, "LOGIN_PASSWORD=" + k.password}
}

func (k *keyturn) revokeAll() {
	k.t.Helper()
	k.do("grant", "revoke", "--user="+k.username, "--reason=test", "--yes")
}

// These programs keep their session in a file. They need the password once, and again after the session has ended.
func TestClientsWithAFile(t *testing.T) {
	for i, c := range []struct {
		name  string
		plain bool
		wrong string // the output at a wrong password
		over  string // the output when the session has ended and there is no password
	}{
		{"x-oauth2", false, "wrong username or password", "logging in again"},
		{"requests-oauthlib", true, "does not accept this user name and password", "Log in"},
		{"authlib", true, "does not accept this user name and password", "Log in"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			k, g := newClient(t, i%2 == 0)
			if c.plain {
				k.plainSecret()
			}
			dir, command := k.example(c.name, "")
			with := func(env ...string) (string, bool) {
				return run(t, dir, command, append(env, "CLIENT_SECRET="+k.appSecret)...)
			}
			wants := func(what string, wantOK bool, want string, env ...string) {
				t.Helper()
				if out, ok := with(env...); ok != wantOK || !strings.Contains(out, want) {
					t.Errorf("%s: %v %s", what, ok, out)
				}
			}
			user, password := "LOGIN_USER="+k.username, "LOGIN_PASSWORD="+k.password
			wants("a wrong password", false, c.wrong, user, "LOGIN_PASSWORD=wrong")
			wants("a login", true, k.sub, user, password)
			if live := k.grants(); len(live) != 1 {
				t.Errorf("%v", live)
			}
			time.Sleep(2100 * time.Millisecond)
			wants("an access token that has expired", true, k.sub)
			time.Sleep(2100 * time.Millisecond)
			wants("again, by the refresh token that came with the last", true, k.sub)
			if live := k.grants(); len(live) != 1 || live[0].Generation < 2 {
				t.Errorf("%v", live)
			}
			k.do("client", "update", "app", "--access-ttl=1h")
			time.Sleep(2100 * time.Millisecond)
			wants("with a token that will last", true, k.sub)
			before := k.grants()[0].Generation
			g.refuseNext.Store(true)
			wants("a token that the API refuses before its time", true, k.sub)
			if live := k.grants(); len(live) != 1 || live[0].Generation != before+1 {
				t.Errorf("%v", live)
			}
			k.revokeAll()
			wants("a session that is over, without a password", false, c.over)
			wants("a session that is over", true, k.sub, user, password)
			if live := k.grants(); len(live) != 1 {
				t.Errorf("%v", live)
			}
		})
	}
}

// These programs keep their session in memory, and call the API at each line of input.
func TestClientsWithAnInput(t *testing.T) {
	for i, name := range []string{"openid-client", "oauth4webapi"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k, _ := newClient(t, i%2 == 0)
			dir, command := k.example(name, "")
			environment := append(k.person(), "CLIENT_SECRET="+k.appSecret)
			out, ok := run(t, dir, "echo | "+command, append(environment, "LOGIN_PASSWORD=wrong")...)
			if ok || !strings.Contains(out, "Wrong username or password.") {
				t.Errorf("%v %s", ok, out)
			}
			s := converse(t, dir, command, environment)
			s.wants("200 ", k.sub)
			time.Sleep(2100 * time.Millisecond)
			s.wants("200 ", k.sub)
			if live := k.grants(); len(live) != 1 || live[0].Generation != 1 {
				t.Errorf("%v", live)
			}
			if ok := s.end(); !ok || len(k.grants()) != 0 {
				t.Errorf("after the logout: %v, %v", ok, k.grants())
			}
			s = converse(t, dir, command, environment)
			s.wants("200 ", k.sub)
			k.revokeAll()
			s.wants("The login has ended. Log in again.")
			if s.end() {
				t.Error("it says that all is well")
			}
		})
	}
}

// conversation is a program that prints one line for each line of input.
type conversation struct {
	t      *testing.T
	cmd    *exec.Cmd
	input  io.WriteCloser
	output *bufio.Scanner
}

func converse(t *testing.T, dir, command string, environment []string) *conversation {
	t.Helper()
	c := exec.Command("bash", "-euc", command)
	c.Dir, c.Env = dir, append(os.Environ(), environment...)
	input, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	c.Stdout, c.Stderr = w, w
	c.WaitDelay = time.Second
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); w.Close() })
	return &conversation{t, c, input, bufio.NewScanner(r)}
}

func (c *conversation) wants(words ...string) {
	c.t.Helper()
	io.WriteString(c.input, "\n")
	if !c.output.Scan() {
		c.t.Fatal("it says nothing more")
	}
	for _, word := range words {
		if !strings.Contains(c.output.Text(), word) {
			c.t.Errorf("%q, without %q", c.output.Text(), word)
		}
	}
}

func (c *conversation) end() (ok bool) {
	c.input.Close()
	go func() {
		for c.output.Scan() { // further output must not block the program
		}
	}()
	return c.cmd.Wait() == nil
}

// The shell client keeps one session in a file, allows several calls at once, and exposes no secret to other users.
func TestCurlClient(t *testing.T) {
	t.Parallel()
	k, g := newClient(t, true)
	dir, _ := k.example("curl", "")
	environment := append(k.person(), "HOME="+dir, "XDG_STATE_HOME=", "CLIENT_SECRET="+k.appSecret)
	wants := func(command string, wantOK bool, want string, env ...string) {
		t.Helper()
		if out, ok := run(t, dir, command, append(environment, env...)...); ok != wantOK ||
			!strings.Contains(out, want) {
			t.Errorf("%s: %v %s", command, ok, out)
		}
	}
	get := "bash client.sh get " + g.URL
	wants(get, false, "Log in first.")
	wants("bash client.sh login", false, "invalid_grant", "LOGIN_PASSWORD=wrong")
	wants("bash client.sh login", true, "")
	wants(get, true, k.sub)
	time.Sleep(2100 * time.Millisecond)
	wants("for i in 1 2 3 4; do "+get+" & done; for i in 1 2 3 4; do wait -n; done", true, k.sub)
	if live := k.grants(); len(live) != 1 || live[0].Generation < 1 {
		t.Errorf("%v", live)
	}
	k.do("client", "update", "app", "--access-ttl=1h")
	wants(get, true, k.sub)
	before := k.grants()[0].Generation
	time.Sleep(2100 * time.Millisecond)
	wants(get, true, k.sub)
	after := k.grants()[0].Generation
	g.refuseNext.Store(true)
	wants("for i in 1 2 3 4; do "+get+" & done; for i in 1 2 3 4; do wait -n; done", true, k.sub)
	if live := k.grants(); len(live) != 1 || live[0].Generation != after+1 || after != before {
		t.Errorf("four calls at once, of which one met a 401: %v, after %d and %d", live, before, after)
	}
	wants("bash client.sh logout", true, "")
	if live := k.grants(); len(live) != 0 {
		t.Errorf("%v", live)
	}
	wants(get, false, "Log in first.")
	wants("bash client.sh login", true, "")
	k.revokeAll()
	wants(get, false, "log in again")
}

// The page runs in three tabs of Chromium: see testdata/browser.test.mjs.
func TestBrowser(t *testing.T) {
	t.Parallel()
	listen := freeAddress(t)
	_, port, _ := net.SplitHostPort(listen)
	k, _ := newClient(t, true, "--cors-origins=http://"+listen)
	dir, command := k.example("browser", listen)
	k.do("client", "update", "page", "--access-ttl=3s")
	start(t, dir, strings.Replace(command, "9000", port, 1))
	await(t, "the page", time.Minute, func() bool { _, err := http.Get("http://127.0.0.1:" + port); return err == nil })
	driver, err := os.ReadFile("testdata/browser.test.mjs")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "browser.test.mjs"), driver, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, ok := run(t, dir, "node browser.test.mjs", append(k.person(), "PAGE_URL=http://"+listen+"/")...)
	if steps := strings.Count(out, "ok: "); !ok || steps != strings.Count(string(driver), "await step(") {
		t.Errorf("%d steps: %s", steps, out)
	}
	t.Log(out)
}
