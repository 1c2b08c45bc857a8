package server_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/server"
	"github.com/keyturn/keyturn/storage/storagetest"
)

func TestIntrospectionTellsWhatTheTokenSays(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		tokens := h.Login("app")
		claims := verifyByHand(t, h, tokens.AccessToken)
		for _, caller := range []string{"rs", "app"} {
			var got api.Introspection
			server.Must(
				0,
				json.Unmarshal([]byte(h.Post("/introspect", caller, "token", tokens.AccessToken).Body), &got),
			)
			want := api.Introspection{
				Active:    true,
				Issuer:    claims.Issuer,
				Subject:   claims.Subject,
				Audience:  claims.Audience,
				ClientID:  "app",
				Username:  "alice",
				Scope:     claims.Scope,
				Expires:   claims.Expires,
				IssuedAt:  claims.IssuedAt,
				ID:        claims.ID,
				TokenType: "Bearer",
				Session:   claims.Session,
				Roles:     []string{"admin"},
			}
			if !cmp.Equal(got, want) {
				t.Error(caller, cmp.Diff(want, got))
			}
		}
		h.Step(10 * time.Minute)
		if h.Active("rs", tokens.AccessToken) {
			t.Error("active at its exp")
		}
		if !h.Active("app", tokens.RefreshToken) || h.Active("rs", tokens.RefreshToken) {
			t.Error("the refresh token is for its own client alone")
		}
	})
}

