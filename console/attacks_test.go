package console_test

import (
	"context"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/console/consoletest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// each runs a test on both databases.
func each(t *testing.T, o consoletest.Options, test func(t *testing.T, s *consoletest.Server)) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		t.Parallel()
		test(t, consoletest.Open(t, databaseURL, o))
	})
}

// want requires a status and a part of the body.
func want(t *testing.T, what string, a consoletest.Answer, status int, part string) {
	t.Helper()
	if a.Status != status || !strings.Contains(a.Body, part) {
		t.Errorf("%s: %d, want %d with %q: %.600s", what, a.Status, status, part, a.Body)
	}
}

// records returns the audit records of a type, oldest first.
func records(t *testing.T, s *consoletest.Server, kind string) (all []admin.AuditRecord) {
	t.Helper()
	if err := s.Admin("").Audit().Each(t.Context(), admin.AuditFilter{Type: kind},
		func(page []admin.AuditRecord) error {
			all = append(all, page...)
			return nil
		}); err != nil {
		t.Fatal(err)
	}
	return all
}

const disable = `{"reason": "test"}`

// Forms that another site makes a browser send are refused, with a session and with a client certificate.
func TestCrossSite(t *testing.T) {
	each(t, consoletest.Options{TLS: true}, func(t *testing.T, s *consoletest.Server) {
		alice := s.SignedIn("alice", admin.RoleKeyOperator)
		subject := pkix.Name{CommonName: "soc"}
		consoletest.Must(s.Admin("x").Administrators().Create(t.Context(), "soc", admin.RoleOperator, subject.String()))
		soc := s.WithCertificate(subject)
		for name, headers := range map[string][]string{
			"cross-site": {"Sec-Fetch-Site: cross-site"},
			"same-site":  {"Sec-Fetch-Site: same-site"},
			"origin":     {"Origin: https://evil.example"},
			"no origin":  {"Origin: null"},
			"other port": {"Origin: https://localhost:1"},
		} {
			for who, c := range map[string]*consoletest.Client{"session": alice, "certificate": soc} {
				a := c.API("POST", "clients/app/disable", disable, append(headers, "If-Match: *")...)
				want(t, who+" "+name, a, http.StatusForbidden, "cross-site")
				form := c.Do("POST", "/clients/app/disable", url.Values{"reason": {"x"}, "revision": {"1"}}, "",
					headers...)
				want(t, who+" form "+name, form, http.StatusForbidden, "another site")
				read := c.API("GET", "clients", "", headers...)
				want(t, who+" read "+name, read, http.StatusForbidden, "cross-site")
			}
		}
		token := alice.Form
		for _, wrong := range []string{"", "x", strings.Repeat("A", len(token))} {
			alice.Form = wrong
			a := alice.API("POST", "clients/app/disable", disable, "If-Match: *")
			want(t, "token "+wrong, a, http.StatusForbidden, "no-form-token")
		}
		bob := s.SignedIn("bob", admin.RoleKeyOperator)
		alice.Form = bob.Form
		a := alice.API("POST", "clients/app/disable", disable, "If-Match: *")
		want(t, "the token of another session", a, http.StatusForbidden, "no-form-token")
		a = soc.Do("POST", "/api/v1/clients/app/disable", `{"reason": "x"}`, "text/plain", "If-Match: *")
		want(t, "a form of another site can send text/plain", a, http.StatusUnsupportedMediaType, "media-type")
		if c := consoletest.Must(s.Admin("").Clients().Find(t.Context(), "app")); c.DisabledAt != nil {
			t.Error("the client is disabled")
		}
		want(t, "a link to a page", soc.Do("GET", "/clients", nil, "", "Sec-Fetch-Site: cross-site"), http.StatusOK,
			"app")
	})
}

