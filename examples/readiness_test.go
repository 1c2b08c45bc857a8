//go:build interop

package examples_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage/storagetest"
)

// register registers an example as a verifier under its own name.
func (k *keyturn) register(name string) {
	k.t.Helper()
	var v struct{ Handle string }
	out := k.do("verifier", "create", name, "--resource="+k.audience, "--json")
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		k.t.Fatal(err)
	}
	if k.handles == nil {
		k.handles = map[string]string{}
	}
	k.handles[name] = v.Handle
}

// verdict is a part of the output of keys readiness.
type verdict struct {
	Verdict      string
	Evidence     string
	LastRotation string `json:"last_rotation"`
}

func (k *keyturn) verdicts() map[string]verdict {
	k.t.Helper()
	var raw struct{ Verifiers []json.RawMessage }
	if err := json.Unmarshal([]byte(k.do("keys", "readiness", "--json")), &raw); err != nil {
		k.t.Fatal(err)
	}
	all := map[string]verdict{}
	for _, text := range raw.Verifiers {
		var name struct{ Name string }
		var v verdict
		if err := errors.Join(json.Unmarshal(text, &name), json.Unmarshal(text, &v)); err != nil {
			k.t.Fatal(err)
		}
		all[name.Name] = v
	}
	return all
}

// exit runs a keyturn command and returns its exit code and all its output.
func (k *keyturn) exit(args ...string) (int, string) {
	k.t.Helper()
	c := exec.Command(binary, append(args, "--config=keyturn.yaml")...)
	c.Dir, c.Env = k.dir, storagetest.Environ()
	out, err := c.CombinedOutput()
	var code *exec.ExitError
	if err != nil && !errors.As(err, &code) {
		k.t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), string(out)
}

// Verifiers that poll are ready for each rotation. go-oidc alone keeps its keys for ever: it is stuck, the gate names
// it, and it recovers at the first token of a key that it does not know.
func TestReadinessOfRealVerifiers(t *testing.T) {
	for name, postgres := range map[string]bool{"sqlite": false, "postgres": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKeyturn(t, "https://api.example.com", postgres, "--key-publish-lead=4s", "--jwks-max-age=1s")
			polling := []string{"jose", "pyjwt", "verify"}
			servers := map[string]*asking{}
			for name, replace := range map[string][]string{
				"go-oidc": {"5 * time.Minute", "1000 * time.Hour"},
				"jose":    {"poll = 15_000", "poll = 2_000"},
				"pyjwt":   {"POLL = 15", "POLL = 2"},
				"verify":  nil,
			} {
				k.register(name)
				servers[name] = &asking{
					resourceServer: resourceServer{name: name, inHaste: replace},
					t:              t,
					keyturn:        k,
					listen:         freeAddress(t),
				}
				servers[name].startServer()
			}
			accept := func(when string) {
				t.Helper()
				token := k.login("app").Access
				for _, s := range servers {
					await(t, s.name+" "+when, patience, func() bool {
						status, _, _ := s.ask(token)
						return status == http.StatusOK
					})
				}
			}
			becomes := func(verdict string, names ...string) {
				t.Helper()
				await(t, strings.Join(names, " ")+" "+verdict, 2*time.Minute, func() bool {
					all := k.verdicts()
					for _, name := range names {
						if all[name].Verdict != verdict {
							return false
						}
					}
					return true
				})
			}
			accept("at first")
			becomes("ready", append(polling, "go-oidc")...)
			k.rotate("--when-ready")
			accept("after the first rotation")
			becomes("ready", polling...)
			becomes("stuck", "go-oidc")
			code, out := k.exit("keys", "readiness", "--check")
			if code != 2 || !strings.Contains(out, "never came back") {
				t.Errorf("%d %s", code, out)
			}
			code, out = k.exit("keys", "rotate", "--when-ready", "--reason=drill")
			if code != 4 || !strings.Contains(out, "next key: go-oidc (stuck): ") {
				t.Errorf("%d %s", code, out)
			}
			k.rotate("--when-ready", "--except=go-oidc")
			accept("after the second rotation")
			becomes("ready", polling...)
			becomes("waiting", "go-oidc") // it has the key; keyturn cannot know that it is alone behind its address
			for name, v := range k.verdicts() {
				t.Logf("%s: %+v", name, v)
			}
			if v := k.verdicts()["go-oidc"]; !strings.Contains(v.LastRotation, "it came back") {
				t.Errorf("go-oidc: %+v", v)
			}
		})
	}
}
