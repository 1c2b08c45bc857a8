package server

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/storage/storagetest"
)

func TestIntrospectionTellsWhatTheTokenSays(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		tokens := h.login("app")
		claims := verifyByHand(t, h, tokens.AccessToken)
		for _, caller := range []string{"rs", "app"} {
			var got api.Introspection
			must(0, json.Unmarshal([]byte(h.post("/introspect", caller, "token", tokens.AccessToken).body), &got))
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
		h.step(10 * time.Minute)
		if h.active("rs", tokens.AccessToken) {
			t.Error("active at its exp")
		}
		if !h.active("app", tokens.RefreshToken) || h.active("rs", tokens.RefreshToken) {
			t.Error("the refresh token is for its own client alone")
		}
	})
}

// What ends a grant ends its refresh token and, for whoever asks, its access tokens, at once and on every replica. What
// does not, does not.
func TestEndings(t *testing.T) {
	t.Parallel()
	endings := map[string]struct {
		end   func(h *harness, tokens api.TokenResponse) error
		alive bool // the access token, afterwards
	}{
		"revoke the refresh token": {end: func(h *harness, tokens api.TokenResponse) error {
			return status200(h.post("/revoke", "app", "token", tokens.RefreshToken))
		}},
		"revoke the access token": {end: func(h *harness, tokens api.TokenResponse) error {
			return status200(h.post("/revoke", "app", "token", tokens.AccessToken))
		}},
		"revoke with a wrong hint": {end: func(h *harness, tokens api.TokenResponse) error {
			return status200(h.post("/revoke", "app", "token", tokens.AccessToken, "token_type_hint", "refresh_token"))
		}},
		"revoke a used refresh token": {end: func(h *harness, tokens api.TokenResponse) error {
			h.refresh("app", tokens.RefreshToken).tokens(h.t)
			return status200(h.post("/revoke", "app", "token", tokens.RefreshToken))
		}},
		"disable the user": {end: func(h *harness, _ api.TokenResponse) error { return h.admin.Users().Disable(ctx, "Alice") }},
		"delete the user":  {end: func(h *harness, _ api.TokenResponse) error { return h.admin.Users().Delete(ctx, "alice") }},
		"change the password": {end: func(h *harness, _ api.TokenResponse) error {
			return h.admin.Users().SetPassword(ctx, "alice", "another long password")
		}},
		"disable the client": {end: func(h *harness, _ api.TokenResponse) error { return h.admin.Clients().Disable(ctx, "app") }},
		"delete the client":  {end: func(h *harness, _ api.TokenResponse) error { return h.admin.Clients().Delete(ctx, "app") }},
		"revoke by the id of the grant": {end: func(h *harness, _ api.TokenResponse) error {
			grants, err := h.admin.Grants().All(ctx, "alice", "app")
			if err != nil {
				return err
			}
			return h.admin.Grants().Revoke(ctx, grants[0].ID.String())
		}},
		"revoke all of the user": {
			end: func(h *harness, _ api.TokenResponse) error { return h.admin.Grants().RevokeOfUser(ctx, "alice") },
		},
		"revoke all of the client": {
			end: func(h *harness, _ api.TokenResponse) error { return h.admin.Grants().RevokeOfClient(ctx, "app") },
		},
		"revoke all": {
			end: func(h *harness, _ api.TokenResponse) error { return h.admin.Grants().RevokeAll(ctx) },
		},
		"revoke by another client": {alive: true, end: func(h *harness, tokens api.TokenResponse) error {
			if err := status200(h.post("/revoke", "other", "token", tokens.RefreshToken)); err != nil {
				return err
			}
			return status200(h.post("/revoke", "other", "token", tokens.AccessToken))
		}},
		"disable another client": {
			alive: true,
			end:   func(h *harness, _ api.TokenResponse) error { return h.admin.Clients().Disable(ctx, "other") },
		},
	}
	for name, c := range endings {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, h *harness) {
				replica := open(t, h.config, h.clock)
				tokens := h.login("app")
				if !h.active("rs", tokens.AccessToken) || !replica.active("rs", tokens.AccessToken) {
					t.Fatal("not active at the start")
				}
				must(0, c.end(h, tokens))
				for _, r := range []*harness{h, replica} {
					if r.active("rs", tokens.AccessToken) != c.alive {
						t.Errorf("introspection says active: %v", !c.alive)
					}
				}
				if r := replica.refresh("app", tokens.RefreshToken); (r.status == http.StatusOK) != c.alive {
					t.Errorf("refresh: %d %s", r.status, r.body)
				}
				if _, err := h.admin.Audit().Verify(ctx); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

type statusError string

func (e statusError) Error() string { return string(e) }

func status200(r reply) error {
	if r.status != http.StatusOK || r.body != "{}\n" {
		return statusError(r.body)
	}
	return nil
}

func TestEnabledUserLogsInAgain(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		tokens := h.login("app")
		must(0, h.admin.Users().Disable(ctx, "alice"))
		if r := h.post("/token", "app", "grant_type", "password", "username", "alice", "password", password); r.code(
			t,
		) != "invalid_grant" {
			t.Error("a disabled user logs in")
		}
		must(0, h.admin.Users().Enable(ctx, "alice"))
		h.login("app")
		if r := h.refresh("app", tokens.RefreshToken); r.code(t) != "invalid_grant" {
			t.Error("a grant came back to life")
		}
	})
}

