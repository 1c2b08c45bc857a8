package console_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/console"
	"github.com/keyturn/keyturn/console/consoletest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// The page of a form comes back with an error only to those who may see it.
func TestFormsShowNothingToStrangers(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		s := consoletest.Open(t, databaseURL, consoletest.Options{})
		altered := s.SignedIn("boss", admin.RoleKeyOperator)
		storagetest.MustExec(t, storagetest.Raw(t, databaseURL), `UPDATE admin_sessions SET address = '192.0.2.1'`)
		for _, r := range console.Table() {
			if r.Method != http.MethodPost || strings.HasPrefix(r.Path, "/api/") || r.Open {
				continue
			}
			for _, value := range []string{"%00", "%ff", "x"} {
				path := strings.NewReplacer("{id}", value, "{name}", value, "{kid}", value).Replace(r.Path)
				for who, c := range map[string]*consoletest.Client{"nobody": s.Anonymous(), "an altered row": altered} {
					a := c.Do("POST", path, url.Values{"reason": {"x"}, "revision": {"1"}}, "")
					if strings.Contains(a.Body, "<table") || strings.Contains(a.Body, "<form") ||
						strings.Contains(a.Body, "<dl") || a.Status == http.StatusOK {
						t.Errorf("POST %s shows %s a page: %d", path, who, a.Status)
					}
				}
			}
		}
	})
}

// A challenge is answered once, in whatever spelling it comes back. Many passkeys count nothing, so that only the
// challenge can show a replay.
func TestReplayedChallenge(t *testing.T) {
	each(t, consoletest.Options{}, func(t *testing.T, s *consoletest.Server) {
		alice := s.SignedIn("alice", admin.RoleViewer)
		p, a := alice.Register("laptop")
		want(t, "register", a, http.StatusOK, "")
		p.Counter = ^uint32(0) // 0 at the next use
		body := s.Anonymous().Assertion(p)
		send := func(body string) consoletest.Answer {
			return s.Anonymous().Do("POST", "/sign-in/passkey", body, "application/json")
		}
		want(t, "the first answer", send(body), http.StatusOK, "")
		for _, spelling := range []string{`"ceremony":"`, `"ceremony":"\n`, `"ceremony":"\r\n`, `"ceremony":"\n\n\n`} {
			again := strings.Replace(body, `"ceremony":"`, spelling, 1)
			want(t, "again as "+spelling, send(again), http.StatusForbidden, "no-ceremony")
		}
		for _, change := range []string{".", "=.", "A."} {
			want(t, "changed", send(strings.Replace(body, ".", change, 1)), http.StatusForbidden, "no-ceremony")
		}
	})
}

// Strangers who cause refusals do not hide those of others.
func TestRefusalsHaveBudgets(t *testing.T) {
	t.Parallel()
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{})
	viewer, stranger := s.SignedIn("viewer", admin.RoleViewer), s.Anonymous()
	for range 150 {
		stranger.Do("GET", "/keys", nil, "", "Host: evil.example")
	}
	viewer.API("POST", "clients/app/disable", disable, "If-Match: *")
	dead := s.Anonymous()
	dead.Do("GET", "/enter/nothing", nil, "")
	dead.Do("POST", "/enter", nil, "")
	why := map[string]int{}
	for _, r := range records(t, s, "admin.refuse") {
		var d struct {
			Why string `json:"why"`
		}
		if err := json.Unmarshal(r.Details, &d); err != nil {
			t.Fatal(err)
		}
		why[d.Why]++
		if d.Why == "role" && (r.Actor != "admin:viewer" || r.Target != "viewer") {
			t.Errorf("%s %s", r.Actor, r.Target)
		}
	}
	if why["unknown-host"] != 100 || why["role"] != 1 || why["dead-link"] != 1 {
		t.Errorf("records %v", why)
	}
	s.Later(time.Hour)
	viewer.API("GET", "keys", "") // any request of the next hour
	all := records(t, s, "admin.refuse")
	found := false
	for _, r := range all {
		found = found || strings.Contains(string(r.Details), `"more":49`)
	}
	if !found {
		t.Error("nobody counts the other refusals of the hour")
	}
}