// What ends a grant ends its refresh token and, for whoever asks, its access tokens, at once and on every replica. What
// does not, does not.
func TestEndings(t *testing.T) {
	t.Parallel()
	endings := map[string]struct {
		end   func(h *server.Harness, tokens api.TokenResponse) error
		alive bool // the access token, afterwards
	}{
		"revoke the refresh token": {end: func(h *server.Harness, tokens api.TokenResponse) error {
			return server.Status200(h.Post("/revoke", "app", "token", tokens.RefreshToken))
		}},
		"revoke the access token": {end: func(h *server.Harness, tokens api.TokenResponse) error {
			return server.Status200(h.Post("/revoke", "app", "token", tokens.AccessToken))
		}},
		"revoke with a wrong hint": {end: func(h *server.Harness, tokens api.TokenResponse) error {
			return server.Status200(
				h.Post("/revoke", "app", "token", tokens.AccessToken, "token_type_hint", "refresh_token"),
			)
		}},
		"revoke a used refresh token": {end: func(h *server.Harness, tokens api.TokenResponse) error {
			h.Refresh("app", tokens.RefreshToken).Tokens(h.T)
			return server.Status200(h.Post("/revoke", "app", "token", tokens.RefreshToken))
		}},
		"disable the user": {
			end: func(h *server.Harness, _ api.TokenResponse) error {
				return h.Admin.Users().Disable(ctx, "Alice")
			},
		},
		"delete the user": {
			end: func(h *server.Harness, _ api.TokenResponse) error {
				return h.Admin.Users().Delete(ctx, "alice")
			},
		},
		"change the password": {end: func(h *server.Harness, _ api.TokenResponse) error {
			return h.Admin.Users().SetPassword(ctx, "alice", "another long password")
		}},
		"disable the client": {
			end: func(h *server.Harness, _ api.TokenResponse) error {
				return h.Admin.Clients().Disable(ctx, "app")
			},
		},
		"delete the client": {
			end: func(h *server.Harness, _ api.TokenResponse) error {
				return h.Admin.Clients().Delete(ctx, "app")
			},
		},
		"revoke by the id of the grant": {end: func(h *server.Harness, _ api.TokenResponse) error {
			grants, err := server.AllGrants(h.Admin, "alice", "app")
			if err != nil {
				return err
			}
			return h.Admin.Grants().Revoke(ctx, grants[0].ID.String())
		}},
		"revoke all of the user": {
			end: func(h *server.Harness, _ api.TokenResponse) error {
				return h.Admin.Grants().RevokeOfUser(ctx, "alice")
			},
		},
		"revoke all of the client": {
			end: func(h *server.Harness, _ api.TokenResponse) error {
				return h.Admin.Grants().RevokeOfClient(ctx, "app")
			},
		},
		"revoke all": {
			end: func(h *server.Harness, _ api.TokenResponse) error {
				return h.Admin.Grants().RevokeAll(ctx)
			},
		},
		"revoke by another client": {alive: true, end: func(h *server.Harness, tokens api.TokenResponse) error {
			if err := server.Status200(h.Post("/revoke", "other", "token", tokens.RefreshToken)); err != nil {
				return err
			}
			return server.Status200(h.Post("/revoke", "other", "token", tokens.AccessToken))
		}},
		"disable another client": {
			alive: true,
			end: func(h *server.Harness, _ api.TokenResponse) error {
				return h.Admin.Clients().Disable(ctx, "other")
			},
		},
	}
	for name, c := range endings {
		t.Run(name, func(t *testing.T) {
			server.Each(t, func(t *testing.T, h *server.Harness) {
				replica := server.OpenHarness(t, h.Config, h.Clock)
				tokens := h.Login("app")
				if !h.Active("rs", tokens.AccessToken) || !replica.Active("rs", tokens.AccessToken) {
					t.Fatal("not active at the start")
				}
				server.Must(0, c.end(h, tokens))
				for _, r := range []*server.Harness{h, replica} {
					if r.Active("rs", tokens.AccessToken) != c.alive {
						t.Errorf("introspection says active: %v", !c.alive)
					}
				}
				if r := replica.Refresh("app", tokens.RefreshToken); (r.Status == http.StatusOK) != c.alive {
					t.Errorf("refresh: %d %s", r.Status, r.Body)
				}
				if _, err := h.Admin.Audit().Verify(ctx); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestEnabledUserLogsInAgain(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		tokens := h.Login("app")
		server.Must(0, h.Admin.Users().Disable(ctx, "alice"))
		if r := h.Post("/token", "app", "grant_type", "password", "username", "alice", "password", password); r.Code(
			t,
		) != "invalid_grant" {
			t.Error("a disabled user logs in")
		}
		server.Must(0, h.Admin.Users().Enable(ctx, "alice"))
		h.Login("app")
		if r := h.Refresh("app", tokens.RefreshToken); r.Code(t) != "invalid_grant" {
			t.Error("a grant came back to life")
		}
	})
}

func TestSecretRotation(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		try := func(secret string) int {
			r := server.Must(http.NewRequest(http.MethodPost, h.Base+"/introspect", strings.NewReader("token=x")))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Authorization", server.Basic("app", secret))
			return h.Send(r).Status
		}
		rotated := server.Must(h.Admin.Clients().RotateSecret(ctx, "app", admin.SecretRotation{Keep: time.Hour}))
		if try(secret) != 200 || try(rotated.Secret) != 200 {
			t.Error("not both secrets work")
		}
		h.Step(time.Hour)
		if try(secret) != 401 || try(rotated.Secret) != 200 {
			t.Error("the old secret does not lapse")
		}
		c := server.Must(h.Server.Store().DB.Clients().ByID(ctx, "app"))
		if strings.Contains(c.SecretHash+c.PreviousSecretHash, rotated.Secret) ||
			strings.Contains(c.SecretHash+c.PreviousSecretHash, secret) {
			t.Error("a secret rests in the database")
		}
	})
}

// Nothing in the database is a token, and a forged refresh token costs no query.
func TestForgedRefreshTokenCostsNoQuery(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		token := h.Login("app").RefreshToken
		secrets := h.Server.Store().Ring.Secrets()
		real, ok := secrets.OpenRefreshToken(token)
		if !ok || secrets.SealRefreshToken(real, h.Clock.Now()) != token {
			t.Fatal("a token does not open, or seals to another")
		}
		for i := range token {
			forged := []byte(token)
			if forged[i]++; forged[i] > 'z' {
				forged[i] = 'A'
			}
			if _, ok := secrets.OpenRefreshToken(string(forged)); ok {
				t.Errorf("altered at %d: %s opens", i, forged)
			}
		}
		g := server.Must(h.Server.Store().DB.Grants().State(ctx, real.Grant))
		if strings.Contains(g.FamilyHash, string(real.Family[:])) || len(g.FamilyHash) != 43 {
			t.Error("the family rests in the database")
		}
	})
}

