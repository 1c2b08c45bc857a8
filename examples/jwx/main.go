//go:build ignore

// A resource server that verifies keyturn's access tokens with lestrrat-go/jwx.
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

	"github.com/lestrrat-go/httprc/v3"
	"github.com/lestrrat-go/httprc/v3/errsink"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/lestrrat-go/jwx/v3/jwt"
)

const (
	issuer   = "https://auth.example.com"
	audience = "https://api.example.com"
	jwksURL  = issuer + "/.well-known/jwks.json"
	jwksAge  = 5 * time.Minute // how long a fetched JWKS is kept
)

var errNoKeys = errors.New("the JWKS cannot be fetched")

// keys finds the key of a token in the JWKS that the cache fetches in the background. For an unknown kid it fetches the
// JWKS at once, which the cache does not do by itself. While fetching fails, the cache keeps the keys that it has.
type keys struct {
	cache *jwk.Cache
	mu    sync.Mutex // guards the rest: the time and the result of the last fetch for an unknown kid
	asked time.Time
	err   error
}

func newKeys(ctx context.Context) (*keys, error) {
	cache, err := jwk.NewCache(ctx, httprc.NewClient(httprc.WithErrorSink(errsink.NewSlog(slog.Default()))))
	if err != nil {
		return nil, err
	}
	// The cache obeys the max-age of the JWKS within these bounds; by default the lower bound is 15 minutes. It also
	// retries after the lower bound. Do not wait for the first fetch: keyturn may start later.
	return &keys{
			cache: cache,
		}, cache.Register(
			ctx,
			jwksURL,
			jwk.WithMinInterval(jwksAge/5),
			jwk.WithMaxInterval(jwksAge),
			jwk.WithHTTPClient(&http.Client{Timeout: 5 * time.Second}),
			jwk.WithWaitReady(false),
		)
}

// FetchKeys returns the key that may have signed the token, for RS256 only, whatever the token or the key says.
func (k *keys) FetchKeys(ctx context.Context, sink jws.KeySink, sig *jws.Signature, _ *jws.Message) error {
	header := sig.ProtectedHeaders()
	alg, _ := header.Algorithm()
	typ, _ := header.Type() // separates access tokens (RFC 9068) from other JWTs of the issuer
	kid, _ := header.KeyID()
	_, extended := header.Critical() // extensions that must be understood
	if alg != jwa.RS256() || !strings.EqualFold(typ, "at+jwt") || extended {
		return errors.New("not an access token")
	}
	key, ok := k.lookup(ctx, kid)
	if !ok {
		// At most once a second, so that garbage tokens do not flood keyturn with requests.
		k.mu.Lock()
		defer k.mu.Unlock()
		if time.Since(k.asked) > time.Second {
			_, k.err = k.cache.Refresh(context.WithoutCancel(ctx), jwksURL)
			k.asked = time.Now()
		}
		if key, ok = k.lookup(ctx, kid); !ok && k.err != nil {
			return errors.Join(errNoKeys, k.err)
		}
	}
	if !ok {
		return errors.New("unknown key")
	}
	sink.Key(jwa.RS256(), key)
	return nil
}

func (k *keys) lookup(ctx context.Context, kid string) (jwk.Key, bool) {
	set, err := k.cache.Lookup(ctx, jwksURL)
	if err != nil {
		return nil, false
	}
	return set.LookupKeyID(kid)
}

type claims struct {
	Subject string `json:"sub"`
	Scope   string `json:"scope"`
}

// verify returns the claims of an access token. It selects each validator itself: by default jwx checks exp only if it
// is present, and refuses a token as not yet issued if keyturn's clock is a second ahead.
func (k *keys) verify(ctx context.Context, raw string) (c claims, err error) {
	token, err := jwt.ParseString(raw, jwt.WithKeyProvider(k), jwt.WithContext(ctx), jwt.WithResetValidators(true),
		jwt.WithIssuer(issuer), jwt.WithAudience(audience),
		jwt.WithRequiredClaim(jwt.ExpirationKey), jwt.WithValidator(jwt.IsExpirationValid()),
		jwt.WithValidator(jwt.IsNbfValid()))
	if err != nil {
		return c, err
	}
	c.Subject, _ = token.Subject()
	return c, token.Get("scope", &c.Scope)
}

// protected passes requests with a valid access token to next.
func (k *keys) protected(next func(http.ResponseWriter, *http.Request, claims)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		scheme, raw, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "an access token is required", http.StatusUnauthorized)
			return
		}
		c, err := k.verify(r.Context(), raw)
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
	keys, err := newKeys(context.Background())
	if err != nil {
		slog.Error("cannot start", "error", err)
		os.Exit(1)
	}
	http.Handle("GET /{$}", keys.protected(func(w http.ResponseWriter, r *http.Request, c claims) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(c)
	}))
	server := http.Server{Addr: "127.0.0.1:9000", ReadHeaderTimeout: 10 * time.Second}
	slog.Error("stopped", "error", server.ListenAndServe())
	os.Exit(1)
}
