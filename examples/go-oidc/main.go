//go:build ignore

// A resource server that verifies keyturn's access tokens with coreos/go-oidc.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

const (
	issuer   = "https://auth.example.com"
	audience = "https://api.example.com"
	jwksAge  = 5 * time.Minute // how long a fetched JWKS is kept
)

// keySet replaces its RemoteKeySet every jwksAge. A RemoteKeySet alone fetches the JWKS only when a key is missing, and
// would trust a revoked key until it meets a new one. If fetching fails, keySet accepts no token after jwksAge.
type keySet struct {
	mu      sync.Mutex
	keys    *oidc.RemoteKeySet
	expires time.Time
}

// VerifySignature also checks typ, which go-oidc does not. It separates access tokens (RFC 9068) from other JWTs of the
// issuer.
func (s *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return nil, err
	}
	if typ, _ := jws.Signatures[0].Protected.ExtraHeaders[jose.HeaderType].(string); !strings.EqualFold(typ, "at+jwt") {
		return nil, errors.New("not an access token")
	}
	s.mu.Lock()
	if !time.Now().Before(s.expires) {
		// A RemoteKeySet takes its HTTP client from the context. The default client has no timeout.
		client := oidc.ClientContext(context.Background(), &http.Client{Timeout: 5 * time.Second})
		s.keys = oidc.NewRemoteKeySet(client, issuer+"/.well-known/jwks.json")
		s.expires = time.Now().Add(jwksAge)
	}
	keys := s.keys
	s.mu.Unlock()
	return keys.VerifySignature(ctx, token)
}

// The verifier checks the signature, iss, aud (which it calls the client id) and exp. By default it allows RS256 only.
var verifier = oidc.NewVerifier(issuer, &keySet{}, &oidc.Config{ClientID: audience})

type claims struct {
	Subject string `json:"sub"`
	Scope   string `json:"scope"`
}

// protected passes requests with a valid access token to next.
func protected(next func(http.ResponseWriter, *http.Request, claims)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		scheme, raw, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "an access token is required", http.StatusUnauthorized)
			return
		}
		var c claims
		token, err := verifier.Verify(r.Context(), raw)
		if err == nil {
			err = token.Claims(&c)
		}
		switch {
		case err == nil:
			next(w, r, c)
		// Verify keeps only the text of an error.
		case strings.HasPrefix(err.Error(), "failed to verify signature: fetching keys"):
			slog.ErrorContext(r.Context(), "cannot verify tokens", "error", err)
			http.Error(w, "try again later", http.StatusServiceUnavailable)
		default:
			slog.InfoContext(r.Context(), "token refused", "reason", err)
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			http.Error(w, "the access token is not valid", http.StatusUnauthorized)
		}
	}
}

func main() {
	http.Handle("GET /{$}", protected(func(w http.ResponseWriter, r *http.Request, c claims) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(c)
	}))
	server := http.Server{Addr: "127.0.0.1:9000", ReadHeaderTimeout: 10 * time.Second}
	slog.Error("stopped", "error", server.ListenAndServe())
	os.Exit(1)
}
