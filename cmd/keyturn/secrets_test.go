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

	"github.com/keyturn/keyturn/storage/storagetest"
)

// Canaries are secrets that are sent everywhere, rightly and wrongly. None is found in a log at debug level, in
// metrics, in an error, in the audit trail, or in the database.
func TestSecretsAreNowhere(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		const databasePassword = "canary-database-password"
		if u, err := url.Parse(databaseURL); err == nil && u.Scheme == "postgres" {
			u.User = url.UserPassword(u.User.Username(), databasePassword) // the cluster of the tests trusts everybody
			databaseURL = u.String()
		}
		p := newProcess(t, databaseURL)
		var seen bytes.Buffer // all that anybody can read
		canaries := map[string]string{
			"master key":              strings.Repeat("ab", 32),
			"database password":       databasePassword,
			"password":                "canary password of alice",
			"wrong password":          "canary wrong password",
			"name that is a password": "canary-typed-as-name",
			"client secret":           "canary-client-secret",
			"wrong client secret":     "canary-wrong-secret",
			"query":                   "canary-in-the-query",
		}
		p.must(
			canaries["client secret"],
			"client",
			"create",
			"app",
			"--grant",
			"password",
			"--grant",
			"refresh_token",
			"--scope",
			"read",
			"--audience",
			"https://api.example",
			"--secret-stdin",
		)
		p.say(&seen, canaries["password"], "user", "create", "alice", "--password-stdin")
		made := p.must("", "client", "create", "api", "--resource", "https://api.example", "--json") // printed once, here
		canaries["secret that was made"] = regexp.MustCompile(`"client_secret": "(.*)"`).FindStringSubmatch(made)[1]

		log := &bytes.Buffer{}
		p.log = log
		p.start()
		tokens := p.post(
			"/token",
			"app",
			canaries["client secret"],
			url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {canaries["password"]}},
		)
		for _, name := range []string{"access_token", "refresh_token"} {
			canaries[name] = regexp.MustCompile(`"` + name + `":"([^"]*)"`).FindStringSubmatch(tokens)[1]
		}
		canaries["Basic header"] = "YXBwOmNhbmFyeS1jbGllbnQtc2VjcmV0"
		p.abuse(&seen, canaries)
		p.say(&seen, canaries["wrong password"], "user", "passwd", "alice", "--password-stdin")
		p.say(&seen, "", "keys", "rotate", "--force", "--reason", "test")
		for _, read := range []string{"audit list --json", "client list --json", "user list --json", "keys list --json",
			"keys status --json", "grant list --json", "config validate --issuer http://127.0.0.1:1"} {
			p.say(&seen, "", strings.Fields(read)...)
		}
		res, err := http.Get("http://127.0.0.1:" + p.admin + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(&seen, res.Body)
		res.Body.Close()
		p.running.Process.Signal(os.Interrupt)
		p.running.Wait()
		p.running = nil
		seen.Write(log.Bytes())
		seen.Write(p.rest(databaseURL))
		for name, canary := range canaries {
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

func around(text, what string) string {
	i := strings.Index(text, what)
	return text[max(0, i-120):min(len(text), i+len(what)+20)]
}

// say runs a command and keeps all that it prints. Whether it fails is not asked here.
func (p *process) say(seen *bytes.Buffer, stdin string, args ...string) {
	c := p.command(args...)
	c.Env = append(c.Env, "KEYTURN_LOG_LEVEL=debug")
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), seen, seen
	c.Run()
}

// post sends a form and returns the body of the answer.
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
	return fmt.Sprint(res.Header) + string(body)
}

// abuse sends every canary to every endpoint in every place, and keeps the answers that are no token answers.
func (p *process) abuse(seen *bytes.Buffer, canaries map[string]string) {
	p.t.Helper()
	for _, canary := range canaries {
		for _, path := range []string{"/token", "/introspect", "/revoke"} {
			for _, form := range []url.Values{
				{"grant_type": {"password"}, "username": {canary}, "password": {canary}, "scope": {canary}, "resource": {canary}},
				{"grant_type": {canary}, "token": {canary}},
				{"grant_type": {"refresh_token"}, "refresh_token": {canary + "x"}, "token": {canary + "x"},
					"client_secret": {canary}},
				{"token": {canary + "x"}, "token_type_hint": {canary}},
				{canary: {canary}}, {"password": {canary, canary}},
			} {
				seen.WriteString(p.post(path, "app", canaries["client secret"], form))
				seen.WriteString(p.post(path, "app", canary+"x", form))
				form.Set("client_id", canary)
				seen.WriteString(p.post(path, "", "", form))
			}
			res, err := http.Get(p.base() + path + "?token=" + url.QueryEscape(canary) + "&password=" + url.QueryEscape(canary))
			if err != nil {
				p.t.Fatal(err)
			}
			res.Body.Close()
			res, err = http.Get(p.base() + "/" + url.PathEscape(canary))
			if err != nil {
				p.t.Fatal(err)
			}
			res.Body.Close()
		}
	}
}

// rest is what lies on disk: the files of SQLite, or a dump of PostgreSQL.
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