// The audit trail has the address at the other end of the connection, whatever the request claims, and all of it.
func TestAuditedAddress(t *testing.T) {
	t.Parallel()
	for listen, address := range map[string]string{"127.0.0.1:0": "127.0.0.1", "[::1]:0": "::1"} {
		s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{
			Admin:     listen,
			Configure: func(c *config.Config) { c.TrustedProxies = config.List{"127.0.0.1/32", "::1/128"} },
		})
		c := s.Anonymous()
		c.Do("GET", consoletest.Must(url.Parse(s.Link("alice", admin.RoleViewer))).Path, nil, "")
		want(t, "enter", c.Do("POST", "/enter", nil, "", "X-Forwarded-For: 203.0.113.9"), http.StatusSeeOther, "")
		if r := records(t, s, "admin.sign-in"); !strings.Contains(string(r[0].Details), `"address":"`+address+`"`) {
			t.Errorf("%s: %s", listen, r[0].Details)
		}
	}
}

// Several operators who end one login at the same moment: one has ended it.
func TestOneEndsALogin(t *testing.T) {
	each(t, consoletest.Options{}, func(t *testing.T, s *consoletest.Server) {
		s.Login("ada")
		var page struct{ Items []struct{ ID string } }
		c := s.OverSocket()
		if err := json.Unmarshal([]byte(c.API("GET", "grants?user=ada", "").Body), &page); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var all sync.WaitGroup
		statuses := map[int]int{}
		for range 6 {
			all.Go(func() {
				a := c.API("DELETE", "grants/"+page.Items[0].ID+"?reason=x", "", `If-Match: "1"`)
				mu.Lock()
				defer mu.Unlock()
				statuses[a.Status]++
			})
		}
		all.Wait()
		if statuses[http.StatusOK] != 1 || statuses[http.StatusPreconditionFailed] != 5 {
			t.Errorf("statuses %v", statuses)
		}
	})
}

// A form that is sent after the session is over gives back what was typed. A form of another site does not.
func TestNothingTypedGetsLost(t *testing.T) {
	t.Parallel()
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{})
	alice := s.SignedIn("alice", admin.RoleKeyOperator)
	s.Later(admin.SessionIdle)
	form := url.Values{"reason": {"a long story"}, "roles": {"boss"}, "revision": {"1"}}
	a := alice.Do("POST", "/users/ada/roles", form, "")
	want(t, "signed out", a, http.StatusUnauthorized, "reason: a long story")
	if strings.Contains(a.Body, alice.Form) || strings.Contains(a.Body, "<form") {
		t.Errorf("the page has the token of the session, or a form: %s", a.Body)
	}
	foreign := alice.Do("POST", "/users/ada/roles", form, "", "Sec-Fetch-Site: cross-site")
	if strings.Contains(foreign.Body, "a long story") {
		t.Error("the text of another site is shown")
	}
}

// A form that is refused comes back with what was typed into it. Other forms of the page show what is so.
func TestRefusedForms(t *testing.T) {
	t.Parallel()
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{})
	alice := s.SignedIn("alice", admin.RoleKeyOperator)
	want(t, "roles", alice.API("POST", "users/ada/roles", `{"reason": "x", "roles": ["boss"]}`, "If-Match: *"),
		http.StatusOK, "boss")
	stale := url.Values{"reason": {"a long story"}, "roles": {"king"}, "revision": {"999"}}
	other := alice.Do("POST", "/users/ada/unlock", stale, "")
	want(t, "another form", other, http.StatusPreconditionFailed, `name="roles" autocomplete="off" value="boss"`)
	own := alice.Do("POST", "/users/ada/roles", stale, "")
	want(t, "its own form", own, http.StatusPreconditionFailed, `name="roles" autocomplete="off" value="king"`)
	for what, a := range map[string]consoletest.Answer{"another form": other, "its own form": own} {
		if n := strings.Count(a.Body, `value="a long story"`); n != 1 {
			t.Errorf("%s: the reason is in %d forms", what, n)
		}
	}
	viewer := s.SignedIn("vera", admin.RoleViewer)
	for _, page := range []string{"/users/ada", "/clients/app", "/logins"} {
		want(t, "a viewer reads why no form is there", viewer.Do("GET", page, nil, ""), http.StatusOK,
			"you need the role operator")
	}
	slip := alice.Do("GET", "/logins?user=nobody&active=true", nil, "")
	want(t, "a slip in the filter", slip, http.StatusOK, `name="user" value="nobody"`)
	want(t, "a slip in the filter", slip, http.StatusOK, "not found")
}

