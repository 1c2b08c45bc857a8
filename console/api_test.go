package console_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/console/consoletest"
	"github.com/keyturn/keyturn/storage/storagetest"
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

// Two operators at once: the second gets 412 with who was first, at the API and on the page, and nothing of it is done.
func TestTwoOperators(t *testing.T) {
	each(t, consoletest.Options{}, func(t *testing.T, s *consoletest.Server) {
		alice, bob := s.SignedIn("alice", admin.RoleKeyOperator), s.SignedIn("bob", admin.RoleKeyOperator)
		for _, path := range []string{"clients/app", "users/ada", "keys"} {
			tag := bob.API("GET", path, "").Header.Get("ETag")
			change := map[string]string{"clients/app": "clients/app/disable", "users/ada": "users/ada/disable",
				"keys": "keys/rotate"}[path]
			body := map[string]string{"keys": `{"reason": "first", "force": true}`}[path]
			if body == "" {
				body = `{"reason": "first"}`
			}
			first := alice.API("POST", change, body, "If-Match: "+tag)
			want(t, change, first, http.StatusOK, "")
			second := bob.API("POST", change, strings.Replace(body, "first", "second", 1), "If-Match: "+tag)
			want(t, change+" again", second, http.StatusPreconditionFailed, `"actor": "admin:alice"`)
			want(t, change+" again", second, http.StatusPreconditionFailed, `"reason": "first"`)
			form := url.Values{"reason": {"second"}, "revision": {strings.Trim(tag, `"`)}, "gate": {"force"}}
			page := bob.Do("POST", "/"+change, form, "")
			want(t, "page "+change, page, http.StatusPreconditionFailed, "admin:alice")
			if tag := first.Header.Get("ETag"); path != "keys" {
				want(t, "with the new tag", bob.API("POST", strings.Replace(change, "disable", "enable", 1),
					`{"reason": "x"}`, "If-Match: "+tag), http.StatusOK, "")
			}
		}
		var n [2]int
		var mu sync.Mutex
		var all sync.WaitGroup
		tag := bob.API("GET", "keys", "").Header.Get("ETag")
		for range 6 {
			all.Go(func() {
				a := bob.API("POST", "keys/rotate", `{"reason": "race", "force": true}`, "If-Match: "+tag)
				mu.Lock()
				defer mu.Unlock()
				switch a.Status {
				case http.StatusOK:
					n[0]++
				case http.StatusPreconditionFailed:
					n[1]++
				}
			})
		}
		all.Wait()
		if n != [2]int{1, 5} {
			t.Errorf("%d rotations and %d refusals, of 6 at once with one ETag", n[0], n[1])
		}
	})
}

// A POST with an Idempotency-Key may be repeated. The key belongs to one request of one caller.
func TestIdempotencyKeys(t *testing.T) {
	each(t, consoletest.Options{}, func(t *testing.T, s *consoletest.Server) {
		alice, bob := s.SignedIn("alice", admin.RoleKeyOperator), s.SignedIn("bob", admin.RoleKeyOperator)
		key := "Idempotency-Key: aaaaaaaaaaaaaaaaaaaaaaaa"
		rotate := `{"reason": "once", "force": true}`
		tag := "If-Match: " + alice.API("GET", "keys", "").Header.Get("ETag")
		first := alice.API("POST", "keys/rotate", rotate, tag, key)
		want(t, "first", first, http.StatusOK, "current")
		second := alice.API("POST", "keys/rotate", rotate, tag, key)
		if second.Body != first.Body || second.Status != first.Status {
			t.Errorf("again: %d %s", second.Status, second.Body)
		}
		if n := len(records(t, s, "key.rotate")); n != 1 {
			t.Errorf("%d rotations", n)
		}
		want(t, "another request", alice.API("POST", "keys/rotate", rotate, "If-Match: *", key),
			http.StatusUnprocessableEntity, "other-request")
		want(t, "another caller", bob.API("POST", "keys/rotate", rotate, tag, key), http.StatusPreconditionFailed,
			"admin:alice")
		want(t, "a short key", alice.API("POST", "keys/rotate", rotate, tag, "Idempotency-Key: short"),
			http.StatusUnprocessableEntity, "Idempotency-Key")
		refused := "Idempotency-Key: bbbbbbbbbbbbbbbbbbbbbbbb"
		want(t, "refused", alice.API("POST", "clients/nobody/disable", disable, "If-Match: *", refused),
			http.StatusNotFound, "nobody")
		want(t, "a refused request may be repeated", alice.API("POST", "clients/nobody/disable", disable, "If-Match: *",
			refused), http.StatusNotFound, "nobody")
		var mu sync.Mutex
		statuses := map[int]int{}
		var all sync.WaitGroup
		for range 6 {
			all.Go(func() {
				a := alice.API("POST", "clients/app/rotate-secret", `{"reason": "x", "force": true}`, "If-Match: *",
					"Idempotency-Key: cccccccccccccccccccccccc")
				mu.Lock()
				defer mu.Unlock()
				statuses[a.Status]++
			})
		}
		all.Wait()
		if n := len(records(t, s, "client.rotate-secret")); n != 1 || statuses[http.StatusOK] == 0 ||
			statuses[http.StatusOK]+statuses[http.StatusConflict] != 6 {
			t.Errorf("%d new secrets, statuses %v", n, statuses)
		}
	})
}

