package console_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/console/consoletest"
)

// Everything that the API reads and changes, once. Every answer in these tests is held to admin.yaml.
func TestAPI(t *testing.T) {
	each(t, consoletest.Options{}, func(t *testing.T, s *consoletest.Server) {
		ctx, c := t.Context(), s.OverSocket()
		s.Login("ada")
		s.Login("grace")
		v := consoletest.Must(s.Admin("x").Verifiers().Create(ctx, "orders", "https://api.example", ""))
		if answer, err := http.Get(s.Public + "/.well-known/jwks.json?v=" + v.Handle); err != nil ||
			answer.Body.Close() != nil {
			t.Fatal(err)
		}
		for _, path := range []string{
			"keys", "keys/status", "keys/readiness", "keys/timeline.svg", "keys/current/exposure",
			"keys/timeline.svg?from=2026-01-01T00:00:00Z", "clients", "clients/app", "users", "users/ada",
			"users?prefix=a&role=staff", "grants", "grants?user=ada&client=app&active=true", "verifiers",
			"probe-reports", "audit", "audit?newest=true&type=client.create", "audit?target=ada", "audit/verify",
			"audit/export", "openapi.yaml",
		} {
			want(t, path, c.API("GET", path, ""), http.StatusOK, "")
			want(t, "HEAD "+path, c.API("HEAD", path, ""), http.StatusOK, "")
		}
		change := func(path, body, part string) consoletest.Answer {
			t.Helper()
			a := c.API("POST", path, body, "If-Match: *")
			want(t, path, a, http.StatusOK, part)
			return a
		}
		change("clients/app/disable", disable, `"client_id": "app"`)
		change("clients/app/enable", disable, `"disabled_at": null`)
		change("clients/app/rotate-secret", `{"reason": "x", "keep": "0s"}`, "client_secret")
		change("users/ada/disable", disable, `"username": "ada"`)
		change("users/ada/enable", disable, `"disabled_at": null`)
		change("users/ada/unlock", disable, `"username": "ada"`)
		change("users/ada/roles", `{"reason": "x", "roles": ["boss"]}`, `"boss"`)
		var grants struct {
			Items []struct {
				ID string `json:"id"`
			} `json:"items"`
		}
		listed := c.API("GET", "grants?user=grace", "")
		if err := json.Unmarshal([]byte(listed.Body), &grants); err != nil || len(grants.Items) != 1 {
			t.Fatalf("%v %s", err, listed.Body)
		}
		one := "grants/" + grants.Items[0].ID
		tag := c.API("GET", one, "").Header.Get("ETag")
		// The client was disabled, so the login has ended already.
		want(t, one, c.API("DELETE", one+"?reason=x", "", "If-Match: "+tag), http.StatusOK, "ended_reason")
		change("grants/revoke", `{"reason": "x", "user": "ada"}`, "items")
		change("grants/revoke", `{"reason": "x", "client": "spa"}`, "items")
		change("grants/revoke", `{"reason": "x", "all": true}`, "items")
		change("keys/rotate", `{"dry_run": true, "force": true}`, "lives")
		want(t, "a plan needs nothing else", c.API("POST", "keys/rotate", `{"dry_run": true, "force": true}`), 200,
			"lives")
		change("keys/rotate", `{"reason": "x", "force": true}`, "previous")
		kid := s.Admin("").Keys().In("previous")[0]
		change("keys/"+kid+"/revoke", fmt.Sprintf(`{"reason": "x", "kid": %q, "end_grants": "all"}`, kid),
			"exposed_until")
		change("keys/"+kid+"/revoke", fmt.Sprintf(`{"reason": "x", "kid": %q}`, kid), `"already": true`)
		want(t, "not ready", c.API("POST", "keys/rotate", `{"reason": "x", "when_ready": true}`, "If-Match: *"),
			http.StatusConflict, "refused")
	})
}

// A list has 100 items a page, and all pages together are the whole list, each item once.
func TestPagesOfLists(t *testing.T) {
	each(t, consoletest.Options{}, func(t *testing.T, s *consoletest.Server) {
		ctx, a, c := t.Context(), s.Admin("x"), s.OverSocket()
		var users []admin.ImportedUser
		for i := range 250 {
			users = append(users, admin.ImportedUser{Row: i + 1, Username: fmt.Sprintf("user%03d", i),
				Disabled: i%2 == 1})
		}
		consoletest.Must(a.Users().Import(ctx, users, admin.ImportOptions{}))
		for i := range 130 {
			consoletest.Must(a.Verifiers().Create(ctx, fmt.Sprintf("v%03d", i), "https://api.example", ""))
			consoletest.Must(a.Clients().Create(ctx, admin.ClientSpec{ID: fmt.Sprintf("c/%03d", i),
				Resource: "https://x.example"}))
		}
		all := func(path string) (items, pages int, last string) {
			t.Helper()
			after, seen := "", map[string]bool{}
			for pages = 1; ; pages++ {
				joiner := map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")]
				answer := c.API("GET", path+joiner+"after="+after, "")
				var p struct {
					Items []json.RawMessage `json:"items"`
					Next  *string           `json:"next"`
				}
				if err := json.Unmarshal([]byte(answer.Body), &p); err != nil || len(p.Items) > 100 {
					t.Fatalf("%s: %v, %d items: %.200s", path, err, len(p.Items), answer.Body)
				}
				for _, item := range p.Items {
					if seen[string(item)] {
						t.Fatalf("%s: twice: %s", path, item)
					}
					seen[string(item)] = true
					last = string(item)
				}
				items += len(p.Items)
				if p.Next == nil {
					return items, pages, last
				}
				after = *p.Next
			}
		}
		for path, want := range map[string]int{
			"users":                           253,
			"users?prefix=user1":              100,
			"users?disabled=true":             125,
			"users?role=staff":                3,
			"clients":                         133,
			"verifiers":                       130,
			"audit?type=verifier.create":      130,
			"audit?actor=os:root&newest=true": 250 + 130 + 130 + 6,
		} {
			if n, _, _ := all(path); n != want {
				t.Errorf("%s: %d items, want %d", path, n, want)
			}
		}
		if _, _, last := all("audit?newest=true"); !strings.Contains(last, `"seq": 1,`) {
			t.Errorf("the oldest record is %s", last)
		}
		want(t, "an id with a slash", c.API("GET", "clients/c%2F001", ""), http.StatusOK, `"c/001"`)
		want(t, "a page of it", c.Do("GET", "/clients/c%2F001", nil, ""), http.StatusOK, "Client c/001")
		want(t, "a long list on a page", c.Do("GET", "/users", nil, ""), http.StatusOK, "Next page")
	})
}
