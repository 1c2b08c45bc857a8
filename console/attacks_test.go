package console_test

import (
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
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
				want(t, who+" form "+name, form, http.StatusForbidden, "nother site")
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
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{Elsewhere: true})
	link := s.Link("alice", admin.RoleViewer)
	c := s.Anonymous()
	for _, path := range []string{"/sign-in", "/keys", "/api/v1/keys", consoletest.Must(url.Parse(link)).Path} {
		want(t, path, c.Do("GET", path, nil, ""), http.StatusForbidden, "admin_tls_cert_file")
	}
	want(t, "metrics", c.Do("GET", "/metrics", nil, ""), http.StatusOK, "keyturn_")
	want(t, "over the socket", s.OverSocket().API("GET", "keys", ""), http.StatusOK, "kid")
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
