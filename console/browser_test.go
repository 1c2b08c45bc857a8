//go:build browser

package console_test

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/console/consoletest"
	"github.com/keyturn/keyturn/probe/probetest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// Chromium does every job of the console, with scripts and without, on both databases. axe-core finds nothing, no page
// breaks its own policy, and bin/console gets a picture of each page.
func TestBrowser(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal(err)
	}
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		s := consoletest.Open(t, databaseURL, consoletest.Options{})
		furnish(t, s)
		order := map[string]any{
			"base":     s.URL,
			"tools":    filepath.Join(root, "bin", "console-tools"),
			"chromium": chromium,
			"links": map[string]string{
				"alice": s.Link("alice", admin.RoleKeyOperator),
				"bob":   s.Link("bob", admin.RoleKeyOperator),
				"carol": s.Link("carol", admin.RoleViewer),
			},
			"victims": map[string]string{"scripts": "eve", "plain": "mallory"},
		}
		s.SignedIn("eve", admin.RoleOperator)
		s.SignedIn("mallory", admin.RoleAuditor)
		if strings.HasPrefix(databaseURL, "sqlite:") {
			shots := filepath.Join(root, "bin", "console")
			if err := os.MkdirAll(shots, 0o755); err != nil {
				t.Fatal(err)
			}
			order["shots"] = shots
		}
		text := consoletest.Must(json.Marshal(order))
		ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
		defer cancel()
		node := exec.CommandContext(ctx, "node", "testdata/browser/console.mjs")
		node.Env = append(os.Environ(), "KEYTURN_BROWSER="+string(text))
		out, err := node.CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// furnish gives the pages something to show: logins, a few rotations, verifiers, and the report of a probe.
func furnish(t *testing.T, s *consoletest.Server) {
	t.Helper()
	ctx, a := context.Background(), s.Admin("test")
	for _, user := range []string{"ada", "ada", "grace", "grace", "grace", "mary", "mary"} {
		s.Login(user)
	}
	for _, reason := range []string{"yearly", "a new team"} {
		by := s.Admin(reason)
		consoletest.Must(by.Keys().Rotate(ctx, admin.Gate{Force: true}))
		s.Login("ada")
	}
	for name, note := range map[string]string{"orders": "ask the team of orders", "billing": "", "search": "ask Mary"} {
		v := consoletest.Must(a.Verifiers().Create(ctx, name, "https://"+name+".example", note))
		if name == "search" {
			continue
		}
		answer := consoletest.Must(http.Get(s.Public + "/.well-known/jwks.json?v=" + v.Handle))
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
	}
	api := httptest.NewServer(&probetest.Verifier{
		Issuer:   s.Public,
		Resource: "https://api.example",
		Keys:     func(kid string) *rsa.PublicKey { return published(s.Public, kid) },
		Ended:    func(string) bool { return false },
		Fault:    "ignores exp",
		Now:      time.Now,
	})
	defer api.Close()
	consoletest.Must(a.Clients().Update(ctx, "api", func(spec *admin.ClientSpec) { spec.ProbeOrigin = api.URL }))
	if _, err := a.Probes().Run(ctx, admin.ProbeSpec{
		ID:     "api",
		URL:    api.URL + "/",
		Pause:  time.Millisecond,
		Settle: time.Millisecond,
	}); err != nil {
		t.Fatal(err)
	}
}

// published returns a key of the JWKS; nil if it is not there.
func published(issuer, kid string) *rsa.PublicKey {
	answer, err := http.Get(issuer + "/.well-known/jwks.json")
	if err != nil {
		return nil
	}
	defer answer.Body.Close()
	var set jose.JSONWebKeySet
	if err := json.NewDecoder(answer.Body).Decode(&set); err != nil {
		return nil
	}
	for _, key := range set.Key(kid) {
		return key.Key.(*rsa.PublicKey)
	}
	return nil
}