// Only names that are configured are answered: another site may let its own name point here. Metrics and health stay
// as they are.
func TestHosts(t *testing.T) {
	each(t, consoletest.Options{}, func(t *testing.T, s *consoletest.Server) {
		alice := s.SignedIn("alice", admin.RoleViewer)
		u := consoletest.Must(url.Parse(s.URL))
		for host, status := range map[string]int{
			"evil.example":              http.StatusMisdirectedRequest,
			"evil.example:" + u.Port():  http.StatusMisdirectedRequest,
			"localhost.evil.example":    http.StatusMisdirectedRequest,
			"10.0.0.1:" + u.Port():      http.StatusMisdirectedRequest,
			"[::ffff:10.0.0.1]":         http.StatusMisdirectedRequest,
			"localhost":                 http.StatusOK,
			"127.0.0.1:" + u.Port():     http.StatusOK,
			"[::1]:" + u.Port():         http.StatusOK,
			"LOCALHOST:" + u.Port():     http.StatusOK,
			"localhost:1/../evil.exam":  http.StatusMisdirectedRequest,
			"evil.example@localhost":    http.StatusMisdirectedRequest,
			"localhost\t.evil.example:": http.StatusMisdirectedRequest,
		} {
			r := consoletest.Must(http.NewRequest("GET", s.URL+"/api/v1/keys", nil))
			r.Host = host
			for _, cookie := range alice.HTTP.Jar.Cookies(u) {
				r.AddCookie(cookie)
			}
			answer, err := alice.HTTP.Transport.RoundTrip(r)
			if err != nil {
				continue // net/http refuses to send such a host
			}
			answer.Body.Close()
			if answer.StatusCode != status && !(status == http.StatusMisdirectedRequest && answer.StatusCode == 400) {
				t.Errorf("Host %q: %d, want %d", host, answer.StatusCode, status)
			}
		}
		want(t, "metrics", alice.Do("GET", "/metrics", nil, "", "Host: anything"), http.StatusOK, "keyturn_")
		want(t, "health", s.Anonymous().Do("GET", "/livez", nil, "", "Host: anything"), http.StatusOK, "")
	})
}

// A link works once, for 15 minutes, until a newer one is made, and for an administrator who is enabled. Opening it
// uses up nothing.
func TestLinks(t *testing.T) {
	each(t, consoletest.Options{}, func(t *testing.T, s *consoletest.Server) {
		open := func(link string) consoletest.Answer {
			c := s.Anonymous()
			c.Do("GET", consoletest.Must(url.Parse(link)).Path, nil, "")
			return c.Do("POST", "/enter", nil, "")
		}
		dead := func(what, link string) {
			t.Helper()
			want(t, what, open(link), http.StatusForbidden, "has been used, has expired")
		}
		first := s.Link("alice", admin.RoleViewer)
		for range 3 { // a preview
			want(t, "preview", s.Anonymous().Do("GET", consoletest.Must(url.Parse(first)).Path, nil, ""),
				http.StatusSeeOther, "")
		}
		second := s.Link("alice", "")
		dead("an older link", first)
		var wins sync.Map
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				if open(second).Status == http.StatusSeeOther {
					wins.Store(i, true)
				}
			})
		}
		all.Wait()
		n := 0
		wins.Range(func(any, any) bool { n++; return true })
		if n != 1 {
			t.Errorf("one link signed in %d times", n)
		}
		dead("a used link", second)
		dead("an invented link", s.URL+"/enter/"+strings.Repeat("A", 43))
		old := s.Link("alice", "")
		s.Later(admin.LinkTTL)
		dead("an expired link", old)
		link := s.Link("alice", "")
		if err := s.Admin("x").Administrators().Disable(t.Context(), "alice"); err != nil {
			t.Fatal(err)
		}
		dead("a link of a disabled administrator", link)
		if _, err := s.Admin("x").Administrators().Link(t.Context(), "alice", ""); err == nil {
			t.Error("a disabled administrator gets a link")
		}
		if refused := records(t, s, "admin.refuse"); len(refused) < 5 || !strings.Contains(string(refused[0].Details),
			"dead-link") {
			t.Errorf("%d refusals in the trail", len(refused))
		}
	})
}

