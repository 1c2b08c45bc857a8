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
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// remember has the server read clients, which it then remembers.
func (h *Harness) remember(clients ...string) {
	h.T.Helper()
	h.Server.clients.age = clientAge
	for _, client := range clients {
		h.Post("/revoke", client, "token", "x")
		if _, ok := h.Server.clients.recent(client, h.Clock.Now()); !ok {
			h.T.Errorf("%s is not remembered", client)
		}
	}
}

const anotherSecret = "another secret of the client, as long"

// What is refused because the client has changed meanwhile leaves the refresh token as it was, and the grant alive.
func TestRememberedClientLosesNothing(t *testing.T) {
	t.Parallel()
	update := func(change func(*admin.ClientSpec)) func(h *Harness) {
		return func(h *Harness) { Must(h.Admin.Clients().Update(ctx, "app", change)) }
	}
	for _, c := range []struct {
		name         string
		change, back func(*Harness)
		want         string
		used         bool // the token was used before, and long ago
	}{
		{
			"grant type",
			update(func(c *admin.ClientSpec) { c.Grants = c.Grants[:1] }),
			update(func(c *admin.ClientSpec) { c.Grants = append(c.Grants, "refresh_token") }),
			"unauthorized_client",
			false,
		},
		{
			"scope",
			update(func(c *admin.ClientSpec) { c.Scope = "other" }),
			update(func(c *admin.ClientSpec) { c.Scope = "read write" }),
			"invalid_scope",
			false,
		},
		{
			"audience",
			update(func(c *admin.ClientSpec) { c.Audiences = []string{"urn:x"} }),
			update(func(c *admin.ClientSpec) { c.Audiences = []string{"https://api.example"} }),
			"invalid_target",
			false,
		},
		{"secret", func(h *Harness) {
			Must(h.Admin.Clients().RotateSecret(ctx, "app", admin.SecretRotation{Secret: anotherSecret, Keep: 0}))
		},
			func(h *Harness) {
				Must(h.Admin.Clients().RotateSecret(ctx, "app", admin.SecretRotation{Secret: secret, Keep: 0}))
			}, "invalid_client", false},
		{"secret, at reuse", func(h *Harness) {
			Must(h.Admin.Clients().RotateSecret(ctx, "app", admin.SecretRotation{Secret: anotherSecret, Keep: 0}))
		},
			func(h *Harness) {
				Must(h.Admin.Clients().RotateSecret(ctx, "app", admin.SecretRotation{Secret: secret, Keep: 0}))
			}, "invalid_client", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			Each(t, func(t *testing.T, h *Harness) {
				tokens := h.Login("app")
				newest := tokens.RefreshToken
				if c.used {
					newest = h.Refresh("app", tokens.RefreshToken).Tokens(t).RefreshToken
					h.Step(time.Minute)
				}
				h.Clock.at.Add(int64(time.Millisecond)) // a client is not made and changed at one moment
				h.remember("app")
				c.change(h)
				if r := h.Refresh("app", tokens.RefreshToken); r.Code(t) != c.want {
					t.Errorf("%d %s", r.Status, r.Body)
				}
				if !h.Active("rs", tokens.AccessToken) {
					t.Error("the grant has ended")
				}
				c.back(h)
				h.Step(time.Minute)
				h.Refresh("app", newest).Tokens(t)
			})
		})
	}
}

