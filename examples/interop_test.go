//go:build interop

package examples_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyturn/keyturn/examples"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// asShipped runs resource servers with unchanged files, and measures how long they trust a revoked key.
var asShipped = flag.Bool(
	"as-shipped",
	false,
	"measure how long resource servers keep a removed key, with their files as they are",
)

// base is a folder that every user may read, with the Node modules in it. binary is the keyturn program.
var base, binary string

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := prepare(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func prepare(m *testing.M) (code int, err error) {
	if base, err = os.MkdirTemp("", "keyturn-interop"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(base)
	modules, err := filepath.Abs("../bin/interop/node_modules")
	if err != nil {
		return 1, err
	}
	if _, err := os.Stat(modules); err != nil {
		return 1, fmt.Errorf("run this by `make interop`, which installs what it needs: %w", err)
	}
	if err := os.Chmod(base, 0o755); err != nil {
		return 1, err
	}
	if err := os.Symlink(modules, filepath.Join(base, "node_modules")); err != nil {
		return 1, err
	}
	binary = filepath.Join(base, "keyturn")
	build := exec.Command("go", "build", "-o", binary, "../cmd/keyturn")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("%w\n%s", err, out)
	}
	return m.Run(), nil
}

// folder makes a folder that servers can read after they have dropped root.
func folder(t *testing.T, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp(base, name)
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func freeAddress(t *testing.T) string { return "127.0.0.1:" + storagetest.FreePort(t) }

// program is a process and its children.
type program struct {
	*exec.Cmd
	out *bytes.Buffer
}

// start runs a command of a README in a shell until the test ends.
func start(t *testing.T, dir, command string, env ...string) *program {
	t.Helper()
	p := &program{exec.Command("bash", "-euc", command), new(bytes.Buffer)}
	p.Dir, p.Env = dir, append(storagetest.Environ(),
		append([]string{"PATH=" + base + ":/usr/bin:/usr/sbin:/bin:" + os.Getenv("PATH"),
			"OAUTHLIB_INSECURE_TRANSPORT=1"}, env...)...)
	p.Stdout, p.Stderr = p.out, p.out
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.WaitDelay = time.Second
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { p.Wait(); close(ended) }()
	t.Cleanup(func() {
		syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
		<-ended
		if t.Failed() {
			t.Logf("%s: %s", command, p.out)
		}
	})
	return p
}

// run runs a command of a README and waits for its end.
func run(t *testing.T, dir, command string, env ...string) (out string, ok bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "bash", "-euc", command)
	c.Dir, c.Env = dir, append(storagetest.Environ(),
		append([]string{"PATH=" + base + ":/usr/bin:/usr/sbin:/bin:" + os.Getenv("PATH"),
			"OAUTHLIB_INSECURE_TRANSPORT=1"}, env...)...)
	text, err := c.CombinedOutput()
	return string(text), err == nil
}

// await polls until asked returns true, and returns how long that took.
func await(t *testing.T, what string, patience time.Duration, asked func() bool) time.Duration {
	t.Helper()
	begun := time.Now()
	for !asked() {
		if time.Since(begun) > patience {
			t.Fatalf("%s: not within %v", what, patience)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return time.Since(begun)
}

func addressFlag(listen string) []string {
	if listen == "" {
		return nil
	}
	return []string{"--address=" + listen}
}

// example writes an example into a folder with `keyturn example`, makes the given replacements, and returns the
// commands of its README.
func (k *keyturn) example(name, listen string, replace ...string) (dir, command string) {
	k.t.Helper()
	dir = folder(k.t, name)
	reader := examples.Reader{Issuer: k.issuer, Audience: k.audience, Listen: listen, Handle: k.handles[name]}
	files, err := examples.Files(name, reader)
	if err != nil {
		k.t.Fatal(err)
	}
	flags := addressFlag(listen)
	if reader.Handle != "" {
		flags = append(flags, "--verifier="+name)
	}
	k.do(append([]string{"example", name, "--audience=" + k.audience, "--dir=" + dir}, flags...)...)
	for i := range replace {
		if i%2 == 0 && !strings.Contains(fmt.Sprint(files), replace[i]) {
			k.t.Fatalf("%s: no %q in it", name, replace[i])
		}
	}
	inHaste := strings.NewReplacer(replace...)
	for _, f := range files {
		if f.Path == "README.md" {
			command = shellBlock.FindStringSubmatch(f.Text)[1]
			for _, line := range keyturnLine.FindAllString(f.Text, -1) {
				k.do(strings.Fields(line)[1:]...)
			}
		}
		path := filepath.Join(dir, f.Path)
		if text, err := os.ReadFile(path); err != nil || string(text) != f.Text {
			k.t.Fatalf("keyturn example has not written %s: %v", path, err)
		}
		if err := os.WriteFile(path, []byte(inHaste.Replace(f.Text)), 0o644); err != nil {
			k.t.Fatal(err)
		}
	}
	if strings.Contains(command, "go run") { // the files that `go mod init` and `go get` would make
		for _, f := range []string{"go.mod", "go.sum"} {
			text, err := os.ReadFile("testdata/go/" + f)
			if err == nil && f == "go.mod" && name == "verify" { // the module here, not a published one
				var here string
				here, err = filepath.Abs("../verify")
				text = fmt.Appendf(text, "require github.com/keyturn/keyturn/verify v0.0.0\n"+
					"replace github.com/keyturn/keyturn/verify => %s\n", here)
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, f), text, 0o644)
			}
			if err != nil {
				k.t.Fatal(err)
			}
		}
	}
	return dir, command
}

var (
	shellBlock  = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")
	keyturnLine = regexp.MustCompile("(?m)^keyturn .*$")
)

// keyturn is a running keyturn with clients and a user.
type keyturn struct {
	t                            *testing.T
	dir, issuer, audience, admin string
	server                       *program
	flags                        []string
	appSecret, apiSecret         string
	username, password, sub      string
	handles                      map[string]string // of examples that are registered verifiers
}

// newKeyturn starts keyturn for a resource, on SQLite or on PostgreSQL. Its clients are app (tokens live for an hour),
// brief (two seconds), dated (typ JWT), other (another audience), and the resource server api.
func newKeyturn(t *testing.T, audience string, postgres bool, flags ...string) *keyturn {
	t.Helper()
	listen, admin := freeAddress(t), freeAddress(t)
	k := &keyturn{
		t:         t,
		dir:       folder(t, "keyturn"),
		issuer:    "http://" + listen,
		admin:     "http://" + admin,
		audience:  audience,
		username:  "alice",
		password:  "correct horse battery staple",
		appSecret: "s:e+c r&e=t% of the application",
		apiSecret: "the-secret-of-the-api-012345",
	}
	database := "sqlite:" + k.dir + "/keyturn.db"
	if postgres {
		database = storagetest.PostgresURL(t)
	}
	k.flags = append([]string{"--listen=" + listen, "--admin-listen=" + admin}, flags...)
	config := fmt.Sprintf("issuer: %s\ndatabase: %q\nmaster_key_file: %s/master.key\n", k.issuer, database, k.dir)
	if err := os.WriteFile(k.dir+"/keyturn.yaml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, ok := run(t, k.dir, "(umask 077; openssl rand -base64 32 >master.key)"); !ok {
		t.Fatal(out)
	}
	grants := []string{"--grant=password", "--grant=refresh_token", "--scope=read write", "--secret-stdin"}
	for _, c := range [][]string{{"app", "--access-ttl=1h", "--audience=" + audience},
		{"brief", "--access-ttl=2s", "--audience=" + audience},
		{"dated", "--token-typ=JWT", "--audience=" + audience}, {"other", "--audience=https://other.example.com"}} {
		k.doWith(k.appSecret, append(append([]string{"client", "create"}, c...), grants...)...)
	}
	k.doWith(k.apiSecret, "client", "create", "api", "--resource="+audience, "--secret-stdin")
	var user struct{ Sub string }
	if err := json.Unmarshal([]byte(k.doWith(k.password, "user", "create", k.username, "--password-stdin",
		"--role=admin", "--json")), &user); err != nil {
		t.Fatal(err)
	}
	k.sub = user.Sub
	k.serve()
	return k
}

func (k *keyturn) serve() {
	k.t.Helper()
	k.server = start(k.t, k.dir, "exec keyturn serve --config keyturn.yaml "+strings.Join(k.flags, " "))
	await(k.t, "keyturn", time.Minute, func() bool {
		r, err := http.Get(k.issuer + "/readyz")
		return err == nil && r.StatusCode == 200
	})
}

func (k *keyturn) stop() { syscall.Kill(-k.server.Process.Pid, syscall.SIGKILL) }

// do runs a keyturn command, which must succeed.
func (k *keyturn) do(args ...string) string { k.t.Helper(); return k.doWith("", args...) }

func (k *keyturn) doWith(input string, args ...string) string {
	k.t.Helper()
	c := exec.Command(binary, append(args, "--config=keyturn.yaml")...)
	var stderr bytes.Buffer
	c.Dir, c.Env, c.Stdin, c.Stderr = k.dir, storagetest.Environ(), strings.NewReader(input), &stderr
	out, err := c.Output()
	if err != nil {
		k.t.Fatalf("keyturn %v: %v %s", args, err, &stderr)
	}
	return string(out)
}

// tokens is a response of the token endpoint.
type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
}

