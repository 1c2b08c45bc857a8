//go:build ignore

// A resource server that verifies keyturn's access tokens with zitadel/oidc.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/client/rp"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const (
	issuer   = "https://auth.example.com"
	audience = "https://api.example.com"
	jwksAge  = 5 * time.Minute // how long a fetched JWKS is kept
)

var errNoKeys = errors.New("the JWKS could not be fetched")

// keySet replaces its remote key set every jwksAge.
type keySet struct {
	mu      sync.Mutex
	keys    oidc.KeySet
	expires time.Time
}

// watched notices that a request for the JWKS has failed, which the library reports like a bad token.
type watched struct{ failed chan<- struct{} }

func (w watched) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || answer.StatusCode != http.StatusOK {
		select {
		case w.failed <- struct{}{}:
		default:
		}
	}
	return answer, err
}

// VerifySignature also checks typ, which separates access tokens (RFC 9068) from other JWTs of the issuer.
func (s *keySet) VerifySignature(ctx context.Context, jws *jose.JSONWebSignature) ([]byte, error) {
	if typ, _ := jws.Signatures[0].Protected.ExtraHeaders[jose.HeaderType].(string); !strings.EqualFold(typ, "at+jwt") {
		return nil, errors.New("not an access token")
	}
	s.mu.Lock()
	failed := make(chan struct{}, 1)
	if !time.Now().Before(s.expires) {
		client := &http.Client{Timeout: 5 * time.Second, Transport: watched{failed}}
		s.keys, s.expires = rp.NewRemoteKeySet(client, issuer+"/.well-known/jwks.json"), time.Now().Add(jwksAge)
	}
	keys := s.keys
	s.mu.Unlock()
	payload, err := keys.VerifySignature(ctx, jws)
	select {
	case <-failed:
		s.mu.Lock()
		s.expires = time.Time{} // try again at the next token
		s.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", errNoKeys, err)
	default:
		return payload, err
	}
}

var verifier = op.NewAccessTokenVerifier(issuer, &keySet{}, op.WithSupportedAccessTokenSigningAlgorithms("RS256"))

type claims struct {
	oidc.TokenClaims
	Scope string `json:"scope"`
}

func verify(ctx context.Context, raw string) (*claims, error) {
	c, err := op.VerifyAccessToken[*claims](ctx, raw, verifier)
	switch {
	case err != nil:
	case !slices.Contains(c.Audience, audience):
		err = errors.New("a token for another audience")
	case c.NotBefore.AsTime().After(time.Now()): // the library does not check nbf
		err = errors.New("not valid yet")
	}
	return c, err
}

// protected passes requests with a valid access token to next.
func protected(next func(http.ResponseWriter, *http.Request, *claims)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		scheme, raw, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "an access token is required", http.StatusUnauthorized)
			return
		}
		c, err := verify(r.Context(), raw)
		switch {
		case err == nil:
			next(w, r, c)
		case errors.Is(err, errNoKeys):
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
	http.Handle("GET /{$}", protected(func(w http.ResponseWriter, r *http.Request, c *claims) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]string{"sub": c.Subject, "scope": c.Scope})
	}))
	server := http.Server{Addr: "127.0.0.1:9000", ReadHeaderTimeout: 10 * time.Second}
	slog.Error("stopped", "error", server.ListenAndServe())
	os.Exit(1)
}
