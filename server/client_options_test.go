package server_test

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/server"
)

// updateApp changes the client app.
func updateApp(h *server.Harness, change func(*admin.ClientSpec)) {
	server.Must(h.Admin.Clients().Update(h.T.Context(), "app", change))
}

func keep(spec *admin.ClientSpec) { spec.KeepRefresh = true }

func rotate(spec *admin.ClientSpec) { spec.KeepRefresh = false }

// A client without rotation holds one fixed refresh token. It stays good while it is used within the idle limit, and
// only then: the limit moves by a coarse write.
func TestRefreshTokenThatStays(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		updateApp(h, keep)
		fixed := h.Login("app").RefreshToken
		idle := h.Config.RefreshIdleTTL
		for range 3 {
			h.Step(idle - time.Minute)
			tokens := h.Refresh("app", fixed).Tokens(t)
			if tokens.RefreshToken != fixed || !h.Active("rs", tokens.AccessToken) {
				t.Fatal("another refresh token, or an access token that is not active")
			}
		}
		before := h.Row(fixed)
		h.Step(idle / 20)
		h.Refresh("app", fixed).Tokens(t)
		if after := h.Row(fixed); after.IdleExpiresAt != before.IdleExpiresAt || after.Generation != 0 {
			t.Errorf("an early use was written: %+v", after)
		}
		h.Step(idle / 9)
		h.Refresh("app", fixed).Tokens(t)
		if after := h.Row(fixed); !after.IdleExpiresAt.After(before.IdleExpiresAt.Time) {
			t.Error("a later use was not written")
		}
		h.Step(idle)
		if r := h.Refresh("app", fixed); r.Status != 400 || r.Code(t) != string(api.InvalidGrant) {
			t.Errorf("an idle token: %d", r.Status)
		}
	})
}

// Everything that ends a login ends a fixed refresh token, and nobody else can use it.
func TestRefreshTokenThatStaysEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(h *server.Harness, token string){
		"revoked": func(h *server.Harness, token string) { h.Post("/revoke", "app", "token", token) },
		"disabled": func(h *server.Harness, _ string) {
			server.Must(0, h.Admin.Users().Disable(h.T.Context(), "alice"))
		},
		"client": func(h *server.Harness, _ string) {
			server.Must(0, h.Admin.Grants().RevokeOfClient(h.T.Context(), "app"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server.Each(t, func(t *testing.T, h *server.Harness) {
				updateApp(h, keep)
				fixed := h.Login("app").RefreshToken
				if r := h.Refresh("other", fixed); r.Status != 400 {
					t.Errorf("another client: %d", r.Status)
				}
				h.Refresh("app", fixed).Tokens(t)
				end(h, fixed)
				if r := h.Refresh("app", fixed); r.Status != 400 || r.Code(t) != string(api.InvalidGrant) {
					t.Errorf("after the end: %d", r.Status)
				}
			})
		})
	}
}

// Uses of a fixed token at once all succeed, with the same token.
func TestRefreshTokenThatStaysAtOnce(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		updateApp(h, keep)
		fixed := h.Login("app").RefreshToken
		h.Step(h.Config.RefreshIdleTTL / 2) // all of them want to renew
		var all sync.WaitGroup
		answers := make([]server.Reply, 8)
		for i := range answers {
			all.Go(func() { answers[i] = h.Refresh("app", fixed) })
		}
		all.Wait()
		for _, r := range answers {
			if r.Status != 200 || r.Tokens(t).RefreshToken != fixed {
				t.Errorf("%d %s", r.Status, r.Body)
			}
		}
	})
}

// Rotation that is switched on again rotates at the next use, and from then on the fixed token is a replaced one.
func TestRotationIsSwitched(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		first := h.Login("app").RefreshToken
		second := h.Refresh("app", first).Tokens(t).RefreshToken
		updateApp(h, keep)
		h.Step(time.Minute)
		if got := h.Refresh("app", second).Tokens(t).RefreshToken; got != second {
			t.Error("the token did not stay")
		}
		updateApp(h, rotate)
		third := h.Refresh("app", second).Tokens(t).RefreshToken
		if third == second {
			t.Fatal("the token was not rotated")
		}
		h.Refresh("app", third).Tokens(t)
		if r := h.Refresh("app", second); r.Status != 400 {
			t.Errorf("reuse of the formerly fixed token: %d", r.Status)
		}
		if r := h.Refresh("app", third); r.Status != 400 {
			t.Error("reuse has not ended the login")
		}
	})
}

// Once a fixed token was used, the token before it is a replaced one, however lately it was replaced.
func TestFixedTokenHasNoRetryWindow(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		first := h.Login("app").RefreshToken
		second := h.Refresh("app", first).Tokens(t).RefreshToken
		updateApp(h, keep)
		h.Refresh("app", second).Tokens(t)
		if r := h.Refresh("app", first); r.Status != 400 {
			t.Errorf("the replaced token: %d", r.Status)
		}
		if r := h.Refresh("app", second); r.Status != 400 {
			t.Error("reuse has not ended the login")
		}
	})
}