// A key stays published for the token lifetime that the client has now.
func TestRememberedClientHasItsKeyKept(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		tokens := h.Login("app")
		h.remember("app")
		Must(h.Admin.Clients().Update(ctx, "app", func(c *admin.ClientSpec) { c.AccessTTL = time.Hour }))
		refreshed := h.Refresh("app", tokens.RefreshToken).Tokens(t)
		if refreshed.ExpiresIn != 3600 {
			t.Error(refreshed.ExpiresIn)
		}
		for _, key := range Must(h.Server.db.SigningKeys().All(ctx)).Keys {
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
	Each(t, func(t *testing.T, h *Harness) {
		tokens, live := h.Login("app"), h.Login("other")
		for _, client := range []string{"app", "rs"} {
			Must(h.Admin.Clients().RotateSecret(ctx, client, kept(anotherSecret)))
		}
		h.remember("app", "rs")
		for _, client := range []string{"app", "rs"} {
			Must(h.Admin.Clients().RotateSecret(ctx, client, admin.SecretRotation{Secret: anotherSecret, Keep: 0}))
		}
		for _, r := range []Reply{h.Post("/introspect", "rs", "token", live.AccessToken),
			h.Refresh("app", tokens.RefreshToken), h.Post("/revoke", "app", "token", tokens.AccessToken)} {
			if r.Status != 401 {
				t.Errorf("%d %s", r.Status, r.Body)
			}
		}
	})
}

// If an endpoint runs again because the client has changed, the request is logged, counted and charged once.
func TestRememberedClientIsToldOfOnce(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		for i := range unknownTokens - 1 {
			h.Post("/introspect", "rs", "token", fmt.Sprint("x", i))
		}
		h.remember("app", "rs")
		for _, client := range []string{"app", "rs"} {
			Must(h.Admin.Clients().RotateSecret(ctx, client, kept(anotherSecret)))
		}
		before := len(h.Log.String())
		h.Post("/revoke", "app", "token", "x")
		h.remember("app")
		h.Refresh("app", "x")
		for _, event := range []string{"nothing to revoke", "malformed"} {
			if n := strings.Count(h.Log.String()[before:], event); n == 0 || n > 2 || n > 1 && event == "malformed" {
				t.Errorf("%d times %s", n, event)
			}
		}
		w := httptest.NewRecorder()
		h.Server.AdminHandler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if !regexp.MustCompile(`keyturn_token_requests_total{.*refresh_token.*} 1\n`).MatchString(w.Body.String()) {
			t.Error("the refresh was not counted once")
		}
		if r := h.Post("/introspect", "rs", "token", "x"); r.Status != 200 {
			t.Errorf("the last unknown token that may be asked about: %d", r.Status)
		}
		if r := h.Post("/introspect", "rs", "token", "x"); r.Status != 429 {
			t.Errorf("one more: %d", r.Status)
		}
	})
}

// A caller who hangs up does not count as an outage of the database, which would extend the retry window.
func TestCallerWhoHangsUpIsNoOutage(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		tokens := h.Login("app")
		before := len(h.Server.ring.Outages())
		for _, remembered := range []bool{false, true} {
			if remembered {
				h.remember("rs")
			}
			r := httptest.NewRequest("POST", "/introspect", strings.NewReader("token="+tokens.AccessToken))
			r.Header.Set("Content-Type", formMediaType)
			r.Header.Set("Authorization", Basic("rs", secret))
			hungUp, hangUp := context.WithCancel(r.Context())
			hangUp()
			h.Server.PublicHandler().ServeHTTP(httptest.NewRecorder(), r.WithContext(hungUp))
		}
		if after := h.Server.ring.Outages(); len(after) != before {
			t.Errorf("%v", after)
		}
	})
}

