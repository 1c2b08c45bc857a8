package server_test

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/server"
)

// verifyByHand verifies a token with the standard library alone, from what the JWKS publishes.
func verifyByHand(t *testing.T, h *server.Harness, token string) api.AccessToken {
	t.Helper()
	return verifyTyp(t, h, token, "at+jwt")
}

// verifyTyp is verifyByHand of a token that says to be of another typ.
func verifyTyp(t *testing.T, h *server.Harness, token, typ string) (claims api.AccessToken) {
	t.Helper()
	var set struct{ Keys []struct{ KID, N, E string } }
	if err := json.Unmarshal([]byte(h.Get("/.well-known/jwks.json").Body), &set); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	b64 := base64.RawURLEncoding
	var header struct{ Alg, Typ, KID string }
	if err := json.Unmarshal(server.Must(b64.DecodeString(parts[0])), &header); err != nil || header.Alg != "RS256" ||
		header.Typ != typ {
		t.Fatalf("header %+v, %v", header, err)
	}
	for _, k := range set.Keys {
		if k.KID != header.KID {
			continue
		}
		public := &rsa.PublicKey{
			N: new(big.Int).SetBytes(server.Must(b64.DecodeString(k.N))),
			E: int(new(big.Int).SetBytes(server.Must(b64.DecodeString(k.E))).Int64()),
		}
		sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		signature := server.Must(b64.DecodeString(parts[2]))
		if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], signature); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(server.Must(b64.DecodeString(parts[1])), &claims); err != nil {
			t.Fatal(err)
		}
		return claims
	}
	t.Fatalf("kid %s is not in the JWKS", header.KID)
	return claims
}

func TestPasswordGrant(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		r := h.Post("/token", "app", "grant_type", "password", "username", "ALICE", "password", password)
		tokens := r.Tokens(t)
		want := api.TokenResponse{
			AccessToken:  tokens.AccessToken,
			TokenType:    "Bearer",
			ExpiresIn:    600,
			RefreshToken: tokens.RefreshToken,
			Scope:        "read write",
			Username:     "alice",
		}
		if !cmp.Equal(tokens, want) || !strings.HasPrefix(tokens.RefreshToken, "ktr_") {
			t.Error(cmp.Diff(want, tokens))
		}
		claims := verifyByHand(t, h, tokens.AccessToken)
		alice := server.Must(h.Admin.Users().Find(ctx, "alice"))
		wantClaims := api.AccessToken{
			Issuer:   issuer,
			Subject:  alice.Sub,
			Audience: "https://api.example",
			ClientID: "app",
			Expires:  noon.Unix() + 600,
			IssuedAt: noon.Unix(),
			ID:       claims.ID,
			Scope:    "read write",
			AuthTime: noon.Unix(),
			Session:  claims.Session,
			Roles:    []string{"admin"},
		}
		if !cmp.Equal(claims, wantClaims) || len(claims.ID) < 16 {
			t.Error(cmp.Diff(wantClaims, claims))
		}
		if claims := verifyByHand(t, h, h.Login("app").AccessToken); claims.ID == wantClaims.ID ||
			claims.Session == wantClaims.Session {
			t.Error("two logins share an id")
		}
		if h.Login("once").RefreshToken != "" {
			t.Error("a client without refresh_token gets a refresh token")
		}
	})
}

// What the tokens of a client say to be follows the client, also at a refresh; all of them can be introspected and
// revoked.
func TestTokenTyp(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		tokens := h.Login("app")
		for _, typ := range []string{"JWT", "at+jwt"} {
			server.Must(h.Admin.Clients().Update(ctx, "app", func(c *admin.ClientSpec) { c.TokenTyp = typ }))
			refreshed := h.Post("/token", "app", "grant_type", "refresh_token", "refresh_token", tokens.RefreshToken).
				Tokens(t)
			for _, token := range []string{refreshed.AccessToken, h.Login("app").AccessToken} {
				if claims := verifyTyp(t, h, token, typ); claims.ClientID != "app" {
					t.Errorf("%+v", claims)
				}
				if !h.Active("rs", token) {
					t.Errorf("a token of typ %s is not active", typ)
				}
			}
			verifyTyp(t, h, h.Login("other").AccessToken, "at+jwt")
			tokens = refreshed
		}
		server.Must(h.Admin.Clients().Update(ctx, "app", func(c *admin.ClientSpec) { c.TokenTyp = "JWT" }))
		token := h.Login("app").AccessToken
		h.Post("/revoke", "app", "token", token)
		if h.Active("rs", token) {
			t.Error("a revoked token of typ JWT is active")
		}
		if _, err := h.Admin.Clients().Update(ctx, "app", func(c *admin.ClientSpec) { c.TokenTyp = "jwt" }); !errors.Is(
			err,
			admin.ErrInvalid,
		) {
			t.Error(err)
		}
	})
}

