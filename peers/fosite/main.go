// Command fosite serves the grants of keyturn-bench with github.com/ory/fosite. It keeps everything in memory.
package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v3"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/oauth2"
	"github.com/ory/fosite/storage"
	"github.com/ory/fosite/token/jwt"

	"github.com/keyturn/keyturn/peers/peer"
)

// sha is the hash of client secrets, which are random. The default of fosite is bcrypt, which takes a quarter of a
// second for each request.
type sha struct{}

func (sha) Hash(_ context.Context, data []byte) ([]byte, error) {
	sum := sha256.Sum256(data)
	return sum[:], nil
}

func (s sha) Compare(ctx context.Context, hash, data []byte) error {
	sum, _ := s.Hash(ctx, data)
	if subtle.ConstantTimeCompare(sum, hash) != 1 {
		return errors.New("another secret")
	}
	return nil
}

// store is fosite's own, with hashed passwords.
type store struct{ *storage.MemoryStore }

// Authenticate implements the password grant.
func (store) Authenticate(_ context.Context, name, password string) (subject string, err error) {
	if !peer.Matches(password) {
		return "", fosite.ErrNotFound
	}
	return name, nil
}

func client(id, secret string) *fosite.DefaultClient {
	hashed, _ := sha{}.Hash(context.Background(), []byte(secret))
	return &fosite.DefaultClient{
		ID:         id,
		Secret:     hashed,
		GrantTypes: []string{"password", "refresh_token"},
		Scopes:     []string{"read", "write", "offline"},
	}
}

func main() {
	key, memory := peer.NewKey(), storage.NewMemoryStore()
	memory.Clients[peer.AppID] = client(peer.AppID, peer.AppSecret)
	memory.Clients[peer.ResourceID] = client(peer.ResourceID, peer.ResourceSecret)
	config := &fosite.Config{
		GlobalSecret:        []byte("thirty-two bytes for an HMAC key"),
		AccessTokenIssuer:   peer.Issuer,
		AccessTokenLifespan: 10 * time.Minute,
		ClientSecretsHasher: sha{},
		RefreshTokenScopes:  []string{}, // every login gets a refresh token
	}
	keyOf := func(context.Context) (any, error) { return key, nil }
	strategy := compose.NewOAuth2JWTStrategy(keyOf, compose.NewOAuth2HMACStrategy(config), config)
	//lint:ignore SA1019 the grant that is compared
	password := compose.OAuth2ResourceOwnerPasswordCredentialsFactory
	provider := compose.Compose(config, store{memory}, strategy, password, compose.OAuth2RefreshTokenGrantFactory,
		compose.OAuth2TokenIntrospectionFactory)
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: &key.PublicKey, KeyID: peer.KeyID, Algorithm: "RS256", Use: "sig"},
	}})
	if err != nil {
		peer.Fail(err)
	}
	http.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		request, err := provider.NewAccessRequest(r.Context(), r, newSession(r.FormValue("username")))
		if err != nil {
			provider.WriteAccessError(r.Context(), w, request, err)
			return
		}
		response, err := provider.NewAccessResponse(r.Context(), request)
		if err != nil {
			provider.WriteAccessError(r.Context(), w, request, err)
			return
		}
		provider.WriteAccessResponse(r.Context(), w, request, response)
	})
	http.HandleFunc("POST /introspect", func(w http.ResponseWriter, r *http.Request) {
		answer, err := provider.NewIntrospectionRequest(r.Context(), r, newSession(""))
		if err != nil {
			provider.WriteIntrospectionError(r.Context(), w, err)
			return
		}
		provider.WriteIntrospectionResponse(r.Context(), w, answer)
	})
	http.HandleFunc("GET /.well-known/jwks.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(jwks)
	})
	peer.Serve(http.DefaultServeMux)
}

func newSession(user string) *oauth2.JWTSession {
	return &oauth2.JWTSession{
		JWTClaims: &jwt.JWTClaims{Subject: user, Issuer: peer.Issuer, Audience: []string{"https://api.example.com"}},
		JWTHeader: &jwt.Headers{Extra: map[string]any{"kid": peer.KeyID}},
		Username:  user,
		Subject:   user,
	}
}