// A session ends by sign-out, everywhere, after 15 idle minutes, after 8 hours, and with its administrator. Requests of
// scripts that look for news do not keep it alive.
func TestSessions(t *testing.T) {
	each(t, consoletest.Options{}, func(t *testing.T, s *consoletest.Server) {
		over := func(what string, c *consoletest.Client) {
			t.Helper()
			want(t, what, c.API("GET", "keys", ""), http.StatusUnauthorized, "sign")
		}
		live := func(what string, c *consoletest.Client) {
			t.Helper()
			want(t, what, c.API("GET", "keys", ""), http.StatusOK, "kid")
		}
		stolen := func(c *consoletest.Client) *consoletest.Client {
			thief := s.Anonymous()
			u := consoletest.Must(url.Parse(s.URL))
			thief.HTTP.Jar.SetCookies(u, c.HTTP.Jar.Cookies(u))
			return thief
		}
		alice := s.SignedIn("alice", admin.RoleViewer)
		thief := stolen(alice)
		live("stolen", thief)
		want(t, "sign out", alice.Do("POST", "/sign-out", url.Values{}, ""), http.StatusSeeOther, "")
		over("signed out", alice)
		over("a stolen cookie after the sign-out", thief)

		here, there := s.SignedIn("alice", ""), s.SignedIn("alice", "")
		want(t, "everywhere", here.Do("POST", "/sign-out-everywhere", url.Values{}, ""), http.StatusSeeOther, "")
		over("everywhere, here", here)
		over("everywhere, there", there)

		idle := s.SignedIn("alice", "")
		for range 4 {
			s.Later(admin.SessionIdle / 2)
			live("used", idle)
		}
		for range 3 {
			s.Later(admin.SessionIdle/3 + time.Second)
			idle.Do("GET", "/live?live", nil, "")
			idle.Do("GET", "/keys?live", nil, "")
		}
		over("idle, but for its scripts", idle)

		long := s.SignedIn("alice", "")
		for range int(admin.SessionMax/(admin.SessionIdle/2)) - 1 {
			s.Later(admin.SessionIdle / 2)
			live("long", long)
		}
		s.Later(admin.SessionIdle / 2)
		over("after eight hours", long)

		gone := s.SignedIn("alice", "")
		if err := s.Admin("x").Administrators().Delete(t.Context(), "alice"); err != nil {
			t.Fatal(err)
		}
		over("deleted", gone)
		again := s.SignedIn("alice", admin.RoleAuditor)
		over("a cookie of an administrator of the same name before", gone)
		live("the new one", again)
		for _, kind := range []string{"admin.sign-in", "admin.sign-out"} {
			for _, r := range records(t, s, kind) {
				if !strings.Contains(string(r.Details), `"address":"127.0.0.1"`) ||
					!strings.Contains(string(r.Details), `"way":"link"`) || r.Target != "alice" {
					t.Errorf("%s without name, way and address: %s %s", kind, r.Target, r.Details)
				}
			}
		}
	})
}

// The cookie is for this host alone, not for scripts, and not for other sites. No answer can be framed or cached.
func TestHeaders(t *testing.T) {
	t.Parallel()
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{})
	c := s.Anonymous()
	c.Do("GET", consoletest.Must(url.Parse(s.Link("alice", admin.RoleViewer))).Path, nil, "")
	a := c.Do("POST", "/enter", nil, "")
	cookie := strings.Join(a.Header.Values("Set-Cookie"), "\n")
	for _, part := range []string{"__Host-keyturn-console=", "Path=/", "HttpOnly", "Secure", "SameSite=Strict"} {
		if !strings.Contains(cookie, part) {
			t.Errorf("the cookie lacks %s: %s", part, cookie)
		}
	}
	for _, path := range []string{"/keys", "/sign-in", "/api/v1/keys", "/nothing", "/static/console.js"} {
		h := c.Do("GET", path, nil, "").Header
		if got := h.Get("Content-Security-Policy"); got != "default-src 'none'; style-src 'self'; script-src 'self'; "+
			"img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; "+
			"require-trusted-types-for 'script'" {
			t.Errorf("%s: policy %s", path, got)
		}
		if !strings.HasPrefix(path, "/static/") && h.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: Cache-Control %s", path, h.Get("Cache-Control"))
		}
	}
	if script := c.Do("GET", "/static/console.js", nil, ""); len(script.Body) == 0 || len(script.Body) > 8<<10 {
		t.Errorf("the script has %d bytes", len(script.Body))
	}
}