// A client is remembered for a second, and yet whatever is changed of it counts at once, at every endpoint and for
// every answer.
func TestRememberedClientIsAskedAbout(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		h.Server.clients.age = clientAge
		tokens := h.Login("app")
		live := h.Login("other")
		remember := func() { h.remember("app", "rs") }
		requests := map[string]func() Reply{
			"introspect a live token": func() Reply {
				return h.Post("/introspect", "rs", "token", live.AccessToken)
			},
			"introspect an unknown text": func() Reply { return h.Post("/introspect", "rs", "token", "x") },
			"introspect refresh token": func() Reply {
				return h.Post("/introspect", "rs", "token", live.RefreshToken)
			},
			"refresh": func() Reply {
				return h.Post("/token", "app", "grant_type", "refresh_token", "refresh_token", tokens.RefreshToken)
			},
			"refresh with a bad token": func() Reply {
				return h.Post("/token", "app", "grant_type", "refresh_token",
					"refresh_token", "x")
			},
			"login": func() Reply {
				return h.Post("/token", "app", "grant_type", "password", "username", "alice", "password", password)
			},
			"a grant that is none": func() Reply { return h.Post("/token", "app", "grant_type", "implicit") },
			"revoke":               func() Reply { return h.Post("/revoke", "app", "token", tokens.AccessToken) },
			"revoke nothing":       func() Reply { return h.Post("/revoke", "app", "token", "x") },
		}
		both := func(change func(client string)) { change("app"); change("rs") }
		for name, send := range requests {
			remember()
			both(func(client string) { Must(0, h.Admin.Clients().Disable(ctx, client)) })
			if r := send(); r.Status != 401 || r.Code(t) != "invalid_client" {
				t.Errorf("%s, disabled: %d %s", name, r.Status, r.Body)
			}
			both(func(client string) { Must(0, h.Admin.Clients().Enable(ctx, client)) })
			if name == "introspect a live token" {
				if r := send(); r.Status != 200 {
					t.Errorf("%s, enabled again: %d %s", name, r.Status, r.Body)
				}
			}
			remember()
			both(func(client string) {
				Must(h.Admin.Clients().RotateSecret(ctx, client, admin.SecretRotation{Secret: anotherSecret, Keep: 0}))
			})
			if r := send(); r.Status != 401 {
				t.Errorf("%s, by the old secret: %d %s", name, r.Status, r.Body)
			}
			both(func(client string) {
				Must(h.Admin.Clients().RotateSecret(ctx, client, admin.SecretRotation{Secret: secret, Keep: 0}))
			})
		}
		remember()
		if r := requests["revoke"](); r.Status != 200 || h.Active("rs", tokens.AccessToken) {
			t.Errorf("a client that was disabled could revoke before: %d %s", r.Status, r.Body)
		}
	})
}

// A new secret works, and a scope that was taken away is gone, at once; so does a login after all grants of the client
// were ended.
func TestRememberedClientHasNewRights(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		h.Server.clients.age = clientAge
		tokens := h.Login("app")
		Must(h.Admin.Clients().RotateSecret(ctx, "other", kept(anotherSecret)))
		r := Must(http.NewRequest(http.MethodPost, h.Base+"/revoke", strings.NewReader("token=x")))
		r.Header.Set("Content-Type", formMediaType)
		r.Header.Set("Authorization", Basic("other", anotherSecret))
		if status := h.Send(r).Status; status != 200 {
			t.Errorf("the new secret: %d", status)
		}
		Must(h.Admin.Clients().Update(ctx, "app", func(c *admin.ClientSpec) { c.Scope = "read" }))
		refreshed := h.Post("/token", "app", "grant_type", "refresh_token", "refresh_token", tokens.RefreshToken).
			Tokens(t)
		if refreshed.Scope != "read" {
			t.Errorf("scope %q", refreshed.Scope)
		}
		Must(0, h.Server.db.Clients().RevokeGrants(ctx, storage.Actor{Name: "os:test"}, "app", h.Clock.Now()))
		if h.Active("rs", refreshed.AccessToken) {
			t.Error("a grant lives")
		}
		h.Login("app")
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

// A client that changes all the time is answered as any other: what has changed since it was read is no failure.
func TestClientThatChangesAllTheTime(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		h.Server.clients.age = clientAge
		tokens := h.Login("app")
		raw := storagetest.Raw(t, h.Config.Database)
		changing, stop := context.WithCancel(ctx)
		var done sync.WaitGroup
		done.Go(func() {
			for changing.Err() == nil {
				raw.ExecContext(changing, `UPDATE clients SET revision = revision + 1`)
			}
		})
		for range 100 {
			if !h.Active("rs", tokens.AccessToken) {
				t.Error("the token is not active")
			}
			tokens = h.Refresh("app", tokens.RefreshToken).Tokens(t)
		}
		if r := h.Post("/revoke", "app", "token", tokens.RefreshToken); r.Status != 200 {
			t.Errorf("%d %s", r.Status, r.Body)
		}
		stop()
		done.Wait()
		if h.Active("rs", tokens.AccessToken) {
			t.Error("the grant is alive")
		}
	})
}

// kept is a new secret beside which the old one works for an hour.
func kept(secret string) admin.SecretRotation {
	return admin.SecretRotation{Secret: secret, Keep: time.Hour}
}
