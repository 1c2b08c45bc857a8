//go:build interop

package examples_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// probeReport is the output of keyturn probe that the table is made of.
type probeReport struct {
	Stopped  string
	Requests int
	Results  []struct {
		ID, Got, Expected, Weight, Note string
		Red                             bool
		Status                          int
	}
}

// row formats what a probe found as a row of docs/probe.md.
func (r probeReport) row(name string) string {
	var must, should, other []string
	for _, result := range r.Results {
		switch {
		case result.Red && result.Weight == "must":
			must = append(must, result.ID)
		case result.Expected == "either" && result.Got == "accepted":
			other = append(other, result.ID)
		case result.Expected != "either" && result.Got != result.Expected && result.Got != "failed":
			should = append(should, result.ID)
		case result.Got == "failed":
			other = append(other, fmt.Sprintf("%s: %d", result.ID, result.Status))
		}
	}
	cell := func(ids []string) string {
		if len(ids) == 0 {
			return "–"
		}
		return strings.Join(ids, ", ")
	}
	return fmt.Sprintf("| %s | %s | %s | %s |", name, cell(must), cell(should), cell(other))
}

// probeTable is the part of docs/probe.md that the test writes.
var probeTable = regexp.MustCompile(`(?s)<!-- probes -->\n.*<!-- end -->`)

// TestProbes probes each resource server of the examples, and three others. The table in docs/probe.md says what each
// accepts; -update writes it.
func TestProbes(t *testing.T) {
	var mu sync.Mutex
	rows := map[string]string{}
	t.Run("each", func(t *testing.T) {
		for i, r := range resourceServers {
			if r.name == "curl" || r.example != "" { // a script, and a server that differs in its cache alone
				continue
			}
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				k := newProbed(t, i%2 == 0)
				s := &asking{resourceServer: r, t: t, keyturn: k, listen: freeAddress(t)}
				s.startServer()
				report := k.probe(s.listen, r.scope)
				mu.Lock()
				rows[r.name] = report.row(r.name)
				mu.Unlock()
				if r.name == "verify" {
					k.probeRevocation(s)
				}
			})
		}
		for name, begin := range map[string]func(*keyturn) string{
			"express-jwt":  func(k *keyturn) string { return k.startNode("express-jwt") },
			"@hapi/jwt":    func(k *keyturn) string { return k.startNode("hapi-jwt") },
			"oauth2-proxy": (*keyturn).startOAuth2Proxy,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				k := newProbed(t, true)
				report := k.probe(begin(k), "")
				mu.Lock()
				rows[name] = report.row(name)
				mu.Unlock()
			})
		}
	})
	if len(rows) != len(resourceServers)-2+3 {
		t.Fatalf("%d servers were probed", len(rows))
	}
	compareTable(t, rows)
}

// compareTable holds the table of docs/probe.md to what was found.
func compareTable(t *testing.T, rows map[string]string) {
	t.Helper()
	var names []string
	for name := range rows {
		names = append(names, name)
	}
	slices.Sort(names)
	text := "<!-- probes -->\n| software | not as it must be | better refused | accepted, or failed, as may be |\n" +
		"|---|---|---|---|\n"
	for _, name := range names {
		text += rows[name] + "\n"
	}
	text += "<!-- end -->"
	t.Log("\n" + text)
	page, err := os.ReadFile("../docs/probe.md")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		filled := probeTable.ReplaceAllLiteralString(string(page), text)
		if err := os.WriteFile("../docs/probe.md", []byte(filled), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got := probeTable.FindString(string(page)); got != text {
		t.Errorf("docs/probe.md has\n%s\nfound\n%s", got, text)
	}
}

// newProbed starts a keyturn whose next key can be probed after two seconds.
func newProbed(t *testing.T, postgres bool) *keyturn {
	t.Helper()
	return newKeyturn(t, "https://api.example.com", postgres, "--key-publish-lead=2s", "--jwks-max-age=1s",
		"--status-list=on", "--openid-configuration-alias=true")
}

// probe probes an API of the resource server api.
func (k *keyturn) probe(listen, scope string) (report probeReport) {
	k.t.Helper()
	code, out := 0, ""
	await(k.t, "the next key", time.Minute, func() bool {
		code, out = k.exit("probe", "api", "--url=http://"+listen+"/", "--scope="+scope, "--next", "--with-endless",
			"--json")
		return code != 4
	})
	begin := strings.IndexByte(out, '{')
	if begin < 0 || json.Unmarshal([]byte(out[begin:]), &report) != nil || report.Stopped != "" ||
		report.Requests > 80 {
		k.t.Fatalf("%d %s", code, out)
	}
	return report
}

// probeRevocation measures how long a verifier that polls the status lists accepts the token of an ended login.
func (k *keyturn) probeRevocation(s *asking) {
	k.t.Helper()
	var report struct {
		Revocation struct {
			Refused bool
			Seconds float64
		}
	}
	code, out := k.exit("probe", "api", "--url=http://"+s.listen+"/", "--scope="+s.scope, "--revocation", "--json")
	err := json.Unmarshal([]byte(out[max(strings.IndexByte(out, '{'), 0):]), &report)
	k.t.Logf("%s refused the token of an ended login after %.1f s", s.name, report.Revocation.Seconds)
	if err != nil || code != 0 || !report.Revocation.Refused || report.Revocation.Seconds > arrives.Seconds()+2 {
		k.t.Errorf("%d %v %s", code, err, out)
	}
}

// startNode starts a resource server of testdata/probes, and returns its address.
func (k *keyturn) startNode(name string) (listen string) {
	k.t.Helper()
	listen = freeAddress(k.t)
	text, err := os.ReadFile("testdata/probes/" + name + ".mjs")
	dir := folder(k.t, name)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "server.mjs"), text, 0o644)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	_, port, _ := strings.Cut(listen, ":")
	start(k.t, dir, "exec node server.mjs "+k.issuer+" "+k.audience+" "+port)
	await(k.t, name, time.Minute, func() bool {
		r, err := http.Get("http://" + listen + "/")
		if err == nil {
			r.Body.Close()
		}
		return err == nil
	})
	return listen
}