// Input that is wrong gets an error that names it, and changes nothing.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{})
	alice := s.SignedIn("alice", admin.RoleKeyOperator)
	for _, c := range []struct {
		method, path, body, match string
		status                    int
		part                      string
	}{
		{"POST", "clients/app/disable", `{}`, "*", 422, "no-reason"},
		{"POST", "clients/app/disable", `{"reason": "  "}`, "*", 422, "no-reason"},
		{"POST", "clients/app/disable", disable, "", 428, "If-Match is missing"},
		{"POST", "clients/app/disable", disable, "12", 400, "ETag in quotes"},
		{"POST", "clients/app/disable", disable, `W/"12"`, 400, "ETag in quotes"},
		{"POST", "clients/app/disable", disable, `"1", "2"`, 400, "ETag in quotes"},
		{"POST", "clients/app/disable", disable, `"1"`, 412, "read it again"},
		{"POST", "clients/app/disable", `{"reason": "x", "why": 1}`, "*", 400, "unknown field"},
		{"POST", "clients/app/disable", `{"reason": 1}`, "*", 400, "reason: want a string"},
		{"POST", "clients/app/disable", `[]`, "*", 400, "bad-json"},
		{"POST", "clients/app/disable", `{"reason": "x"} {}`, "*", 400, "more than one"},
		{"POST", "clients/app/disable", `{"reason": "x\u0000y"}`, "*", 422, "UTF-8 without NUL"},
		{"POST", "clients/app/disable", `{"reason": "` + strings.Repeat("x", 70000) + `"}`, "*", 413, "larger than"},
		{"POST", "clients/nobody/disable", disable, "*", 404, "nobody"},
		{"POST", "clients/ap/disable", disable, "*", 404, "did you mean"},
		{"POST", "clients/app/rotate-secret", `{"reason": "x", "keep": "soon"}`, "*", 422, "not a duration"},
		{"POST", "clients/spa/rotate-secret", disable, "*", 422, "public client"},
		{"POST", "users/ada/roles", disable, "*", 422, "roles is missing"},
		{"POST", "users/ada/roles", `{"reason": "x", "roles": ["a b"]}`, "*", 422, "role"},
		{"POST", "users/%ff/disable", disable, "*", 404, "nothing here"},
		{"POST", "grants/revoke", disable, "*", 422, "exactly one"},
		{"POST", "grants/revoke", `{"reason": "x", "user": "ada", "all": true}`, "*", 422, "exactly one"},
		{"POST", "grants/revoke", `{"reason": "x", "all": true}`, `"3"`, 422, "no ETag"},
		{"DELETE", "grants/xyz?reason=x", "", "*", 422, "grant"},
		{"DELETE", "grants/0000000000000001?reason=x", "", "*", 404, "not found"},
		{"POST", "keys/rotate", `{"reason": "x"}`, "*", 409, "too young"},
		{"POST", "keys/rotate", `{"reason": "x", "force": true, "when_ready": true}`, "*", 422, "contradict"},
		{"POST", "keys/rotate", `{"reason": "x", "except": ["a"]}`, "*", 422, "when_ready"},
		{"POST", "keys/unknown/revoke", `{"reason": "x", "kid": "unknown1"}`, "*", 404, "not found"},
		{"GET", "users?disabled=maybe", "", "", 400, "true or false"},
		{"GET", "users?color=red", "", "", 400, "unknown"},
		{"GET", "users?role=a&role=b", "", "", 400, "twice"},
		{"GET", "audit?after=-1", "", "", 400, "number"},
		{"GET", "audit?since=yesterday", "", "", 400, "time such as"},
		{"GET", "grants?active=true&ended=true", "", "", 400, "exclude each other"},
		{"GET", "grants?after=zz", "", "", 422, "grant"},
		{"PUT", "clients/app", "{}", "*", 405, "use GET or HEAD"},
	} {
		headers := []string{}
		if c.match != "" {
			headers = append(headers, "If-Match: "+c.match)
		}
		a := alice.API(c.method, c.path, c.body, headers...)
		want(t, c.method+" "+c.path+" "+c.body[:min(len(c.body), 60)], a, c.status, c.part)
		if a.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: Content-Type %s", c.method, c.path, a.Header.Get("Content-Type"))
		}
	}
	if c := consoletest.Must(s.Admin("").Clients().Find(context.Background(), "app")); c.DisabledAt != nil {
		t.Error("the client is disabled")
	}
}