// A passkey must verify the person and answer its own challenge, once, from this origin. A copy is noticed.
func TestPasskeys(t *testing.T) {
	each(t, consoletest.Options{}, func(t *testing.T, s *consoletest.Server) {
		alice := s.SignedIn("alice", admin.RoleKeyOperator)
		p, a := alice.Register("laptop")
		want(t, "register", a, http.StatusOK, "passkey-added")
		fresh := s.Anonymous()
		want(t, "sign in", fresh.SignIn(p), http.StatusOK, "/keys")
		replayed := s.Anonymous()
		answer := replayed.Assertion(p)
		send := func(body string) consoletest.Answer {
			return s.Anonymous().Do("POST", "/sign-in/passkey", body, "application/json")
		}
		want(t, "an answer", send(answer), http.StatusOK, "/keys")
		want(t, "the answer again", send(answer), http.StatusForbidden, "no-ceremony")

		refuse := func(what string, change func(*consoletest.Passkey)) {
			t.Helper()
			copied := *p
			change(&copied)
			want(t, what, send(s.Anonymous().Assertion(&copied)), http.StatusForbidden, "bad-passkey")
			p.Counter = max(p.Counter, copied.Counter)
		}
		refuse("without verifying the person", func(p *consoletest.Passkey) { p.Unverified = true })
		refuse("of another origin", func(p *consoletest.Passkey) { p.Origin = "http://evil.example" })
		refuse("an unknown passkey", func(p *consoletest.Passkey) { p.ID = slices.Repeat([]byte{7}, 32) })
		refuse("of nobody", func(p *consoletest.Passkey) { p.Handle = slices.Repeat([]byte{7}, 32) })
		refuse("a copy with an older counter", func(p *consoletest.Passkey) { p.Counter = 0 })
		want(t, "the passkey still works", s.Anonymous().SignIn(p), http.StatusOK, "/keys")

		s.Later(admin.SessionFresh)
		_, a = fresh.Register("later")
		want(t, "register with an old sign-in", a, http.StatusForbidden, "sign-in-again")
		want(t, "again", fresh.SignIn(p), http.StatusOK, "/keys")
		second, a := fresh.Register("phone")
		want(t, "a second one", a, http.StatusOK, "passkey-added")
		bob := s.SignedIn("bob", admin.RoleKeyOperator)
		remove := func(c *consoletest.Client, p *consoletest.Passkey) consoletest.Answer {
			return c.Do("POST", "/passkeys/"+p.Name()+"/remove", url.Values{}, "")
		}
		want(t, "of somebody else", remove(bob, second), http.StatusNotFound, "not found")
		want(t, "remove", remove(fresh, second), http.StatusSeeOther, "")
		want(t, "removed", send(s.Anonymous().Assertion(second)), http.StatusForbidden, "bad-passkey")
		if err := s.Admin("x").Administrators().Disable(t.Context(), "alice"); err != nil {
			t.Fatal(err)
		}
		want(t, "disabled", send(s.Anonymous().Assertion(p)), http.StatusForbidden, "bad-passkey")
	})
}

