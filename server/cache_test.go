package server

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/storage"
)

// remember has the server read clients, which it then remembers.
func (h *harness) remember(clients ...string) {
	h.t.Helper()
	h.server.clients.age = clientAge
	for _, client := range clients {
		h.post("/revoke", client, "token", "x")
		if _, ok := h.server.clients.recent(client, h.clock.now()); !ok {
			h.t.Errorf("%s is not remembered", client)
		}
	}
}

const anotherSecret = "another secret of the client, as long"

// What is refused because the client has changed meanwhile leaves the refresh token as it was, and the grant alive.
func TestRememberedClientLosesNothing(t *testing.T) {
	t.Parallel()
	update := func(change func(*admin.ClientSpec)) func(h *harness) {
		return func(h *harness) { must(h.admin.Clients().Update(ctx, "app", change)) }
	}
	for _, c := range []struct {
		name         string
		change, back func(*harness)
		want         string
		used         bool // the token was used before, and long ago
	}{
		{"grant type", update(func(c *admin.ClientSpec) { c.Grants = c.Grants[:1] }),
			update(func(c *admin.ClientSpec) { c.Grants = append(c.Grants, "refresh_token") }), "unauthorized_client", false},
		{"scope", update(func(c *admin.ClientSpec) { c.Scope = "other" }), update(func(c *admin.ClientSpec) { c.Scope = "read write" }),
			"invalid_scope", false},
		{"audience", update(func(c *admin.ClientSpec) { c.Audiences = []string{"urn:x"} }),
			update(func(c *admin.ClientSpec) { c.Audiences = []string{"https://api.example"} }), "invalid_target", false},
		{"secret", func(h *harness) { must(h.admin.Clients().RotateSecret(ctx, "app", anotherSecret, 0)) },
			func(h *harness) { must(h.admin.Clients().RotateSecret(ctx, "app", secret, 0)) }, "invalid_client", false},
		{"secret, at reuse", func(h *harness) { must(h.admin.Clients().RotateSecret(ctx, "app", anotherSecret, 0)) },
			func(h *harness) { must(h.admin.Clients().RotateSecret(ctx, "app", secret, 0)) }, "invalid_client", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(t *testing.T, h *harness) {
				tokens := h.login("app")
				newest := tokens.RefreshToken
				if c.used {
					newest = h.refresh("app", tokens.RefreshToken).tokens(t).RefreshToken
					h.step(time.Minute)
				}
				h.clock.at.Add(int64(time.Millisecond)) // a client is not made and changed at one moment
				h.remember("app")
				c.change(h)
				if r := h.refresh("app", tokens.RefreshToken); r.code(t) != c.want {
					t.Errorf("%d %s", r.status, r.body)
				}
				if !h.active("rs", tokens.AccessToken) {
					t.Error("the grant has ended")
				}
				c.back(h)
				h.step(time.Minute)
				h.refresh("app", newest).tokens(t)
			})
		})
	}
}

// The key that signs is kept for as long as the token lives by the client of today.
func TestRememberedClientHasItsKeyKept(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		tokens := h.login("app")
		h.remember("app")
		must(h.admin.Clients().Update(ctx, "app", func(c *admin.ClientSpec) { c.AccessTTL = time.Hour }))
		refreshed := h.refresh("app", tokens.RefreshToken).tokens(t)
		if refreshed.ExpiresIn != 3600 {
			t.Error(refreshed.ExpiresIn)
		}
		for _, key := range must(h.server.db.SigningKeys().All(ctx)).Keys {
			if key.State == storage.KeyCurrent && key.SignsUntil.Before(noon.Add(time.Hour)) {
				t.Errorf("the key signs until %v", key.SignsUntil)
			}
		}
	})
}

// An old secret is ended by giving the client once more the new one; who remembers the client does not take the old
// one.
func TestRememberedClientAndTheSameSecretAgain(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		tokens, live := h.login("app"), h.login("other")
		for _, client := range []string{"app", "rs"} {
			must(h.admin.Clients().RotateSecret(ctx, client, anotherSecret, time.Hour))
		}
		h.remember("app", "rs")
		for _, client := range []string{"app", "rs"} {
			must(h.admin.Clients().RotateSecret(ctx, client, anotherSecret, 0))
		}
		for _, r := range []reply{h.post("/introspect", "rs", "token", live.AccessToken),
			h.refresh("app", tokens.RefreshToken), h.post("/revoke", "app", "token", tokens.AccessToken)} {
			if r.status != 401 {
				t.Errorf("%d %s", r.status, r.body)
			}
		}
	})
}

// A request that is begun again for a client that has changed is told, counted and charged for once.
func TestRememberedClientIsToldOfOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		for i := range unknownTokens - 1 {
			h.post("/introspect", "rs", "token", fmt.Sprint("x", i))
		}
		h.remember("app", "rs")
		for _, client := range []string{"app", "rs"} {
			must(h.admin.Clients().RotateSecret(ctx, client, anotherSecret, time.Hour))
		}
		before := len(h.log.String())
		h.post("/revoke", "app", "token", "x")
		h.remember("app")
		h.refresh("app", "x")
		for _, event := range []string{"nothing to revoke", "malformed"} {
			if n := strings.Count(h.log.String()[before:], event); n == 0 || n > 2 || n > 1 && event == "malformed" {
				t.Errorf("%d times %s", n, event)
			}
		}
		w := httptest.NewRecorder()
		h.server.AdminHandler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if !regexp.MustCompile(`keyturn_token_requests_total{.*refresh_token.*} 1\n`).MatchString(w.Body.String()) {
			t.Error("the refresh was not counted once")
		}
		if r := h.post("/introspect", "rs", "token", "x"); r.status != 200 {
			t.Errorf("the last unknown token that may be asked about: %d", r.status)
		}
		if r := h.post("/introspect", "rs", "token", "x"); r.status != 429 {
			t.Errorf("one more: %d", r.status)
		}
	})
}

