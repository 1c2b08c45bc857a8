package main

import (
	"crypto/rsa"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/probe/probetest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// parallelTests is the number of tests that run at once. It exceeds the number of CPUs because the tests mostly wait
// for processes.
const parallelTests = "8"

// stopping runs the tests with temporary files in memory, and stops their PostgreSQL.
type stopping struct{ *testing.M }

func (m stopping) Run() int {
	remove, err := useMemory()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer remove()
	defer storagetest.Stop()
	return m.M.Run()
}

func TestMain(m *testing.M) {
	os.Setenv("GORACE", "atexit_sleep_ms=10") // with the race detector programs wait a second before they exit
	if filepath.Base(os.Args[0]) != "keyturn" {
		os.Setenv("KEYTURN_STOP_DELAY", "0s")    // no load balancer drains the servers
		flag.Set("test.parallel", parallelTests) // -parallel on the command line overrides it
	}
	testscript.Main(stopping{m}, map[string]func(){"keyturn": main})
}

// TestScripts runs testdata/script/*.txtar on both databases. A script has an empty database in KEYTURN_DATABASE, a
// master key in KEYTURN_MASTER_KEY_FILE, two free ports in $PORT and $ADMIN_PORT, and `ready` to wait for a server.
func TestScripts(t *testing.T) {
	eachURL(t, func(t *testing.T, databaseURL string) {
		testscript.Run(t, testscript.Params{
			Dir: "testdata/script",
			Setup: func(e *testscript.Env) error {
				// Each script has its own database, of the same kind as the URL of this subtest.
				own := "sqlite:" + filepath.Join(e.WorkDir, "keyturn.db")
				if strings.HasPrefix(databaseURL, "postgres") {
					own = storagetest.PostgresURL(t)
				}
				e.Setenv("GORACE", os.Getenv("GORACE"))
				e.Setenv("KEYTURN_STOP_DELAY", os.Getenv("KEYTURN_STOP_DELAY"))
				e.Setenv("KEYTURN_DATABASE", own)
				e.Setenv("KIND", strings.SplitN(own, ":", 2)[0])
				master := filepath.Join(e.WorkDir, "master.key")
				e.Setenv("KEYTURN_MASTER_KEY_FILE", master)
				e.Setenv("KEYTURN_PASSWORD_HASH_MEMORY", "7MiB") // the race detector makes hashing slow
				e.Setenv("PORT", storagetest.FreePort(t))
				e.Setenv("ADMIN_PORT", storagetest.FreePort(t))
				return os.WriteFile(master, []byte(strings.Repeat("ab", 32)+"\n"), 0o600)
			},
			Cmds: map[string]func(*testscript.TestScript, bool, []string){
				"ready":       ready,
				"status":      status,
				"setenv-from": setenvFrom,
				"age":         age,
				"unage":       unage,
				"newer":       newer,
				"api":         startAPI,
				"older":       func(ts *testscript.TestScript, _ bool, _ []string) { older(ts) },
				"disagree":    func(ts *testscript.TestScript, _ bool, args []string) { disagree(ts, args[0]) },
				"as-nobody":   asNobody,
				"cut-audit":   cutAudit,
				"tamper":      func(ts *testscript.TestScript, _ bool, args []string) { tamper(ts, args...) },
			},
			Condition: func(name string) (bool, error) {
				if name == keys.SignerOpenSSL {
					return name == keystest.Signer, nil
				}
				return strings.HasPrefix(databaseURL, name), nil
			},
			RequireExplicitExec: true,
			RequireUniqueNames:  true,
		})
	})
}

// eachURL runs a test on both databases, in parallel with other tests.
func eachURL(t *testing.T, test func(t *testing.T, databaseURL string)) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		t.Parallel()
		test(t, databaseURL)
	})
}

// ready waits until a URL answers 200.
func ready(ts *testscript.TestScript, _ bool, args []string) {
	if err := waitFor(args[0]); err != nil {
		ts.Fatalf("%v", err)
	}
}

