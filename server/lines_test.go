package server

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// A login that ends within the second gives no token that is over when it arrives: it is invalid_grant.
func TestLastSecondOfALogin(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		at := &Clock{}
		at.at.Store(noon.Add(500 * time.Millisecond).UnixNano())
		c := ConfigFor(databaseURL)
		c.RefreshMaxTTL, c.RefreshIdleTTL = time.Hour, time.Hour
		h := OpenHarness(t, c, at)
		h.Provision()
		token := h.Login("app").RefreshToken
		h.Step(time.Hour - 600*time.Millisecond) // a second of it is left, at least in whole seconds
		tokens := h.Refresh("app", token).Tokens(t)
		if tokens.ExpiresIn < 1 {
			t.Errorf("expires_in %d", tokens.ExpiresIn)
		}
		h.Step(200 * time.Millisecond)
		if r := h.Refresh("app", tokens.RefreshToken); r.Status != 400 || r.Code(t) != "invalid_grant" {
			t.Errorf("%d %s", r.Status, r.Body)
		}
	})
}

// A token that our key has signed, but that begins at a time that has not come, is not active (RFC 7662 §4).
func TestTokenThatHasNotBegun(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		real := h.Login("app").AccessToken
		payload := Must(h.Server.ring.Verify(real)).Payload
		signer := Must(h.Server.ring.Signer(ctx, h.Clock.Now().Add(time.Hour)))
		for name, c := range map[string]struct {
			change map[string]any
			active bool
		}{
			"as it is":                {nil, true},
			"issued a little ahead":   {map[string]any{"iat": h.Clock.Now().Add(20 * time.Second).Unix()}, true},
			"issued an hour ahead":    {map[string]any{"iat": h.Clock.Now().Add(time.Hour).Unix()}, false},
			"not before an hour":      {map[string]any{"nbf": h.Clock.Now().Add(time.Hour).Unix()}, false},
			"not before a minute":     {map[string]any{"nbf": h.Clock.Now().Add(-time.Minute).Unix()}, true},
			"not before of no number": {map[string]any{"nbf": "tomorrow"}, false},
		} {
			claims := map[string]any{}
			Must(0, json.Unmarshal(payload, &claims))
			claims["jti"] = api.SampleTokenID
			for k, v := range c.change {
				claims[k] = v
			}
			token := Must(signer.Sign(keys.TypAccessToken, Must(json.Marshal(claims))))
			if got := h.Active("rs", token); got != c.active {
				t.Errorf("%s: active %v", name, got)
			}
		}
	})
}

// An assertion is a method of client authentication: with another one there are two (RFC 6749 §2.3), alone it is none
// that there is here.
func TestClientAssertion(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	h.Provision()
	r := h.Post("/introspect", "rs", "token", "x", "client_assertion", "y")
	if r.Status != 400 || r.Code(t) != "invalid_request" {
		t.Errorf("with Basic: %d %s", r.Status, r.Body)
	}
	r = h.Post("/introspect", "rs", "token", "x", "client_assertion_type", "y")
	if r.Status != 400 || r.Code(t) != "invalid_request" {
		t.Errorf("with Basic, the type alone: %d %s", r.Status, r.Body)
	}
	r = h.Post("/introspect", "", "token", "x", "client_assertion", "y", "client_id", "rs", "client_secret", secret)
	if r.Status != 400 || r.Code(t) != "invalid_request" {
		t.Errorf("with a secret: %d %s", r.Status, r.Body)
	}
	r = h.Post("/token", publicClient, "grant_type", "refresh_token", "refresh_token", "x", "client_assertion", "y")
	if r.Status != 401 {
		t.Errorf("alone: %d %s", r.Status, r.Body)
	}
}

// doctor tells of a server that runs here and is not ready, and what a public client and late retries mean.
func TestDoctorAsksTheServer(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	h.Provision()
	listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.Server.look(ctx)
		h.Server.AdminHandler().ServeHTTP(w, r)
	}))
	defer listener.Close()
	c := h.Config
	c.AdminListen, c.RefreshLateRetry = strings.TrimPrefix(listener.URL, "http://"), 24*time.Hour
	found := func(check string, status admin.FindingStatus, says string) bool {
		for _, f := range DoctorOf(ctx, c, admin.Options{Actor: "os:test"}, nil) {
			if f.Check == check && f.Status == status && strings.Contains(f.Found, says) {
				return true
			}
		}
		return false
	}
	if !found("server", admin.FindingOK, "is ready") || !found("late retry", admin.FindingOK, "1 public clients") {
		t.Error("nothing of the server, or of late retries")
	}
	stranger := httptest.NewServer(http.NotFoundHandler())
	defer stranger.Close()
	c.AdminListen = strings.TrimPrefix(stranger.URL, "http://")
	if !found(admin.CheckConfiguration, admin.FindingFailed, "admin_listen: listen tcp") {
		t.Error("a stranger is taken for a server")
	}
	c.AdminListen = strings.TrimPrefix(listener.URL, "http://")
	h.Server.stopping.Store(true)
	if !found("server", admin.FindingFailed, "is not ready: serving") {
		t.Error("a server that is not ready is not told of")
	}
}
