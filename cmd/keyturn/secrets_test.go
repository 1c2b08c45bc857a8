package main

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// canaries are secrets by what they are.
type canaries map[string]string

// A secret that is sent anywhere, in the right or in a wrong place, appears in no log at debug level, metrics, error,
// audit trail or database.
func TestSecretsAreNowhere(t *testing.T) {
	eachURL(t, func(t *testing.T, databaseURL string) {
		const databasePassword = "canary-database-password"
		if u, err := url.Parse(databaseURL); err == nil && u.Scheme == "postgres" {
			u.User = url.UserPassword(u.User.Username(), databasePassword) // the test cluster trusts everybody
			databaseURL = u.String()
		}
		p := newProcess(t, databaseURL)
		secrets := canaries{
			"master key":              strings.Repeat("ab", 32),
			"database password":       databasePassword,
			"password":                "canary password of alice",
			"wrong password":          "canary wrong password",
			"name that is a password": "canary-typed-as-name",
			"client secret":           "canary-client-secret",
			"wrong client secret":     "canary-wrong-secret",
			"query":                   "canary-in-the-query",
		}
		var seen bytes.Buffer // everything that anybody can read
		p.useSecrets(&seen, secrets)
		seen.Write(p.rest(databaseURL))
		for name, canary := range secrets {
			if canary == "" || strings.Contains(seen.String(), canary) {
				t.Errorf("%s is found: %s", name, around(seen.String(), canary))
			}
		}
		if seen.Len() < 20_000 {
			t.Errorf("only %d bytes were searched", seen.Len())
		}
		if private := regexp.MustCompile(`PRIVATE KEY|"d":|"p":|"q":`).FindString(seen.String()); private != "" {
			t.Errorf("%s is found", private)
		}
	})
}

// useSecrets runs a server and commands with secrets, adds the secrets that keyturn makes, and collects all output.
func (p *process) useSecrets(seen *bytes.Buffer, secrets canaries) {
	p.t.Helper()
	p.createApp(secrets["client secret"])
	p.say(seen, secrets["password"], "user", "create", "alice", "--password-stdin")
	made := p.must("", "client", "create", "api", "--resource", "https://api.example", "--json") // shown once, here
	secrets["secret that was made"] = regexp.MustCompile(`"client_secret": "(.*)"`).FindStringSubmatch(made)[1]
	log := &bytes.Buffer{}
	p.log = log
	p.start()
	login := url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {secrets["password"]}}
	tokens := p.post("/token", "app", secrets["client secret"], login)
	for _, name := range []string{"access_token", "refresh_token"} {
		secrets[name] = regexp.MustCompile(`"` + name + `":"([^"]*)"`).FindStringSubmatch(tokens)[1]
	}
	secrets["Basic header"] = "YXBwOmNhbmFyeS1jbGllbnQtc2VjcmV0"
	p.abuse(seen, secrets)
	p.say(seen, secrets["wrong password"], "user", "passwd", "alice", "--password-stdin")
	p.say(seen, "", "keys", "rotate", "--force", "--reason", "test")
	for _, read := range []string{
		"audit list --json",
		"client list --json",
		"user list --json",
		"keys list --json",
		"keys status --json",
		"grant list --json",
		"config validate --issuer http://127.0.0.1:1",
	} {
		p.say(seen, "", strings.Fields(read)...)
	}
	res, err := http.Get("http://127.0.0.1:" + p.admin + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	io.Copy(seen, res.Body)
	res.Body.Close()
	p.running.Process.Signal(os.Interrupt)
	p.running.Wait()
	p.running = nil
	seen.Write(log.Bytes())
}

func around(text, what string) string {
	i := strings.Index(text, what)
	return text[max(0, i-120):min(len(text), i+len(what)+20)]
}

// say runs a command and collects its output. It may fail.
func (p *process) say(seen *bytes.Buffer, stdin string, args ...string) {
	c := p.command(args...)
	c.Env = append(c.Env, "KEYTURN_LOG_LEVEL=debug")
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), seen, seen
	c.Run()
}

// post sends a form and returns status, header and body of the answer.
func (p *process) post(path, client, secret string, form url.Values) string {
	p.t.Helper()
	r, err := http.NewRequest(http.MethodPost, p.base()+path, strings.NewReader(form.Encode()))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if client != "" {
		r.SetBasicAuth(client, secret)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return fmt.Sprint(res.Status, " ", res.Header, string(body))
}

// abuse sends every canary to every endpoint in every place, and collects the answers except those with tokens.
func (p *process) abuse(seen *bytes.Buffer, secrets canaries) {
	p.t.Helper()
	for _, canary := range secrets {
		for _, path := range []string{"/token", "/introspect", "/revoke"} {
			for _, form := range abusiveForms(canary) {
				seen.WriteString(p.post(path, "app", secrets["client secret"], form))
				seen.WriteString(p.post(path, "app", canary+"x", form))
				form.Set("client_id", canary)
				seen.WriteString(p.post(path, "", "", form))
			}
			query := url.Values{"token": {canary}, "password": {canary}}
			for _, target := range []string{path + "?" + query.Encode(), "/" + url.PathEscape(canary)} {
				res, err := http.Get(p.base() + target)
				if err != nil {
					p.t.Fatal(err)
				}
				res.Body.Close()
			}
		}
	}
}

// abusiveForms have a canary in every place of a form.
func abusiveForms(canary string) []url.Values {
	return []url.Values{
		{
			"grant_type": {"password"},
			"username":   {canary},
			"password":   {canary},
			"scope":      {canary},
			"resource":   {canary},
		},
		{"grant_type": {canary}, "token": {canary}},
		{
			"grant_type":    {"refresh_token"},
			"refresh_token": {canary + "x"},
			"token":         {canary + "x"},
			"client_secret": {canary},
		},
		{"token": {canary + "x"}, "token_type_hint": {canary}},
		{canary: {canary}},
		{"password": {canary, canary}},
	}
}

// rest is the content of the disk: the files of SQLite, or a dump of PostgreSQL.
func (p *process) rest(databaseURL string) (all []byte) {
	p.t.Helper()
	file, ok := strings.CutPrefix(databaseURL, "sqlite:")
	if !ok {
		out, err := exec.Command("pg_dump", "--inserts", databaseURL).Output()
		if err != nil {
			p.t.Fatal(err)
		}
		return out
	}
	db, err := sql.Open("sqlite", file)
	if err != nil {
		p.t.Fatal(err)
	}
	db.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`)
	db.Close()
	files, err := filepath.Glob(file + "*")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			p.t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}
