package server

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
)

// verifyByHand verifies a token with the standard library alone, from what the JWKS publishes.
func verifyByHand(t *testing.T, h *harness, token string) api.AccessToken {
	t.Helper()
	return verifyTyp(t, h, token, "at+jwt")
}

// verifyTyp is verifyByHand of a token that says to be of another typ.
func verifyTyp(t *testing.T, h *harness, token, typ string) (claims api.AccessToken) {
	t.Helper()
	var set struct{ Keys []struct{ KID, N, E string } }
	if err := json.Unmarshal([]byte(h.get("/.well-known/jwks.json").body), &set); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	b64 := base64.RawURLEncoding
	var header struct{ Alg, Typ, KID string }
	if err := json.Unmarshal(must(b64.DecodeString(parts[0])), &header); err != nil || header.Alg != "RS256" ||
		header.Typ != typ {
		t.Fatalf("header %+v, %v", header, err)
	}
	for _, k := range set.Keys {
		if k.KID != header.KID {
			continue
		}
		public := &rsa.PublicKey{
			N: new(big.Int).SetBytes(must(b64.DecodeString(k.N))),
			E: int(new(big.Int).SetBytes(must(b64.DecodeString(k.E))).Int64()),
		}
		sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, sum[:], must(b64.DecodeString(parts[2]))); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(must(b64.DecodeString(parts[1])), &claims); err != nil {
			t.Fatal(err)
		}
		return claims
	}
	t.Fatalf("kid %s is not in the JWKS", header.KID)
	return claims
}

func TestPasswordGrant(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		r := h.post("/token", "app", "grant_type", "password", "username", "ALICE", "password", password)
		tokens := r.tokens(t)
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
		alice := must(h.admin.Users().Find(ctx, "alice"))
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
		if claims := verifyByHand(t, h, h.login("app").AccessToken); claims.ID == wantClaims.ID ||
			claims.Session == wantClaims.Session {
			t.Error("two logins share an id")
		}
		if h.login("once").RefreshToken != "" {
			t.Error("a client without refresh_token gets a refresh token")
		}
	})
}

// What the tokens of a client say to be follows the client, also at a refresh; all of them can be introspected and
// revoked.
func TestTokenTyp(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		tokens := h.login("app")
		for _, typ := range []string{"JWT", "at+jwt"} {
			must(h.admin.Clients().Update(ctx, "app", func(c *admin.ClientSpec) { c.TokenTyp = typ }))
			refreshed := h.post("/token", "app", "grant_type", "refresh_token", "refresh_token", tokens.RefreshToken).tokens(t)
			for _, token := range []string{refreshed.AccessToken, h.login("app").AccessToken} {
				if claims := verifyTyp(t, h, token, typ); claims.ClientID != "app" {
					t.Errorf("%+v", claims)
				}
				if !h.active("rs", token) {
					t.Errorf("a token of typ %s is not active", typ)
				}
			}
			verifyTyp(t, h, h.login("other").AccessToken, "at+jwt")
			tokens = refreshed
		}
		must(h.admin.Clients().Update(ctx, "app", func(c *admin.ClientSpec) { c.TokenTyp = "JWT" }))
		token := h.login("app").AccessToken
		h.post("/revoke", "app", "token", token)
		if h.active("rs", token) {
			t.Error("a revoked token of typ JWT is active")
		}
		if _, err := h.admin.Clients().Update(ctx, "app", func(c *admin.ClientSpec) { c.TokenTyp = "jwt" }); !errors.Is(
			err,
			admin.ErrInvalid,
		) {
			t.Error(err)
		}
	})
}

