//go:build ignore

// A resource server that verifies keyturn's access tokens with golang-jwt/jwt, and its keys with MicahParks/keyfunc.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/time/rate"
)

const (
	issuer   = "https://auth.example.com"
	audience = "https://api.example.com"
	jwksAge  = 5 * time.Minute // how long a fetched JWKS is kept
)

var errNoKeys = errors.New("the JWKS has not been fetched yet")

type claims struct {
	jwt.RegisteredClaims
	Scope string `json:"scope"`
}

type verifier struct {
	keys   keyfunc.Keyfunc
	parser *jwt.Parser
}

func newVerifier(ctx context.Context) (*verifier, error) {
	// keyfunc fetches the JWKS every jwksAge, and also for an unknown kid, but then at most once a second. A request
	// that needs the JWKS waits for that at most RateLimitWaitMax. While fetching fails, keyfunc keeps the keys that it
	// has.
	keys, err := keyfunc.NewDefaultOverrideCtx(ctx, []string{issuer + "/.well-known/jwks.json"}, keyfunc.Override{
		RefreshInterval:   jwksAge,
		RefreshUnknownKID: rate.NewLimiter(rate.Every(time.Second), 1),
		RateLimitWaitMax:  5 * time.Second,
		HTTPTimeout:       5 * time.Second,
	})
	parser := jwt.NewParser(
		jwt.WithValidMethods([]string{"RS256"}),
		jwt.WithIssuer(issuer),
		jwt.WithAudience(audience),
		jwt.WithExpirationRequired(),
	)
	return &verifier{keys, parser}, err
}

func (v *verifier) verify(ctx context.Context, raw string) (c claims, err error) {
	token, err := v.parser.ParseWithClaims(raw, &c, v.keys.KeyfuncCtx(ctx))
	if err != nil {
		if keys, _ := v.keys.Storage().KeyReadAll(ctx); len(keys) == 0 {
			return c, errNoKeys
		}
		return c, err
	}
	// typ separates access tokens (RFC 9068) from other JWTs of the issuer. golang-jwt ignores crit, the extensions
	// that must be understood.
	typ, _ := token.Header["typ"].(string)
	if _, extended := token.Header["crit"]; extended || !strings.EqualFold(typ, "at+jwt") {
		return c, errors.New("not an access token")
	}
	return c, nil
}

// protected passes requests with a valid access token to next.
func (v *verifier) protected(next func(http.ResponseWriter, *http.Request, claims)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		scheme, raw, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "an access token is required", http.StatusUnauthorized)
			return
		}
		c, err := v.verify(r.Context(), raw)
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
	verifier, err := newVerifier(context.Background())
	if err != nil {
		slog.Error("cannot start", "error", err)
		os.Exit(1)
	}
	http.Handle("GET /{$}", verifier.protected(func(w http.ResponseWriter, r *http.Request, c claims) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]string{"sub": c.Subject, "scope": c.Scope})
	}))
	server := http.Server{Addr: "127.0.0.1:9000", ReadHeaderTimeout: 10 * time.Second}
	slog.Error("stopped", "error", server.ListenAndServe())
	os.Exit(1)
}