func TestScopeAndResource(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		login := func(more ...string) server.Reply {
			return h.Post(
				"/token",
				"app",
				append([]string{"grant_type", "password", "username", "alice", "password", password}, more...)...)
		}
		narrow := login("scope", "read").Tokens(t)
		if narrow.Scope != "read" || verifyByHand(t, h, narrow.AccessToken).Scope != "read" {
			t.Error("scope is not narrowed at login")
		}
		if r := h.Post("/token", "app", "grant_type", "refresh_token", "refresh_token", narrow.RefreshToken, "scope",
			"read write"); r.Code(
			t,
		) != "invalid_scope" {
			t.Error("scope grows at refresh")
		}
		mail := login("resource", "https://mail.example").Tokens(t)
		if verifyByHand(t, h, mail.AccessToken).Audience != "https://mail.example" {
			t.Error("resource is not the audience")
		}
		if r := h.Post("/token", "app", "grant_type", "refresh_token", "refresh_token", mail.RefreshToken, "resource",
			"https://api.example"); r.Code(
			t,
		) != "invalid_target" {
			t.Error("a refresh names a resource that the login did not")
		}
		full := login().Tokens(t)
		refreshed := h.Post("/token", "app", "grant_type", "refresh_token", "refresh_token", full.RefreshToken, "scope",
			"write", "resource", "https://mail.example").
			Tokens(t)
		claims := verifyByHand(t, h, refreshed.AccessToken)
		if refreshed.Scope != "write" || claims.Scope != "write" || claims.Audience != "https://mail.example" ||
			refreshed.Username != "" {
			t.Errorf("%+v", refreshed)
		}
		again := h.Refresh("app", refreshed.RefreshToken).Tokens(t)
		if again.Scope != "read write" || verifyByHand(t, h, again.AccessToken).Audience != "https://api.example" {
			t.Errorf("the new refresh token does not keep the full scope: %+v", again)
		}
	})
}

// What a client may no longer have is not issued again, and the refusal costs it nothing.
func TestWithdrawnFromTheClient(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		tokens := h.Login("app")
		h.Step(time.Second)
		update := func(change func(*admin.ClientSpec)) { server.Must(h.Admin.Clients().Update(ctx, "app", change)) }
		update(func(s *admin.ClientSpec) { s.Scope = "read" })
		tokens = h.Refresh("app", tokens.RefreshToken).Tokens(t)
		if tokens.Scope != "read" {
			t.Errorf("scope %q", tokens.Scope)
		}
		refused := map[string]func(*admin.ClientSpec){
			"invalid_scope": func(s *admin.ClientSpec) { s.Scope = "else" },
			"invalid_target": func(s *admin.ClientSpec) {
				s.Scope, s.Audiences = "read", []string{"https://else.example"}
			},
			"unauthorized_client": func(s *admin.ClientSpec) { s.Grants = []string{"password"} },
		}
		for _, code := range []string{"invalid_scope", "invalid_target", "unauthorized_client"} {
			h.Step(time.Second)
			update(refused[code])
			if r := h.Refresh("app", tokens.RefreshToken); r.Code(t) != code {
				t.Errorf("%s: %s", code, r.Body)
			}
		}
		h.Step(time.Second)
		update(func(s *admin.ClientSpec) {
			s.Grants, s.Scope, s.Audiences = []string{"refresh_token"}, "read", []string{"https://api.example"}
		})
		h.Refresh("app", tokens.RefreshToken).Tokens(t)
	})
}