func TestSecretRotation(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		try := func(secret string) int {
			r := must(http.NewRequest(http.MethodPost, h.base+"/introspect", strings.NewReader("token=x")))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Authorization", basic("app", secret))
			return h.send(r).status
		}
		rotated := must(h.admin.Clients().RotateSecret(ctx, "app", "", time.Hour))
		if try(secret) != 200 || try(rotated.Secret) != 200 {
			t.Error("not both secrets work")
		}
		h.step(time.Hour)
		if try(secret) != 401 || try(rotated.Secret) != 200 {
			t.Error("the old secret does not lapse")
		}
		c := must(h.server.db.Clients().ByID(ctx, "app"))
		if strings.Contains(c.SecretHash+c.PreviousSecretHash, rotated.Secret) ||
			strings.Contains(c.SecretHash+c.PreviousSecretHash, secret) {
			t.Error("a secret rests in the database")
		}
	})
}

// Nothing in the database is a token, and a forged refresh token costs no query.
func TestForgedRefreshTokenCostsNoQuery(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		token := h.login("app").RefreshToken
		secrets := h.server.ring.Secrets()
		real, ok := secrets.OpenRefreshToken(token)
		if !ok || secrets.SealRefreshToken(real, h.clock.now()) != token {
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
		g := must(h.server.db.Grants().State(ctx, real.Grant))
		if strings.Contains(g.FamilyHash, string(real.Family[:])) || len(g.FamilyHash) != 43 {
			t.Error("the family rests in the database")
		}
	})
}

func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	databaseURL := storagetest.PostgresURL(t)
	h := open(t, testConfig(databaseURL), nil)
	h.provision()
	tokens := h.login("app")
	restore := storagetest.CutOff(t, databaseURL)
	defer restore()
	answers := map[string]reply{
		"password":   h.post("/token", "app", "grant_type", "password", "username", "alice", "password", password),
		"refresh":    h.refresh("app", tokens.RefreshToken),
		"revoke":     h.post("/revoke", "app", "token", tokens.RefreshToken),
		"introspect": h.post("/introspect", "rs", "token", tokens.AccessToken),
	}
	for name, r := range answers {
		if r.status != 503 || r.code(t) != "temporarily_unavailable" || r.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", name, r.status, r.body)
		}
	}
	for path, want := range map[string]int{"/livez": 200, "/readyz": 503, "/.well-known/jwks.json": 200,
		"/.well-known/oauth-authorization-server": 200} {
		if r := h.get(path); r.status != want {
			t.Errorf("%s: %d", path, r.status)
		}
	}
	restore()
	h.refresh("app", tokens.RefreshToken).tokens(t)
	if r := h.get("/readyz?verbose"); r.status != 200 {
		t.Error(r.body)
	}
}

// Tokens stay good through a rotation, and what signs is what the JWKS says.
func TestRotationBreaksNoToken(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		before := h.login("app")
		etag := h.get("/.well-known/jwks.json").header.Get("ETag")
		h.step(25 * time.Hour)
		before = h.refresh("app", before.RefreshToken).tokens(t)
		must(h.admin.Keys().Rotate(ctx, false))
		if h.get("/.well-known/jwks.json").header.Get("ETag") == etag {
			t.Error("the ETag stays")
		}
		after := h.refresh("app", before.RefreshToken).tokens(t)
		verifyByHand(t, h, before.AccessToken)
		verifyByHand(t, h, after.AccessToken)
		if strings.Split(before.AccessToken, ".")[0] == strings.Split(after.AccessToken, ".")[0] {
			t.Error("the same key signs")
		}
		if !h.active("rs", before.AccessToken) || !h.active("rs", after.AccessToken) {
			t.Error("inactive after the rotation")
		}
	})
}

func TestIssuerWithPath(t *testing.T) {
	t.Parallel()
	c := testConfig(sqliteURL(t))
	c.Issuer = "http://localhost:8080/tenant"
	h := open(t, c, nil)
	h.provision()
	var m api.Metadata
	res := must(http.Get(h.base + "/.well-known/oauth-authorization-server/tenant"))
	defer res.Body.Close()
	must(0, json.NewDecoder(res.Body).Decode(&m))
	for _, endpoint := range []string{m.TokenEndpoint, m.RevocationEndpoint, m.IntrospectionEndpoint, m.JWKSURI} {
		path := strings.TrimPrefix(endpoint, "http://localhost:8080")
		r := must(http.PostForm(h.base+path, url.Values{}))
		r.Body.Close()
		if r.StatusCode != http.StatusUnauthorized && endpoint != m.JWKSURI || r.StatusCode == http.StatusNotFound {
			t.Errorf("%s: %d", endpoint, r.StatusCode)
		}
	}
	if claims := verifyByHand(t, h, h.login("app").AccessToken); claims.Issuer != m.Issuer || m.Issuer != c.Issuer {
		t.Errorf("iss %q, metadata %q", claims.Issuer, m.Issuer)
	}
}

// A driver may send a statement again after a cut connection. The second run of a refresh is told what the first did.
func TestStatementSentTwice(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		first := h.login("app")
		answered := h.refresh("app", first.RefreshToken).tokens(t) // this answer is lost
		again := h.refresh("app", first.RefreshToken).tokens(t)
		if again.RefreshToken != answered.RefreshToken {
			t.Error("the client has lost its session")
		}
		h.refresh("app", again.RefreshToken).tokens(t)
	})
}
