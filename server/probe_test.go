package server

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/probe"
	"github.com/keyturn/keyturn/probe/probetest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// offlineAPI is an API of the resource server rs that verifies tokens by the JWKS of the replica, fetched for each
// token.
func (h *Harness) offlineAPI(audience string) *probetest.Verifier {
	return &probetest.Verifier{
		Issuer:   issuer,
		Resource: audience,
		Keys: func(kid string) *rsa.PublicKey {
			var set jose.JSONWebKeySet
			Must(0, json.Unmarshal(h.Server.ring.JWKS().Body, &set))
			for _, key := range set.Key(kid) {
				return key.Key.(*rsa.PublicKey)
			}
			return nil
		},
		Ended: func(string) bool { return false },
		Now:   h.Clock.Now,
	}
}

// introspectingAPI is an API of rs that asks the replica about each token, and keeps the tokens.
func (h *Harness) introspectingAPI(seen func(token string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		seen(token)
		if token == "" || !h.Active("rs", token) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
}

// probe runs a probe of rs.
func (h *Harness) probe(t *testing.T, api http.Handler, change func(*admin.ProbeSpec)) (admin.ProbeReport, error) {
	t.Helper()
	server := httptest.NewServer(api)
	defer server.Close()
	Must(h.Admin.Clients().Update(ctx, "rs", func(s *admin.ClientSpec) { s.ProbeOrigin = server.URL }))
	spec := admin.ProbeSpec{ID: "rs", URL: server.URL, Pause: time.Nanosecond, Settle: time.Nanosecond}
	spec.Generate = keystest.Generator()
	for range 5 { // the replica has the first ones
		Must(spec.Generate(2048))
	}
	if change != nil {
		change(&spec)
	}
	return h.Admin.Probes().Run(ctx, spec)
}

// nothingLeft requires that no client, user, login or status list of a probe is left.
func (h *Harness) nothingLeft(t *testing.T) {
	t.Helper()
	Must(0, h.Admin.Clients().Each(ctx, func(page []admin.Client) error {
		for _, c := range page {
			if strings.HasPrefix(c.ID, "keyturn-probe") {
				t.Errorf("client %s is left", c.ID)
			}
		}
		return nil
	}))
	for _, u := range Must(AllUsers(h.Admin)) {
		if u.Username != "alice" {
			t.Errorf("user %s is left", u.Username)
		}
	}
	if grants := Must(AllGrants(h.Admin, "", "")); len(grants) != 0 {
		t.Errorf("grants are left: %v", grants)
	}
	raw := storagetest.Raw(t, h.Config.Database)
	for _, table := range []string{"status_lists", "status_ranges", "status_marks", "probe_runs"} {
		var n int
		Must(0, raw.QueryRow(`SELECT COUNT(*) FROM `+table).Scan(&n))
		if n != 0 {
			t.Errorf("%d rows of %s are left", n, table)
		}
	}
}

// A strict API that verifies offline is as it must be. It accepts a token of the next key, which makes the verifiers of
// its resource ready. Nothing is left but the report and two audit records.
func TestProbeOfAnOfflineAPI(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		h.register("orders")
		var young *keys.TooYoungError
		_, err := h.probe(t, h.offlineAPI("https://api.example"), func(s *admin.ProbeSpec) { s.Next = true })
		if !errors.As(err, &young) || !admin.ErrRefused(err) {
			t.Errorf("a next key that is too young: %v", err)
		}
		h.Step(25 * time.Hour)
		report := Must(h.probe(t, h.offlineAPI("https://api.example"), func(s *admin.ProbeSpec) {
			s.Next, s.Endless = true, true
		}))
		if !report.OK() || !report.NextOK || !report.Booked || report.NextKID != Must(h.Admin.Keys().Status(ctx)).Next {
			t.Errorf("%+v", report)
		}
		v := h.reading("orders")
		if v.Verdict != keys.VerdictReady || !strings.Contains(v.Evidence, "accepted a token of") {
			t.Errorf("%+v", v)
		}
		next := h.Server.ring.Rows()
		i := slices.IndexFunc(next, func(k storage.SigningKey) bool { return k.KID == report.NextKID })
		Must(0, h.Server.ring.Poll(ctx))
		if until := h.Server.ring.Rows()[i].SignsUntil; until.Before(h.Clock.Now().Add(time.Minute)) {
			t.Errorf("the tokens are not booked on the next key: %v", until)
		}
		h.nothingLeft(t)
		for _, kind := range []string{"probe.begin", "probe.end"} {
			if n := len(Must(AllAudit(h.Admin, time.Time{}, kind))); n != 1 {
				t.Errorf("%d records %s", n, kind)
			}
		}
		Must(h.Admin.Keys().Rotate(ctx, admin.Gate{WhenReady: true}))
		if v := h.reading("orders"); v.Verdict != keys.VerdictSilent {
			t.Errorf("after the rotation the old answer counts: %+v", v)
		}
	})
}