func TestRefreshGrant(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		first := h.Login("app")
		second := h.Refresh("app", first.RefreshToken).Tokens(t)
		retried := h.Refresh("app", first.RefreshToken).Tokens(t)
		if retried.RefreshToken != second.RefreshToken || retried.AccessToken == second.AccessToken {
			t.Error("a retry does not get the same successor and a fresh access token")
		}
		verifyByHand(t, h, retried.AccessToken)
		if r := h.Refresh("other", second.RefreshToken); r.Code(t) != "invalid_grant" {
			t.Error("another client uses the token")
		}
		third := h.Refresh("app", second.RefreshToken).Tokens(t)
		h.Step(9 * time.Second)
		if h.Refresh("app", second.RefreshToken).Tokens(t).RefreshToken != third.RefreshToken {
			t.Error("a retry within the window fails")
		}
		h.Step(time.Second)
		if r := h.Refresh("app", second.RefreshToken); r.Status != 400 || r.Code(t) != "invalid_grant" {
			t.Error("a retry after the window succeeds")
		}
		if r := h.Refresh("app", third.RefreshToken); r.Code(t) != "invalid_grant" ||
			h.Active("app", third.AccessToken) {
			t.Error("the grant survives the reuse")
		}
		if !strings.Contains(h.Log.String(), `"reason":"reuse"`) {
			t.Error("the log does not tell of the reuse")
		}
	})
}

func TestRefreshExpiry(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		resting := h.Login("app")
		tokens := h.Login("app")
		for range 9 {
			h.Step(10 * 24 * time.Hour)
			if h.Clock.Now().Sub(noon) < 90*24*time.Hour {
				tokens = h.Refresh("app", tokens.RefreshToken).Tokens(t)
			}
		}
		if r := h.Refresh("app", tokens.RefreshToken); r.Code(t) != "invalid_grant" {
			t.Error("the absolute expiry is not enforced")
		}
		if r := h.Refresh("app", resting.RefreshToken); r.Code(t) != "invalid_grant" {
			t.Error("the idle expiry is not enforced")
		}
	})
}

// An access token never outlives its grant.
func TestAccessTokenEndsWithItsGrant(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		tokens := h.Login("app")
		for range 8 {
			h.Step(11 * 24 * time.Hour)
			tokens = h.Refresh("app", tokens.RefreshToken).Tokens(t)
		}
		h.Step(2*24*time.Hour - 5*time.Minute)
		tokens = h.Refresh("app", tokens.RefreshToken).Tokens(t)
		if claims := verifyByHand(t, h, tokens.AccessToken); tokens.ExpiresIn != 300 ||
			claims.Expires-claims.IssuedAt != 300 {
			t.Errorf("expires in %d", tokens.ExpiresIn)
		}
	})
}

// Whoever logs in at every call has a hundred grants, not more, and the oldest end first.
func TestGrantsAreCapped(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		first := h.Login("app")
		h.Step(time.Second)
		for range maxGrants - 1 {
			h.Login("app")
		}
		if !h.Active("app", first.AccessToken) {
			t.Error("the first grant ended too early")
		}
		last := h.Login("app")
		if h.Active("app", first.AccessToken) || !h.Active("app", last.AccessToken) {
			t.Error("the oldest grant did not end")
		}
	})
}

func TestPasswordGrantOff(t *testing.T) {
	t.Parallel()
	c := server.ConfigFor(server.SQLiteURL(t))
	c.PasswordGrant = false
	h := server.OpenHarness(t, c, nil)
	h.Provision()
	if r := h.Post("/token", "app", "grant_type", "password", "username", "alice", "password", password); r.Code(
		t,
	) != "unsupported_grant_type" {
		t.Error(r.Body)
	}
	if body := h.Get("/.well-known/oauth-authorization-server").Body; !strings.Contains(
		body,
		`"grant_types_supported":["refresh_token"]`,
	) {
		t.Error(body)
	}
}

// A hundred uses of one refresh token at once, over two replicas.
func TestRefreshRaceOverReplicas(t *testing.T) {
	t.Parallel()
	server.Each(t, func(t *testing.T, h *server.Harness) {
		replica := server.OpenHarness(t, h.Config, h.Clock)
		token := h.Login("app").RefreshToken
		answers := make(chan server.Reply)
		for i := range 100 {
			go func() { answers <- []*server.Harness{h, replica}[i%2].Refresh("app", token) }()
		}
		successors := map[string]bool{}
		for range 100 {
			switch r := <-answers; r.Status {
			case http.StatusOK:
				successors[r.Tokens(t).RefreshToken] = true
			case http.StatusBadRequest, http.StatusTooManyRequests, http.StatusServiceUnavailable:
			default:
				t.Errorf("%d %s", r.Status, r.Body)
			}
		}
		if len(successors) != 1 {
			t.Errorf("%d successors", len(successors))
		}
		for successor := range successors {
			replica.Refresh("app", successor).Tokens(t)
		}
	})
}