// Rotation that goes off, on and off again leaves no replaced token that works.
func TestRotationIsSwitchedTwice(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		updateApp(h, keep)
		first := h.Login("app").RefreshToken
		h.Refresh("app", first).Tokens(t)
		h.Step(time.Minute)
		updateApp(h, rotate)
		second := h.Refresh("app", first).Tokens(t).RefreshToken
		updateApp(h, keep)
		for range 3 {
			h.Step(time.Hour)
			h.Refresh("app", second).Tokens(t)
		}
		if r := h.Refresh("app", first); r.Status != 400 {
			t.Errorf("the replaced token: %d", r.Status)
		}
	})
}

// After lost commits the newest fixed token stays, and so does its login.
func TestFixedTokenAfterAFailover(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		tokens, before := h.Login("app"), ""
		for range 2 {
			before = tokens.RefreshToken
			tokens = h.Refresh("app", before).Tokens(t)
		}
		updateApp(h, keep)
		h.Exec(`UPDATE grants SET generation = generation - 1`)
		for range 3 {
			h.Step(time.Minute)
			if got := h.Refresh("app", tokens.RefreshToken).Tokens(t).RefreshToken; got != tokens.RefreshToken {
				t.Fatal("another token")
			}
		}
		if r := h.Refresh("app", before); r.Status != 400 {
			t.Errorf("the token before it: %d", r.Status)
		}
	})
}

// The row of a fixed token is rarely written. A leaked key still counts and ends its logins.
func TestFixedTokensAndALeakedKey(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		updateApp(h, keep)
		fixed := h.Login("app").RefreshToken
		h.Refresh("app", fixed).Tokens(t)
		h.Step(h.Config.AccessTTL + time.Minute)
		token := h.Refresh("app", fixed).Tokens(t).AccessToken // not written
		kid := h.Admin.Keys().In("current")[0]
		if live := server.Must(h.Admin.Keys().LiveTokens(t.Context())); live[kid] != 1 {
			t.Errorf("%d live tokens", live[kid])
		}
		since := h.Clock.Now().Add(-time.Minute)
		if n := server.Must(h.Admin.Keys().EndGrants(t.Context(), kid, since)); n != 1 {
			t.Errorf("%d logins ended", n)
		}
		if h.Active("rs", token) {
			t.Error("the token is active")
		}
	})
}

// A public client cannot do without rotation.
func TestPublicClientsRotate(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		if _, err := h.Admin.Clients().Update(t.Context(), server.PublicClient, keep); err == nil {
			t.Error("a public client was allowed to keep its refresh token")
		}
	})
}

// payload returns the claims of an access token.
func payload(token string) (claims map[string]any) {
	text := server.Must(base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1]))
	server.Must(0, json.Unmarshal(text, &claims))
	return claims
}

// The username is in the access tokens of the clients that want it (RFC 9068 §2.2.2), after a login and a refresh.
func TestUsernameInAccessTokens(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		tokens := h.Login("app")
		if _, ok := payload(tokens.AccessToken)["preferred_username"]; ok {
			t.Error("a client that did not ask has the username")
		}
		updateApp(h, func(spec *admin.ClientSpec) { spec.Claims = []string{"username"} })
		if got := payload(h.Login("app").AccessToken)["preferred_username"]; got != "alice" {
			t.Errorf("after a login: %v", got)
		}
		refreshed := h.Refresh("app", tokens.RefreshToken).Tokens(t)
		if got := payload(refreshed.AccessToken)["preferred_username"]; got != "alice" {
			t.Errorf("after a refresh: %v", got)
		}
		if !h.Active("rs", refreshed.AccessToken) {
			t.Error("a token with a username is not active")
		}
	})
}

// Metadata lists the scopes of enabled clients, soon after each change, at both of its addresses.
func TestScopesInMetadata(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		scopes := func(path string) (scopes []string) {
			var m api.Metadata
			server.Must(0, json.Unmarshal([]byte(h.Get(path).Body), &m))
			return m.Scopes
		}
		h.Server.LookForNews()
		if got := scopes(api.PathMetadata); !slices.Equal(got, []string{"read", "write"}) {
			t.Errorf("%v", got)
		}
		updateApp(h, func(spec *admin.ClientSpec) { spec.Scope = "admin read" })
		server.Must(0, h.Admin.Clients().Disable(t.Context(), "other"))
		h.Step(time.Minute)
		h.Server.LookForNews()
		if got := scopes(api.PathMetadata); !slices.Equal(got, []string{"admin", "read"}) {
			t.Errorf("after a change: %v", got)
		}
		if r := h.Get(api.PathOpenID); r.Status != 404 {
			t.Errorf("the alias is off, and answers %d", r.Status)
		}
		h.Config.OpenIDConfigurationAlias = true
		h.Server.Follow(h.Config)
		h.ServeHTTP()
		if got := scopes(api.PathOpenID); !slices.Equal(got, []string{"admin", "read"}) {
			t.Errorf("the alias: %v", got)
		}
	})
}

// A client that asks for openid without having it learns what to do.
func TestOpenIDScopeIsExplained(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		r := h.Post("/token", "app", "grant_type", "password", "username", "alice", "password", server.Password,
			"scope", "openid read")
		if r.Status != 400 || r.Code(t) != string(api.InvalidScope) || !strings.Contains(r.Body, "--add-scope openid") {
			t.Errorf("%d %s", r.Status, r.Body)
		}
	})
}