// An API that introspects refuses what is wrong, no token of a run sets off the alarm of forged tokens, and after the
// run none is alive.
func TestProbeOfAnIntrospectingAPI(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		var mu sync.Mutex
		seen := map[string]bool{}
		report := Must(h.probe(t, h.introspectingAPI(func(token string) {
			mu.Lock()
			defer mu.Unlock()
			seen[token] = true
		}), func(s *admin.ProbeSpec) { s.Endless, s.Revocation, s.Scope = true, true, " read   write " }))
		if report.Stopped != "" || len(report.Results) < 35 {
			t.Fatalf("%+v", report)
		}
		for _, result := range report.Results {
			if result.Red && result.ID != "no-scope" { // the API needs none
				t.Errorf("%+v", result)
			}
			if result.ID == "ended" && result.Got != probe.Refused {
				t.Errorf("%+v", result)
			}
		}
		if r := report.Revocation; r == nil || !r.Refused {
			t.Errorf("%+v", r)
		}
		if n := len(h.forgeryRecords()); n != 0 {
			t.Errorf("%d tokens of the probe count as forged", n)
		}
		for token := range seen {
			if token != "" && (h.Active("rs", token) || h.Active("rs2", token)) {
				t.Errorf("a token is alive after the run")
			}
		}
		h.nothingLeft(t)
	})
}

// No token of a run is good at an API with another audience.
func TestProbeTokensAreGoodNowhereElse(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		h.Step(25 * time.Hour)
		other := h.offlineAPI("https://mail.example")
		ours := h.offlineAPI("https://api.example")
		var n, good int
		report := Must(h.probe(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n++
			elsewhere := httptest.NewRecorder()
			other.ServeHTTP(elsewhere, r)
			if elsewhere.Code == http.StatusOK {
				good++
			}
			ours.ServeHTTP(w, r)
		}), func(s *admin.ProbeSpec) { s.Next, s.Endless = true, true }))
		if good != 0 || n < 40 || !report.OK() {
			t.Errorf("%d of %d tokens are good at another audience: %+v", good, n, report)
		}
	})
}

// With status_list: on, tokens name a list in which an ended login is marked.
func TestProbeWithStatusLists(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		h.Config.StatusList = config.StatusListOn
		h.Server.Follow(h.Config)
		h.Admin = admin.New(h.Server.store, h.Config, h.Server.place, admin.Options{Actor: "os:test", Now: h.Clock.Now})
		v := h.offlineAPI("https://api.example")
		var mu sync.Mutex
		var lists []api.StatusReference
		Must(h.probe(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if strings.Count(token, ".") == 2 {
				var claims struct{ Status api.Status }
				payload := Must(base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1]))
				Must(0, json.Unmarshal(payload, &claims))
				mu.Lock()
				lists = append(lists, claims.Status.List)
				mu.Unlock()
			}
			v.ServeHTTP(w, r)
		}), nil))
		places := map[int64]bool{}
		for _, l := range lists {
			if !strings.HasPrefix(l.URI, issuer+"/status/") {
				t.Errorf("%+v", l)
			}
			places[l.Index] = true
		}
		if len(places) != 2 {
			t.Errorf("%v", places)
		}
		h.nothingLeft(t)
	})
}