// A caller who hangs up says nothing about the database: what is called an outage keeps retries safe for longer.
func TestCallerWhoHangsUpIsNoOutage(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		tokens := h.login("app")
		before := len(h.server.ring.Outages())
		for _, remembered := range []bool{false, true} {
			if remembered {
				h.remember("rs")
			}
			r := httptest.NewRequest("POST", "/introspect", strings.NewReader("token="+tokens.AccessToken))
			r.Header.Set("Content-Type", formMediaType)
			r.Header.Set("Authorization", basic("rs", secret))
			hungUp, hangUp := context.WithCancel(r.Context())
			hangUp()
			h.server.PublicHandler().ServeHTTP(httptest.NewRecorder(), r.WithContext(hungUp))
		}
		if after := h.server.ring.Outages(); len(after) != before {
			t.Errorf("%v", after)
		}
	})
}

// A client is remembered for a second, and yet whatever is changed of it counts at once, at every endpoint and for
// every answer.
func TestRememberedClientIsAskedAbout(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		h.server.clients.age = clientAge
		tokens := h.login("app")
		live := h.login("other")
		remember := func() { h.remember("app", "rs") }
		requests := map[string]func() reply{
			"introspect a live token":    func() reply { return h.post("/introspect", "rs", "token", live.AccessToken) },
			"introspect an unknown text": func() reply { return h.post("/introspect", "rs", "token", "x") },
			"introspect refresh token":   func() reply { return h.post("/introspect", "rs", "token", live.RefreshToken) },
			"refresh": func() reply {
				return h.post("/token", "app", "grant_type", "refresh_token", "refresh_token", tokens.RefreshToken)
			},
			"refresh with a bad token": func() reply {
				return h.post("/token", "app", "grant_type", "refresh_token",
					"refresh_token", "x")
			},
			"login": func() reply {
				return h.post("/token", "app", "grant_type", "password", "username", "alice", "password", password)
			},
			"a grant that is none": func() reply { return h.post("/token", "app", "grant_type", "implicit") },
			"revoke":               func() reply { return h.post("/revoke", "app", "token", tokens.AccessToken) },
			"revoke nothing":       func() reply { return h.post("/revoke", "app", "token", "x") },
		}
		both := func(change func(client string)) { change("app"); change("rs") }
		for name, send := range requests {
			remember()
			both(func(client string) { must(0, h.admin.Clients().Disable(ctx, client)) })
			if r := send(); r.status != 401 || r.code(t) != "invalid_client" {
				t.Errorf("%s, disabled: %d %s", name, r.status, r.body)
			}
			both(func(client string) { must(0, h.admin.Clients().Enable(ctx, client)) })
			if name == "introspect a live token" {
				if r := send(); r.status != 200 {
					t.Errorf("%s, enabled again: %d %s", name, r.status, r.body)
				}
			}
			remember()
			both(func(client string) { must(h.admin.Clients().RotateSecret(ctx, client, anotherSecret, 0)) })
			if r := send(); r.status != 401 {
				t.Errorf("%s, by the old secret: %d %s", name, r.status, r.body)
			}
			both(func(client string) { must(h.admin.Clients().RotateSecret(ctx, client, secret, 0)) })
		}
		remember()
		if r := requests["revoke"](); r.status != 200 || h.active("rs", tokens.AccessToken) {
			t.Errorf("a client that was disabled could revoke before: %d %s", r.status, r.body)
		}
	})
}

// A new secret works, and a scope that was taken away is gone, at once; so does a login after all grants of the client
// were ended.
func TestRememberedClientHasNewRights(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		h.server.clients.age = clientAge
		tokens := h.login("app")
		must(h.admin.Clients().RotateSecret(ctx, "other", anotherSecret, time.Hour))
		r := must(http.NewRequest(http.MethodPost, h.base+"/revoke", strings.NewReader("token=x")))
		r.Header.Set("Content-Type", formMediaType)
		r.Header.Set("Authorization", basic("other", anotherSecret))
		if status := h.send(r).status; status != 200 {
			t.Errorf("the new secret: %d", status)
		}
		must(h.admin.Clients().Update(ctx, "app", func(c *admin.ClientSpec) { c.Scope = "read" }))
		refreshed := h.post("/token", "app", "grant_type", "refresh_token", "refresh_token", tokens.RefreshToken).tokens(t)
		if refreshed.Scope != "read" {
			t.Errorf("scope %q", refreshed.Scope)
		}
		must(0, h.server.db.Clients().RevokeGrants(ctx, storage.Actor{Name: "os:test"}, "app", h.clock.now()))
		if h.active("rs", refreshed.AccessToken) {
			t.Error("a grant lives")
		}
		h.login("app")
	})
}

// However many tokens there are, few are remembered, and the newest are among them.
func TestTokenCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := newTokenCache()
	sum := func(i int) (s [sha256.Size]byte) {
		binary.BigEndian.PutUint64(s[:], uint64(i))
		return s
	}
	for i := range 5 * maxVerified {
		c.keep(sum(i), &verified{})
		if c.find(sum(0)) == nil {
			t.Fatal("one that is asked about all the time was forgotten")
		}
	}
	if n := len(c.young) + len(c.old); n > 2*maxVerified {
		t.Errorf("%d tokens", n)
	}
	if c.find(sum(5*maxVerified-1)) == nil || c.find(sum(1)) != nil {
		t.Error("not the newest")
	}
}