func waitFor(url string) error {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if r, err := http.Get(url); err == nil {
			if r.Body.Close(); r.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
	return fmt.Errorf("%s does not answer 200", url)
}

// status runs a program and requires an exit code: status 4 keyturn keys rotate.
func status(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if exit, ok := err.(*exec.ExitError); ok {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// age sets the last heartbeat of the database to an hour ago.
func age(ts *testscript.TestScript, _ bool, _ []string) {
	tamper(
		ts,
		fmt.Sprintf(`UPDATE meta SET value = '%015d' WHERE name = 'heartbeat'`, time.Now().Add(-time.Hour).UnixMilli()),
	)
}

// unage sets the last heartbeat of the database to now.
func unage(ts *testscript.TestScript, _ bool, _ []string) {
	tamper(ts, fmt.Sprintf(`UPDATE meta SET value = '%015d' WHERE name = 'heartbeat'`, time.Now().UnixMilli()))
}

// cutAudit truncates the audit trail and adapts its head: cut-audit 3.
func cutAudit(ts *testscript.TestScript, _ bool, args []string) {
	tamper(
		ts,
		`DELETE FROM audit WHERE seq > `+args[0],
		`UPDATE audit_head SET seq = `+args[0]+`, hash = (SELECT hash FROM audit WHERE seq = `+args[0]+`)`,
	)
}

// tamper runs statements on the database of a script, without keyturn.
func tamper(ts *testscript.TestScript, statements ...string) {
	driver, source, _ := strings.Cut(ts.Getenv("KEYTURN_DATABASE"), ":")
	if driver == "postgres" {
		source = ts.Getenv("KEYTURN_DATABASE")
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		ts.Fatalf("%v", err)
	}
	defer db.Close()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			ts.Fatalf("%v", err)
		}
	}
}

// newer gives an SQLite database the schema version of a future keyturn.
func newer(ts *testscript.TestScript, _ bool, args []string) {
	db, err := sql.Open("sqlite", ts.MkAbs(args[0]))
	if err != nil {
		ts.Fatalf("%v", err)
	}
	defer db.Close()
	if _, err := db.Exec(`INSERT INTO schema_version (version_id, is_applied) VALUES (999, 1)`); err != nil {
		ts.Fatalf("%v", err)
	}
}

// older takes the newest migration back.
func older(ts *testscript.TestScript) {
	tamper(ts, `DROP TABLE admins`, `DROP TABLE admin_links`, `DROP TABLE admin_sessions`,
		`DELETE FROM schema_version WHERE version_id = 8`)
}

// startAPI starts a resource server that verifies the tokens of the server of the script for an audience, with a fault
// of probetest, and sets $API to its URL.
func startAPI(ts *testscript.TestScript, _ bool, args []string) {
	server := newAPI("http://127.0.0.1:"+ts.Getenv("PORT"), args[0], "", strings.Join(args[1:], " "))
	ts.Defer(server.Close)
	ts.Setenv("API", server.URL)
}

func newAPI(issuer, audience, scope, fault string) *httptest.Server {
	return httptest.NewServer(&probetest.Verifier{
		Issuer:   issuer,
		Resource: audience,
		Scope:    scope,
		Keys: func(kid string) *rsa.PublicKey {
			response, err := http.Get(issuer + "/.well-known/jwks.json")
			if err != nil {
				return nil
			}
			defer response.Body.Close()
			var set jose.JSONWebKeySet
			if err := json.NewDecoder(response.Body).Decode(&set); err != nil {
				return nil
			}
			for _, key := range set.Key(kid) {
				return key.Key.(*rsa.PublicKey)
			}
			return nil
		},
		Ended: func(string) bool { return false },
		Fault: fault,
		Now:   time.Now,
	})
}

// disagree requires that serve, config validate and doctor refuse a configuration for a reason, with exit code 78.
func disagree(ts *testscript.TestScript, reason string) {
	for _, command := range [][]string{{"serve"}, {"config", "validate"}, {"doctor"}} {
		status(ts, false, append([]string{"78", "keyturn"}, command...))
		if text := ts.ReadFile("stdout") + ts.ReadFile("stderr"); !regexp.MustCompile(reason).MatchString(text) {
			ts.Fatalf("%v says nothing of %q:\n%s", command, reason, text)
		}
		if regexp.MustCompile(`ok +configuration`).MatchString(ts.ReadFile("stdout")) {
			ts.Fatalf("%v also says that the configuration is right", command)
		}
	}
}

// asNobody runs keyturn as a user without rights and requires an error. The tests may run as root, who can write to any
// file.
func asNobody(ts *testscript.TestScript, _ bool, args []string) {
	args = append([]string{"keyturn"}, args...)
	if os.Getuid() == 0 {
		// The user nobody cannot reach the test binary and the folder of the script: copy one and open the other.
		self, err := os.Executable()
		if err == nil {
			err = os.Chmod(ts.MkAbs("."), 0o755)
		}
		for folder := filepath.Dir(ts.MkAbs(".")); err == nil && folder != os.TempDir() &&
			folder != "/"; folder = filepath.Dir(folder) {
			err = os.Chmod(folder, 0o755)
		}
		binary := filepath.Join(ts.MkAbs("."), "keyturn")
		if err == nil {
			err = exec.Command("cp", self, binary).Run()
		}
		if err != nil {
			ts.Fatalf("%v", err)
		}
		args = append([]string{"setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", binary}, args[1:]...)
	}
	if err := ts.Exec(args[0], args[1:]...); err == nil {
		ts.Fatalf("it did not fail")
	}
}

// setenvFrom sets a variable to the match of a group of a regular expression in a file: setenv-from SECRET stdout
// '"client_secret": "(.*)"'.
func setenvFrom(ts *testscript.TestScript, _ bool, args []string) {
	found := regexp.MustCompile(args[2]).FindStringSubmatch(ts.ReadFile(args[1]))
	if found == nil {
		ts.Fatalf("%s is not in %s", args[2], args[1])
	}
	ts.Setenv(args[0], found[1])
}