// Scripts hear of a change of the keys on every page; of everything that the page of the keys shows only there.
func TestLive(t *testing.T) {
	t.Parallel()
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{})
	alice := s.SignedIn("alice", admin.RoleKeyOperator)
	attribute := func(page, name string) string {
		_, rest, _ := strings.Cut(alice.Do("GET", page, nil, "").Body, " "+name+`="`)
		value, _, _ := strings.Cut(rest, `"`)
		return value
	}
	version, live := attribute("/users", "data-version"), attribute("/keys", "data-live")
	both := fmt.Sprintf(`{"live":%q,"version":%q}`, live, version)
	if a := alice.Do("GET", "/live?live&keys", nil, ""); a.Body != both {
		t.Errorf("nothing has changed, but %s is not %s", a.Body, both)
	}
	want(t, "rotate", alice.API("POST", "keys/rotate", `{"reason": "x", "force": true}`, "If-Match: *"), http.StatusOK,
		"")
	next := attribute("/users", "data-version")
	if a := alice.Do("GET", "/live?live", nil, ""); next == version || a.Body != fmt.Sprintf(`{"version":%q}`, next) {
		t.Errorf("the keys of version %s have changed: %s", version, a.Body)
	}
	if attribute("/keys", "data-live") == live || attribute("/users", "data-live") != "" {
		t.Error("the fingerprint is that of before, or on another page")
	}
}

// The pages of a rotation and a revocation say what was done, once, and who has decided on the logins.
func TestKeyForms(t *testing.T) {
	each(t, consoletest.Options{}, func(t *testing.T, s *consoletest.Server) {
		s.Login("ada")
		alice := s.SignedIn("alice", admin.RoleKeyOperator)
		version := func() string { return strings.Trim(alice.API("GET", "keys", "").Header.Get("ETag"), `"`) }
		kid := s.Admin("").Keys().In("current")[0]
		form := url.Values{"reason": {"weekly"}, "revision": {version()}, "gate": {"force"}}
		want(t, "the plan", alice.Do("GET", "/keys/rotate", nil, ""), http.StatusOK,
			"What would happen if you force it")
		done := alice.Do("POST", "/keys/rotate", form, "")
		want(t, "rotate", done, http.StatusSeeOther, "")
		want(t, "rotated", alice.Do("GET", done.Header.Get("Location"), nil, ""), http.StatusOK,
			"Rotated. No session ends")
		want(t, "the form once more", alice.Do("POST", "/keys/rotate", form, ""), http.StatusPreconditionFailed,
			"key.rotate by admin:alice")

		page := "/keys/" + kid + "/revoke"
		form = url.Values{"reason": {"leak"}, "revision": {version()}, "kid": {kid[:8]}}
		want(t, "revoke", alice.Do("POST", page, form, ""), http.StatusSeeOther, "")
		after := alice.Do("GET", page, nil, "")
		want(t, "nobody has decided", after, http.StatusOK, "nobody has ended them")
		want(t, "the bar asks for it", after, http.StatusOK, "Decide whether logins must end")
		form = url.Values{"reason": {"to be safe"}, "revision": {version()}, "kid": {kid[:8]}, "end_grants": {"since"}}
		want(t, "no time", alice.Do("POST", page, form, ""), http.StatusUnprocessableEntity, "give its time")
		for _, since := range []string{"yesterday", "2999-01-01 12:00", "-2h", "2999-01-01"} {
			form.Set("since", since)
			want(t, since, alice.Do("POST", page, form, ""), http.StatusUnprocessableEntity, "he time of the leak")
		}
		form.Set("since", "2h")
		want(t, "end", alice.Do("POST", page, form, ""), http.StatusSeeOther, "")
		after = alice.Do("GET", page, nil, "")
		want(t, "who has decided", after, http.StatusOK, "ended by admin:alice")
		if strings.Contains(after.Body, "Decide whether") {
			t.Error("the bar still asks for a decision that was made")
		}
	})
}