// What a killed probe leaves is removed by the next clean-up, and not before its time.
func TestKilledProbe(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		entered, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		v := h.offlineAPI("https://api.example")
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			once.Do(func() { close(entered); <-release })
			v.ServeHTTP(w, r)
		}))
		defer server.Close()
		killed := admin.New(h.Server.store, h.Config, h.Server.place, admin.Options{Actor: "os:test", Now: h.Clock.Now})
		done := make(chan error)
		go func() {
			_, err := killed.Probes().Run(ctx, admin.ProbeSpec{ID: "rs", URL: server.URL, Pause: time.Nanosecond})
			done <- err
		}()
		<-entered
		clients := 0
		Must(0, h.Admin.Clients().Each(ctx, func(page []admin.Client) error { clients += len(page); return nil }))
		Must(0, h.Server.cleanUpOnce(ctx))
		after := 0
		Must(0, h.Admin.Clients().Each(ctx, func(page []admin.Client) error { after += len(page); return nil }))
		if clients != 7 || after != clients {
			t.Errorf("%d clients during the run, %d after a clean-up", clients, after)
		}
		h.Step(6 * time.Minute) // as if the process were gone
		Must(0, h.Server.cleanUpOnce(ctx))
		h.nothingLeft(t)
		close(release)
		<-done
		h.nothingLeft(t)
	})
}

// The last ten reports are kept.
func TestProbeReports(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		closed := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
		})
		for range 12 {
			h.Step(time.Second)
			report := Must(h.probe(t, closed, nil))
			if report.OK() || report.Stopped == "" {
				t.Errorf("%+v", report)
			}
		}
		reports := Must(h.Admin.Probes().Reports(ctx, "rs"))
		if len(reports) != storage.MaxProbeReports || !reports[0].At.Equal(h.Clock.Now()) ||
			len(reports[0].Results) != 3 {
			t.Errorf("%d reports, the newest %+v", len(reports), reports[0])
		}
		if _, err := h.Admin.Probes().Reports(ctx, "app"); !errors.Is(err, admin.ErrNotFound) {
			t.Errorf("a client that is no resource server: %v", err)
		}
	})
}

// What a guard refuses leaves no record, and sends nothing.
func TestProbeIsRefused(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		for _, url := range []string{"http://192.0.2.1/", "https://127.0.0.1.nip.invalid/", "https://192.0.2.1/", "x"} {
			_, err := h.Admin.Probes().Run(ctx, admin.ProbeSpec{ID: "rs", URL: url})
			if !admin.ErrRefused(err) {
				t.Errorf("%s: %v", url, err)
			}
		}
		if _, err := h.Admin.Probes().Run(ctx, admin.ProbeSpec{ID: "r", URL: "http://127.0.0.1:1/"}); !errors.Is(err,
			admin.ErrNotFound) {
			t.Errorf("%v", err)
		}
		if n := len(Must(AllAudit(h.Admin, time.Time{}, "probe.begin"))); n != 0 {
			t.Errorf("%d records", n)
		}
		for _, origin := range []string{"api.example", "https://api.example/path", "https://api.example/?x", "ftp:"} {
			_, err := h.Admin.Clients().Update(ctx, "rs", func(s *admin.ClientSpec) { s.ProbeOrigin = origin })
			if !errors.Is(err, admin.ErrInvalid) {
				t.Errorf("origin %s: %v", origin, err)
			}
		}
		if c := Must(h.Admin.Clients().Update(ctx, "rs", func(s *admin.ClientSpec) {
			s.ProbeOrigin = "https://API.example:443/"
		})); c.ProbeOrigin != "https://api.example" {
			t.Error(c.ProbeOrigin)
		}
	})
}

// A probe that is broken off cleans up, and keeps what it found.
func TestProbeIsBrokenOff(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		v := h.offlineAPI("https://api.example")
		broken, cancel := context.WithCancel(ctx)
		n := 0
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n++; n == 10 {
				cancel()
			}
			v.ServeHTTP(w, r)
		}))
		defer server.Close()
		_, err := h.Admin.Probes().Run(broken, admin.ProbeSpec{ID: "rs", URL: server.URL, Pause: time.Nanosecond})
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		h.nothingLeft(t)
		if reports := Must(h.Admin.Probes().Reports(ctx, "rs")); len(reports) != 1 || len(reports[0].Results) < 5 ||
			!strings.Contains(reports[0].Stopped, "broken off") {
			t.Errorf("%+v", reports)
		}
	})
}
