package console_test

import (
	"crypto/x509/pkix"
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