func TestScopeAndResource(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		login := func(more ...string) reply {
			return h.post(
				"/token",
				"app",
				append([]string{"grant_type", "password", "username", "alice", "password", password}, more...)...)
		}
		narrow := login("scope", "read").tokens(t)
		if narrow.Scope != "read" || verifyByHand(t, h, narrow.AccessToken).Scope != "read" {
			t.Error("scope is not narrowed at login")
		}
		if r := h.post("/token", "app", "grant_type", "refresh_token", "refresh_token", narrow.RefreshToken, "scope",
			"read write"); r.code(
			t,
		) != "invalid_scope" {
			t.Error("scope grows at refresh")
		}
		mail := login("resource", "https://mail.example").tokens(t)
		if verifyByHand(t, h, mail.AccessToken).Audience != "https://mail.example" {
			t.Error("resource is not the audience")
		}
		if r := h.post("/token", "app", "grant_type", "refresh_token", "refresh_token", mail.RefreshToken, "resource",
			"https://api.example"); r.code(
			t,
		) != "invalid_target" {
			t.Error("a refresh names a resource that the login did not")
		}
		full := login().tokens(t)
		refreshed := h.post("/token", "app", "grant_type", "refresh_token", "refresh_token", full.RefreshToken, "scope",
			"write", "resource", "https://mail.example").
			tokens(t)
		claims := verifyByHand(t, h, refreshed.AccessToken)
		if refreshed.Scope != "write" || claims.Scope != "write" || claims.Audience != "https://mail.example" ||
			refreshed.Username != "" {
			t.Errorf("%+v", refreshed)
		}
		again := h.refresh("app", refreshed.RefreshToken).tokens(t)
		if again.Scope != "read write" || verifyByHand(t, h, again.AccessToken).Audience != "https://api.example" {
			t.Errorf("the new refresh token does not keep the full scope: %+v", again)
		}
	})
}

// What a client may no longer have is not issued again, and the refusal costs it nothing.
func TestWithdrawnFromTheClient(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		tokens := h.login("app")
		h.step(time.Second)
		update := func(change func(*admin.ClientSpec)) { must(h.admin.Clients().Update(ctx, "app", change)) }
		update(func(s *admin.ClientSpec) { s.Scope = "read" })
		tokens = h.refresh("app", tokens.RefreshToken).tokens(t)
		if tokens.Scope != "read" {
			t.Errorf("scope %q", tokens.Scope)
		}
		refused := map[string]func(*admin.ClientSpec){
			"invalid_scope":       func(s *admin.ClientSpec) { s.Scope = "else" },
			"invalid_target":      func(s *admin.ClientSpec) { s.Scope, s.Audiences = "read", []string{"https://else.example"} },
			"unauthorized_client": func(s *admin.ClientSpec) { s.Grants = []string{"password"} },
		}
		for _, code := range []string{"invalid_scope", "invalid_target", "unauthorized_client"} {
			h.step(time.Second)
			update(refused[code])
			if r := h.refresh("app", tokens.RefreshToken); r.code(t) != code {
				t.Errorf("%s: %s", code, r.body)
			}
		}
		h.step(time.Second)
		update(func(s *admin.ClientSpec) {
			s.Grants, s.Scope, s.Audiences = []string{"refresh_token"}, "read", []string{"https://api.example"}
		})
		h.refresh("app", tokens.RefreshToken).tokens(t)
	})
}

func TestRefreshGrant(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		first := h.login("app")
		second := h.refresh("app", first.RefreshToken).tokens(t)
		retried := h.refresh("app", first.RefreshToken).tokens(t)
		if retried.RefreshToken != second.RefreshToken || retried.AccessToken == second.AccessToken {
			t.Error("a retry does not get the same successor and a fresh access token")
		}
		verifyByHand(t, h, retried.AccessToken)
		if r := h.refresh("other", second.RefreshToken); r.code(t) != "invalid_grant" {
			t.Error("another client uses the token")
		}
		third := h.refresh("app", second.RefreshToken).tokens(t)
		h.step(9 * time.Second)
		if h.refresh("app", second.RefreshToken).tokens(t).RefreshToken != third.RefreshToken {
			t.Error("a retry within the window fails")
		}
		h.step(time.Second)
		if r := h.refresh("app", second.RefreshToken); r.status != 400 || r.code(t) != "invalid_grant" {
			t.Error("a retry after the window succeeds")
		}
		if r := h.refresh("app", third.RefreshToken); r.code(t) != "invalid_grant" || h.active("app", third.AccessToken) {
			t.Error("the grant survives the reuse")
		}
		if !strings.Contains(h.log.String(), `"reason":"reuse"`) {
			t.Error("the log does not tell of the reuse")
		}
	})
}