func (k *keyturn) login(client string) (got tokens) {
	k.t.Helper()
	status, body := k.post(
		"/token",
		client,
		k.appSecret,
		url.Values{"grant_type": {"password"}, "username": {k.username}, "password": {k.password}},
	)
	if err := json.Unmarshal(body, &got); err != nil || status != 200 {
		k.t.Fatalf("%d %s", status, body)
	}
	return got
}

func (k *keyturn) post(path, client, secret string, form url.Values) (status int, body []byte) {
	k.t.Helper()
	r, err := http.NewRequest(http.MethodPost, k.issuer+path, strings.NewReader(form.Encode()))
	if err != nil {
		k.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(url.QueryEscape(client), url.QueryEscape(secret))
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return http.StatusServiceUnavailable, nil
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(answer.Body)
	if err != nil {
		k.t.Fatal(err)
	}
	return answer.StatusCode, body
}

// current returns the kid of the current key.
func (k *keyturn) current() string {
	k.t.Helper()
	var status struct{ Current string }
	if err := json.Unmarshal([]byte(k.do("keys", "status", "--json")), &status); err != nil || status.Current == "" {
		k.t.Fatal(err, status)
	}
	return status.Current
}

// rotate makes a planned rotation and waits until the next key signs. The server learns of it a moment later.
func (k *keyturn) rotate(gate ...string) {
	k.t.Helper()
	key := k.current()
	k.do(append([]string{"keys", "rotate", "--reason=drill"}, gate...)...)
	await(k.t, "the rotation", patience, func() bool { return kidOf(k.t, k.login("app").Access) != key })
}

// grants returns the grants that have not ended.
func (k *keyturn) grants() (live []struct{ Generation int }) {
	k.t.Helper()
	var all []struct {
		Generation int
		Over       *string `json:"revoked_reason"`
	}
	if err := json.Unmarshal([]byte(k.do("grant", "list", "--json")), &all); err != nil {
		k.t.Fatal(err)
	}
	for _, g := range all {
		if g.Over == nil {
			live = append(live, struct{ Generation int }{g.Generation})
		}
	}
	return live
}