// The page before a revocation counts the logins that the click ends, also for a key that still signs: one of a moment
// before its activation may have a token of it, because the clocks of replicas differ.
func TestCountBeforeTheClick(t *testing.T) {
	each(t, consoletest.Options{}, func(t *testing.T, s *consoletest.Server) {
		s.Login("ada")
		alice := s.SignedIn("alice", admin.RoleKeyOperator)
		want(t, "rotate", alice.API("POST", "keys/rotate", `{"reason": "x", "force": true}`, "If-Match: *"),
			http.StatusOK, "")
		s.Login("grace")
		kid := s.Admin("").Keys().In("current")[0]
		counted := alice.API("GET", "keys/"+kid+"/exposure", "")
		want(t, "before", counted, http.StatusOK, `"grants": 2`)
		body := fmt.Sprintf(`{"reason": "leak", "kid": %q, "end_grants": "all"}`, kid)
		want(t, "the click", alice.API("POST", "keys/"+kid+"/revoke", body, "If-Match: *"), http.StatusOK,
			`"ended_grants": 2`)
	})
}

// Times of a leak as people type them.
func TestTimesOfALeak(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 2, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"2026-01-31T12:00:00Z":      "2026-01-31T12:00:00Z",
		"2026-01-31T12:00:00+02:00": "2026-01-31T10:00:00Z",
		" 2026-01-31 12:00 UTC ":    "2026-01-31T12:00:00Z",
		"2026-01-31 12:00:30":       "2026-01-31T12:00:30Z",
		"2026-01-31T12:00":          "2026-01-31T12:00:00Z",
		"2026-01-31":                "2026-01-31T00:00:00Z",
		"90m":                       "2026-02-01T10:30:00Z",
		"2d":                        "2026-01-30T12:00:00Z",
	} {
		got, err := console.SinceText(text, now)
		if err != nil || got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%q is %v, %v; want %s", text, got, err, want)
		}
	}
	if got, err := console.SinceText(" ", now); err != nil || !got.IsZero() {
		t.Errorf("nothing is %v, %v", got, err)
	}
}

// The bar names every leaked key, and stays for as long as a registered verifier trusts one of them.
func TestBarOfIncidents(t *testing.T) {
	t.Parallel()
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{})
	ctx := t.Context()
	v := consoletest.Must(s.Admin("x").Verifiers().Create(ctx, "orders", "https://api.example", ""))
	keys, now := s.Server.Store().Ring.JWKS(), storage.At(time.Now())
	if err := s.Server.Store().DB.Fetches().Add(ctx, []storage.Fetch{{
		FetchKey: storage.FetchKey{Handle: v.Handle, Source: "192.0.2.1", Agent: "go"},
		Version:  keys.Version,
		KIDs:     keys.KIDs,
		Newest:   keys.KIDs[0],
		Signer:   keys.Signer,
		GotAt:    now,
		BackAt:   now,
		FirstAt:  now,
		LastAt:   now,
		Times:    storage.FetchTimes{now},
		GotCount: 1,
		Count:    1,
	}}); err != nil {
		t.Fatal(err)
	}
	alice := s.SignedIn("alice", admin.RoleKeyOperator)
	var kids []string
	for range 2 {
		kid := s.Admin("").Keys().In("current")[0]
		body := fmt.Sprintf(`{"reason": "leak", "kid": %q}`, kid)
		want(t, "revoke", alice.API("POST", "keys/"+kid+"/revoke", body, "If-Match: *"), http.StatusOK, "")
		kids = append(kids, kid)
	}
	page := alice.Do("GET", "/users", nil, "").Body
	for _, kid := range kids {
		if !strings.Contains(page, `href="/keys/`+kid+`/revoke"`) {
			t.Errorf("the bar does not name %s", kid)
		}
	}
	if !strings.Contains(page, "<strong>orders</strong>") {
		t.Error("the bar does not name the verifier that trusts the keys")
	}
}

// A proxy on the same host may terminate TLS.
func TestProxyOnThisHost(t *testing.T) {
	t.Parallel()
	const site = "https://admin.example:8443"
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{
		Configure: func(c *config.Config) { c.AdminURLs = config.List{site} },
	})
	link := s.Link("alice", admin.RoleOperator)
	if !strings.HasPrefix(link, site+"/enter/") {
		t.Errorf("the link is %s", link)
	}
	c := s.Anonymous()
	host := "Host: admin.example:8443"
	entry := c.Do("GET", strings.TrimPrefix(link, site), nil, "", host)
	want(t, "the link", entry, http.StatusSeeOther, "")
	want(t, "of the site", c.Do("POST", "/enter", nil, "", host, "Origin: "+site), http.StatusSeeOther, "")
	want(t, "of plaintext", s.Anonymous().Do("POST", "/enter", nil, "", host, "Origin: http://admin.example:8443"),
		http.StatusForbidden, "nother site")
}