// Whoever can only write the database gets no role: rows that keyturn did not write are refused.
func TestForgedRows(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		s := consoletest.Open(t, databaseURL, consoletest.Options{})
		viewer, other := s.SignedIn("viewer", admin.RoleViewer), s.SignedIn("boss", admin.RoleKeyOperator)
		want(t, "before", viewer.API("GET", "keys", ""), http.StatusOK, "kid")
		raw := storagetest.Raw(t, databaseURL)
		storagetest.MustExec(t, raw, `UPDATE admins SET role = 'key-operator' WHERE name = 'viewer'`)
		want(t, "another role", viewer.API("GET", "keys", ""), http.StatusConflict, "changed outside keyturn")
		storagetest.MustExec(t, raw, `UPDATE admins SET role = 'viewer' WHERE name = 'viewer'`)
		storagetest.MustExec(t, raw, `UPDATE admin_sessions SET name = 'boss' WHERE name = 'viewer'`)
		want(t, "the session of another", viewer.API("GET", "keys", ""), http.StatusConflict, "changed outside keyturn")
		storagetest.MustExec(t, raw, `UPDATE admin_sessions SET signed_in_at = signed_in_at + 1000`)
		want(t, "a later sign-in", other.API("GET", "keys", ""), http.StatusConflict, "changed outside keyturn")
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

// Changes of keys need a sign-in of the last five minutes; a revocation the kid.
func TestKeyChanges(t *testing.T) {
	each(t, consoletest.Options{}, func(t *testing.T, s *consoletest.Server) {
		alice := s.SignedIn("alice", admin.RoleKeyOperator)
		kid := s.Admin("").Keys().In("current")[0]
		revoke := func(typed string) consoletest.Answer {
			body := fmt.Sprintf(`{"reason": "leak", "kid": %q}`, typed)
			return alice.API("POST", "keys/"+kid+"/revoke", body, "If-Match: *")
		}
		for _, typed := range []string{"", kid[:7], "current", strings.ToUpper(kid[:9]) + "x"} {
			want(t, "typed "+typed, revoke(typed), http.StatusUnprocessableEntity, "kid-not-typed")
		}
		s.Later(admin.SessionFresh)
		want(t, "an old sign-in", revoke(kid), http.StatusForbidden, "sign-in-again")
		form := url.Values{"reason": {"a long story"}, "revision": {"1"}, "kid": {kid[:8]}}
		page := alice.Do("POST", "/keys/"+kid+"/revoke", form, "")
		want(t, "the form comes back", page, http.StatusForbidden, `value="a long story"`)
		want(t, "and says how to go on", page, http.StatusForbidden, "Sign in again")
		alice.Enter(s.Link("alice", ""))
		want(t, "after a new sign-in", revoke(kid[:8]), http.StatusOK, kid)
		want(t, "an incident", alice.Do("GET", "/users", nil, ""), http.StatusOK, "A key has leaked")
		if r := records(t, s, "key.revoke"); len(r) != 1 || r[0].Actor != "admin:alice" || r[0].Reason != "leak" {
			t.Errorf("records %v", r)
		}
	})
}

// Paths that are not in the table are not found, whatever a router could make of them.
func TestPathTricks(t *testing.T) {
	t.Parallel()
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{})
	auditor, nobody := s.SignedIn("viewer", admin.RoleViewer), s.Anonymous()
	for _, path := range []string{
		"/api/v1//audit/export", "/api/v1/audit//export", "/api/v1/./audit/export", "/api/v1/keys/../audit/export",
		"/api/v1/audit/export/", "/API/v1/audit/export", "/api/v1/audit%2Fexport", "/api/v1/audit/export;x", "/api/v1",
		"/api/v1/keys/%2e%2e/audit/export", "/audit/export/", "/static/../admin.yaml",
		"/static/%2e%2e%2fconsole.go", "/static/..%2fadmin.yaml", "/keys/current/revoke/", "/static/",
	} {
		raw := func(c *consoletest.Client) int {
			r := consoletest.Must(http.NewRequest("GET", s.URL, nil))
			r.URL.Opaque = path
			u := consoletest.Must(url.Parse(s.URL))
			for _, cookie := range c.HTTP.Jar.Cookies(u) {
				r.AddCookie(cookie)
			}
			answer := consoletest.Must(c.HTTP.Transport.RoundTrip(r))
			answer.Body.Close()
			return answer.StatusCode
		}
		if got := raw(auditor); got != http.StatusNotFound && got != http.StatusBadRequest {
			t.Errorf("%s: %d with a sign-in", path, got)
		}
		if got := raw(nobody); got != http.StatusUnauthorized && got != http.StatusSeeOther &&
			got != http.StatusNotFound &&
			got != http.StatusBadRequest {
			t.Errorf("%s: %d without a sign-in", path, got)
		}
	}
}

// Nothing of the console is on the public listener.
func TestNothingInPublic(t *testing.T) {
	t.Parallel()
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{})
	alice := s.SignedIn("alice", admin.RoleKeyOperator)
	public := s.Anonymous()
	public.HTTP.Jar.SetCookies(consoletest.Must(url.Parse(s.Public)),
		alice.HTTP.Jar.Cookies(consoletest.Must(url.Parse(s.URL))))
	public.Base, public.Form, public.Elsewhere = s.Public, alice.Form, true
	for _, path := range []string{"/", "/keys", "/sign-in", "/enter/x", "/static/console.css", "/api/v1/keys",
		"/api/v1/openapi.yaml", "/admins", "/live"} {
		want(t, path, public.Do("GET", path, nil, ""), http.StatusNotFound, "not found")
	}
}