func TestRefreshExpiry(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		resting := h.login("app")
		tokens := h.login("app")
		for range 9 {
			h.step(10 * 24 * time.Hour)
			if h.clock.now().Sub(noon) < 90*24*time.Hour {
				tokens = h.refresh("app", tokens.RefreshToken).tokens(t)
			}
		}
		if r := h.refresh("app", tokens.RefreshToken); r.code(t) != "invalid_grant" {
			t.Error("the absolute expiry is not enforced")
		}
		if r := h.refresh("app", resting.RefreshToken); r.code(t) != "invalid_grant" {
			t.Error("the idle expiry is not enforced")
		}
	})
}

// An access token never outlives its grant.
func TestAccessTokenEndsWithItsGrant(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		tokens := h.login("app")
		for range 8 {
			h.step(11 * 24 * time.Hour)
			tokens = h.refresh("app", tokens.RefreshToken).tokens(t)
		}
		h.step(2*24*time.Hour - 5*time.Minute)
		tokens = h.refresh("app", tokens.RefreshToken).tokens(t)
		if claims := verifyByHand(t, h, tokens.AccessToken); tokens.ExpiresIn != 300 ||
			claims.Expires-claims.IssuedAt != 300 {
			t.Errorf("expires in %d", tokens.ExpiresIn)
		}
	})
}

// Whoever logs in at every call has a hundred grants, not more, and the oldest end first.
func TestGrantsAreCapped(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		first := h.login("app")
		h.step(time.Second)
		for range maxGrants - 1 {
			h.login("app")
		}
		if !h.active("app", first.AccessToken) {
			t.Error("the first grant ended too early")
		}
		last := h.login("app")
		if h.active("app", first.AccessToken) || !h.active("app", last.AccessToken) {
			t.Error("the oldest grant did not end")
		}
	})
}

func TestPasswordGrantOff(t *testing.T) {
	t.Parallel()
	c := testConfig(sqliteURL(t))
	c.PasswordGrant = false
	h := open(t, c, nil)
	h.provision()
	if r := h.post("/token", "app", "grant_type", "password", "username", "alice", "password", password); r.code(
		t,
	) != "unsupported_grant_type" {
		t.Error(r.body)
	}
	if body := h.get("/.well-known/oauth-authorization-server").body; !strings.Contains(
		body,
		`"grant_types_supported":["refresh_token"]`,
	) {
		t.Error(body)
	}
}

// A hundred uses of one refresh token at once, over two replicas.
func TestRefreshRaceOverReplicas(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, h *harness) {
		replica := open(t, h.config, h.clock)
		token := h.login("app").RefreshToken
		answers := make(chan reply)
		for i := range 100 {
			go func() { answers <- []*harness{h, replica}[i%2].refresh("app", token) }()
		}
		successors := map[string]bool{}
		for range 100 {
			switch r := <-answers; r.status {
			case http.StatusOK:
				successors[r.tokens(t).RefreshToken] = true
			case http.StatusBadRequest, http.StatusTooManyRequests, http.StatusServiceUnavailable:
			default:
				t.Errorf("%d %s", r.status, r.body)
			}
		}
		if len(successors) != 1 {
			t.Errorf("%d successors", len(successors))
		}
		for successor := range successors {
			replica.refresh("app", successor).tokens(t)
		}
	})
}