// A clock that goes back makes no sign-in recent, and no session live.
func TestClockGoesBack(t *testing.T) {
	t.Parallel()
	s := consoletest.Open(t, storagetest.SQLiteURL(t), consoletest.Options{})
	s.Later(3 * time.Hour)
	alice := s.SignedIn("alice", admin.RoleKeyOperator)
	s.Later(-3 * time.Hour)
	want(t, "a sign-in that lies ahead", alice.API("POST", "keys/rotate", `{"dry_run": true}`),
		http.StatusUnauthorized, "signed-out")
}

// Small faults that a review has found.
func TestReviewed(t *testing.T) {
	each(t, consoletest.Options{}, func(t *testing.T, s *consoletest.Server) {
		alice := s.SignedIn("alice", admin.RoleKeyOperator)
		key := "Idempotency-Key: dddddddddddddddddddddddd"
		first := alice.API("POST", "clients/app/disable", disable, "If-Match: *", key)
		if again := alice.API("POST", "clients/app/disable", disable, "If-Match: *",
			key); first.Header.Get("ETag") == "" ||
			again.Header.Get("ETag") != first.Header.Get("ETag") {
			t.Errorf("a replay has the ETag %q, not %q", again.Header.Get("ETag"), first.Header.Get("ETag"))
		}
		blank := url.Values{"reason": {"  \t "}, "revision": {"1"}}
		want(t, "a blank reason", alice.Do("POST", "/users/ada/unlock", blank, ""), http.StatusUnprocessableEntity,
			"he reason is missing")
		long := fmt.Sprintf(`{"reason": %q}`, strings.Repeat("x", 501))
		want(t, "a long reason", alice.API("POST", "users/ada/unlock", long, "If-Match: *"),
			http.StatusUnprocessableEntity, "longer than 500")
		gone := url.Values{"reason": {"x"}}
		want(t, "nobody is deleted", alice.Do("POST", "/admins/nobody/delete", gone, ""), http.StatusNotFound,
			"not found")
		want(t, "one's own access", alice.Do("POST", "/admins/alice/delete", gone, ""), http.StatusConflict,
			"your own access")
		want(t, "no session", s.OverSocket().Do("POST", "/sign-out-everywhere", url.Values{}, ""), http.StatusConflict,
			"no session to end")
		for _, method := range []string{"PUT", "PATCH", "OPTIONS", "TRACE"} {
			if a := alice.Do(method, "/keys", nil, ""); a.Status != http.StatusMethodNotAllowed ||
				a.Header.Get("Allow") == "" {
				t.Errorf("%s: %d, Allow %q", method, a.Status, a.Header.Get("Allow"))
			}
		}
		slip := s.Anonymous().Do("GET", "/enter/SECRET/", nil, "")
		if strings.Contains(fmt.Sprint(slip.Header), "SECRET") {
			t.Errorf("the token of a link goes to %v", slip.Header)
		}
		for range 21 {
			s.SignedIn("eve", admin.RoleViewer)
		}
		if out := records(t, s, "admin.sign-out"); len(out) != 1 || !strings.Contains(string(out[0].Details),
			"replaced") {
			t.Errorf("%d sign-outs of replaced sessions", len(out))
		}
		kid := s.Admin("").Keys().In("current")[0]
		body := fmt.Sprintf(`{"reason": "leak", "kid": %q}`, kid)
		want(t, "revoke", alice.API("POST", "keys/"+kid+"/revoke", body, "If-Match: *"), http.StatusOK, "")
		for _, path := range []string{"/nothing", "/audit?after=x", "/users/nobody"} {
			a := alice.Do("GET", path, nil, "")
			want(t, "the bar at "+path, a, a.Status, "A key has leaked")
		}
	})
}

// A list by prefix ends where the prefix does.
func TestPrefixEnds(t *testing.T) {
	each(t, consoletest.Options{}, func(t *testing.T, s *consoletest.Server) {
		var users []admin.ImportedUser
		for i := range 6000 {
			users = append(users, admin.ImportedUser{Row: i + 1, Username: fmt.Sprintf("b%04d", i)})
		}
		consoletest.Must(s.Admin("x").Users().Import(t.Context(), users, admin.ImportOptions{}))
		want(t, "one user, and no next page", s.OverSocket().API("GET", "users?prefix=ad", ""), http.StatusOK,
			`"next": null`)
	})
}