// A plaintext listener that others reach serves metrics and health, and nothing else.
func TestPlaintextBeyondThisHost(t *testing.T) {
	t.Parallel()
	address := ownAddress(t)
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{Admin: address + ":0"})
	link := s.Link("alice", admin.RoleViewer)
	c := s.Anonymous()
	for _, path := range []string{"/sign-in", "/keys", "/api/v1/keys", consoletest.Must(url.Parse(link)).Path} {
		want(t, path, c.Do("GET", path, nil, ""), http.StatusForbidden, "admin_tls_cert_file")
	}
	want(t, "metrics", c.Do("GET", "/metrics", nil, ""), http.StatusOK, "keyturn_")
	want(t, "over the socket", s.OverSocket().API("GET", "keys", ""), http.StatusOK, "kid")
}

// ownAddress returns an address of this host that is not loopback.
func ownAddress(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	t.Skip("this machine has only loopback addresses")
	return ""
}

// Client certificates: of another authority, of nobody, of a disabled administrator.
func TestCertificates(t *testing.T) {
	each(t, consoletest.Options{TLS: true}, func(t *testing.T, s *consoletest.Server) {
		ctx, a := t.Context(), s.Admin("x").Administrators()
		subject := pkix.Name{CommonName: "soc", Organization: []string{"Example, Ltd."}}
		if _, err := a.Create(ctx, "soc", admin.RoleAuditor, subject.String()); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Create(ctx, "soc2", admin.RoleAuditor, subject.String()); err == nil {
			t.Error("two administrators have one subject")
		}
		soc := s.WithCertificate(subject)
		want(t, "ours", soc.API("GET", "audit", ""), http.StatusOK, "seq")
		want(t, "a page", soc.Do("GET", "/keys", nil, ""), http.StatusOK, "soc · auditor")
		want(t, "of nobody", s.WithCertificate(pkix.Name{CommonName: "other"}).API("GET", "keys", ""),
			http.StatusForbidden, "unknown-certificate")
		want(t, "a part of the subject", s.WithCertificate(pkix.Name{CommonName: "soc"}).API("GET", "keys", ""),
			http.StatusForbidden, "unknown-certificate")
		foreign := consoletest.NewAuthority(t.TempDir())
		c := s.WithForeign(foreign, subject)
		if _, err := c.HTTP.Get(c.Base + "/api/v1/keys"); err == nil {
			t.Error("a certificate of another authority is accepted")
		}
		if err := a.Disable(ctx, "soc"); err != nil {
			t.Fatal(err)
		}
		want(t, "disabled", soc.API("GET", "keys", ""), http.StatusForbidden, "unknown-certificate")
	})
}

// Refused requests of strangers cannot fill the audit trail.
func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{})
	c := s.Anonymous()
	for range 150 {
		c.API("POST", "keys/rotate", "{}", "Sec-Fetch-Site: cross-site")
	}
	if n := len(records(t, s, "admin.refuse")); n != 100 {
		t.Errorf("%d records of 150 refusals", n)
	}
	s.Later(time.Hour)
	c.API("POST", "keys/rotate", "{}", "Sec-Fetch-Site: cross-site")
	all := records(t, s, "admin.refuse")
	if last := all[len(all)-1]; !strings.Contains(string(last.Details), `"more":50`) {
		t.Errorf("the next record does not count the others: %s", last.Details)
	}
}