func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	databaseURL := storagetest.PostgresURL(t)
	h := server.OpenHarness(t, server.ConfigFor(databaseURL), nil)
	h.Provision()
	tokens := h.Login("app")
	restore := storagetest.CutOff(t, databaseURL)
	defer restore()
	answers := map[string]server.Reply{
		"password":   h.Post("/token", "app", "grant_type", "password", "username", "alice", "password", password),
		"refresh":    h.Refresh("app", tokens.RefreshToken),
		"revoke":     h.Post("/revoke", "app", "token", tokens.RefreshToken),
		"introspect": h.Post("/introspect", "rs", "token", tokens.AccessToken),
	}
	for name, r := range answers {
		if r.Status != 503 || r.Code(t) != "temporarily_unavailable" || r.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", name, r.Status, r.Body)
		}
	}
	for path, want := range map[string]int{"/livez": 200, "/readyz": 503, "/.well-known/jwks.json": 200,
		"/.well-known/oauth-authorization-server": 200} {
		if r := h.Get(path); r.Status != want {
			t.Errorf("%s: %d", path, r.Status)
		}
	}
	restore()
	h.Refresh("app", tokens.RefreshToken).Tokens(t)
	if r := h.Get("/readyz?verbose"); r.Status != 200 {
		t.Error(r.Body)
	}
}

// Tokens stay good through a rotation, and what signs is what the JWKS says.
func TestRotationBreaksNoToken(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		before := h.Login("app")
		etag := h.Get("/.well-known/jwks.json").Header.Get("ETag")
		h.Step(25 * time.Hour)
		before = h.Refresh("app", before.RefreshToken).Tokens(t)
		server.Must(h.Admin.Keys().Rotate(ctx, admin.Gate{}))
		if h.Get("/.well-known/jwks.json").Header.Get("ETag") == etag {
			t.Error("the ETag stays")
		}
		after := h.Refresh("app", before.RefreshToken).Tokens(t)
		verifyByHand(t, h, before.AccessToken)
		verifyByHand(t, h, after.AccessToken)
		if strings.Split(before.AccessToken, ".")[0] == strings.Split(after.AccessToken, ".")[0] {
			t.Error("the same key signs")
		}
		if !h.Active("rs", before.AccessToken) || !h.Active("rs", after.AccessToken) {
			t.Error("inactive after the rotation")
		}
	})
}

func TestIssuerWithPath(t *testing.T) {
	t.Parallel()
	c := server.ConfigFor(server.SQLiteURL(t))
	c.Issuer = "http://localhost:8080/tenant"
	h := server.OpenHarness(t, c, nil)
	h.Provision()
	var m api.Metadata
	res := server.Must(http.Get(h.Base + "/.well-known/oauth-authorization-server/tenant"))
	defer res.Body.Close()
	server.Must(0, json.NewDecoder(res.Body).Decode(&m))
	for _, endpoint := range []string{m.TokenEndpoint, m.RevocationEndpoint, m.IntrospectionEndpoint, m.JWKSURI} {
		path := strings.TrimPrefix(endpoint, "http://localhost:8080")
		r := server.Must(http.PostForm(h.Base+path, url.Values{}))
		r.Body.Close()
		if r.StatusCode != http.StatusUnauthorized && endpoint != m.JWKSURI || r.StatusCode == http.StatusNotFound {
			t.Errorf("%s: %d", endpoint, r.StatusCode)
		}
	}
	if claims := verifyByHand(t, h, h.Login("app").AccessToken); claims.Issuer != m.Issuer || m.Issuer != c.Issuer {
		t.Errorf("iss %q, metadata %q", claims.Issuer, m.Issuer)
	}
}

// A driver may send a statement again after a cut connection. The second run of a refresh is told what the first did.
func TestStatementSentTwice(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		first := h.Login("app")
		answered := h.Refresh("app", first.RefreshToken).Tokens(t) // this answer is lost
		again := h.Refresh("app", first.RefreshToken).Tokens(t)
		if again.RefreshToken != answered.RefreshToken {
			t.Error("the client has lost its session")
		}
		h.Refresh("app", again.RefreshToken).Tokens(t)
	})
}