// No secret is on a page, in the log or in the database: those of links, sessions, clients, users, and keys.
func TestCanaries(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		s := consoletest.Open(t, databaseURL, consoletest.Options{})
		refresh := s.Login("ada")
		link := s.Link("alice", admin.RoleKeyOperator)
		alice := s.Anonymous()
		alice.Enter(link)
		secrets := map[string]string{
			"link":          link[strings.LastIndex(link, "/")+1:],
			"refresh token": refresh,
			"password":      consoletest.Password,
			"client secret": strings.Repeat("s", 40),
		}
		for _, cookie := range alice.HTTP.Jar.Cookies(consoletest.Must(url.Parse(s.URL))) {
			secrets["cookie "+cookie.Name] = cookie.Value
		}
		for _, k := range s.Admin("").Keys().List() {
			if k.PrivateKey != "" {
				secrets["private key "+k.KID] = k.PrivateKey
			}
		}
		key := "Idempotency-Key: 0123456789abcdef0123456789abcdef"
		made := alice.API("POST", "clients/app/rotate-secret", `{"reason": "x"}`, "If-Match: *", key)
		var rotated struct {
			Secret string `json:"client_secret"`
		}
		if err := json.Unmarshal([]byte(made.Body), &rotated); err != nil || rotated.Secret == "" {
			t.Fatalf("%v %s", err, made.Body)
		}
		secrets["new client secret"] = rotated.Secret
		var seen strings.Builder
		for _, e := range []string{"/keys", "/keys/rotate", "/keys/current/revoke", "/logins", "/clients",
			"/clients/app",
			"/users", "/users/ada", "/verifiers", "/audit", "/admins", "/api/v1/keys", "/api/v1/clients/app",
			"/api/v1/users/ada", "/api/v1/grants", "/api/v1/audit", "/api/v1/audit/export"} {
			a := alice.Do("GET", e, nil, "")
			seen.WriteString(a.Body)
			seen.WriteString(fmt.Sprint(a.Header))
		}
		all := map[string]string{"a page": seen.String(), "the log": s.Log.String(), "the database": dump(t,
			databaseURL)}
		for place, text := range all {
			for name, secret := range secrets {
				sealed := place == "the database" && strings.HasPrefix(name, "private key") // sealed as it is
				if strings.Contains(text, secret) && !sealed {
					t.Errorf("%s has the %s", place, name)
				}
			}
		}
		again := alice.API("POST", "clients/app/rotate-secret", `{"reason": "x"}`, "If-Match: *", key)
		if again.Body != made.Body || again.Header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("the repeated request: %d %s", again.Status, again.Body)
		}
	})
}

// dump returns everything in the tables that the console writes.
func dump(t *testing.T, databaseURL string) string {
	t.Helper()
	raw, all := storagetest.Raw(t, databaseURL), strings.Builder{}
	for _, table := range []string{"admins", "admin_links", "admin_sessions", "admin_passkeys", "admin_ceremonies",
		"admin_requests", "audit", "clients", "users", "grants"} {
		rows := consoletest.Must(raw.QueryContext(t.Context(), "SELECT * FROM "+table))
		columns := consoletest.Must(rows.Columns())
		for rows.Next() {
			values := make([]any, len(columns))
			for i := range values {
				values[i] = new(any)
			}
			if err := rows.Scan(values...); err != nil {
				t.Fatal(err)
			}
			for _, v := range values {
				fmt.Fprintf(&all, "%s ", *v.(*any))
			}
		}
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
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
		{"POST", "clients/app/disable", `{"reason": 1}`, "*", 400, "reason: want string"},
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

// The socket is for this user and root.
func TestSocket(t *testing.T) {
	t.Parallel()
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{})
	c := s.OverSocket()
	want(t, "any host", c.API("GET", "keys", "", "Host: anything"), http.StatusOK, "kid")
	want(t, "a change", c.API("POST", "clients/app/disable", disable, "If-Match: *"), http.StatusOK, "app")
	r := records(t, s, "client.disable")[0]
	if !strings.HasPrefix(r.Actor, "os:") || !strings.Contains(string(r.Details), `"way":"socket"`) {
		t.Errorf("%s %s", r.Actor, r.Details)
	}
	file := t.TempDir() + "/s.sock"
	conf := config.Config{Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", AdminSocket: file}
	l := consoletest.Must(consoletest.Listen(conf))
	if info := consoletest.Must(os.Stat(file)); info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v", info.Mode())
	}
	if _, err := consoletest.Listen(conf); err == nil || !strings.Contains(err.Error(), "another process serves") {
		t.Errorf("a second server on the socket: %v", err)
	}
	l.Public.Close()
	l.Admin.Close()
	l.Socket.(*net.UnixListener).SetUnlinkOnClose(false) // as after a kill
	l.Socket.Close()
	l = consoletest.Must(consoletest.Listen(conf))
	l.Public.Close()
	l.Admin.Close()
	l.Socket.Close()
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := consoletest.Listen(conf); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("a file at the path of the socket: %v", err)
	}
}
