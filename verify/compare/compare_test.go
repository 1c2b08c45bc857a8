// Package compare measures verify beside other verifiers of Go, in one run. It is a module of its own, so that verify
// depends on none of them.
package compare

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/lestrrat-go/jwx/v3/jws"
	jwxjwt "github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/keyturn/keyturn/verify"
)

const resource = "https://api.example.com"

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// rivals verify one token each; an error fails the benchmark.
type rivals struct {
	names  []string
	verify []func(context.Context, string) error
	tokens []string // different ones of one key
}

func newRivals(b *testing.B, tokens int) rivals {
	key := must(rsa.GenerateKey(rand.Reader, 2048))
	set := must(json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: &key.PublicKey, KeyID: "k1", Algorithm: "RS256", Use: "sig"}}}))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(set) }))
	b.Cleanup(server.Close)
	issuer, keys := server.URL, server.URL+"/.well-known/jwks.json"
	ctx := b.Context()

	ours := must(verify.New(ctx, verify.Config{Issuer: issuer, Resource: resource}))
	remote := oidc.NewVerifier(issuer, oidc.NewRemoteKeySet(ctx, keys), &oidc.Config{ClientID: resource,
		SupportedSigningAlgs: []string{oidc.RS256}})
	fetched := must(jwk.Fetch(ctx, keys))
	kf := must(keyfunc.NewDefaultCtx(ctx, []string{keys}))
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithIssuer(issuer), jwt.WithAudience(resource),
		jwt.WithExpirationRequired())
	r := rivals{
		names: []string{"keyturn/verify", "coreos/go-oidc", "lestrrat-go/jwx", "MicahParks/keyfunc"},
		verify: []func(context.Context, string) error{
			func(ctx context.Context, raw string) error { _, err := ours.Token(ctx, raw); return err },
			func(ctx context.Context, raw string) error { _, err := remote.Verify(ctx, raw); return err },
			func(_ context.Context, raw string) error {
				_, err := jwxjwt.Parse([]byte(raw), jwxjwt.WithKeySet(fetched, jws.WithRequireKid(true)),
					jwxjwt.WithIssuer(issuer), jwxjwt.WithAudience(resource), jwxjwt.WithRequiredClaim("exp"))
				return err
			},
			func(ctx context.Context, raw string) error {
				_, err := parser.ParseWithClaims(raw, &jwt.RegisteredClaims{}, kf.KeyfuncCtx(ctx))
				return err
			},
		},
	}
	signer := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}},
		(&jose.SignerOptions{}).WithType("at+jwt")))
	now := time.Now().Unix()
	for i := range tokens {
		payload := must(json.Marshal(map[string]any{"iss": issuer, "sub": "usr_1", "aud": resource, "client_id": "app",
			"exp": now + 3600, "iat": now, "jti": fmt.Sprintf("%022d", i), "scope": "read write",
			"sid": "3d27b8161e8f3982", "roles": []string{"admin"}, "auth_time": now}))
		r.tokens = append(r.tokens, must(must(signer.Sign(payload)).CompactSerialize()))
	}
	return r
}

// inTurns lets all take turns, token by token, and reports the median of each, in nanoseconds and relative to the
// first.
func (r rivals) inTurns(b *testing.B, token func(i int) string) {
	took := make([][]time.Duration, len(r.names))
	for i := 0; b.Loop(); i++ {
		raw := token(i)
		for j := range r.verify {
			k := (i + j) % len(r.verify)
			begun := time.Now()
			if err := r.verify[k](b.Context(), raw); err != nil {
				b.Fatal(r.names[k], err)
			}
			took[k] = append(took[k], time.Since(begun))
		}
	}
	first := 0.0
	for k, name := range r.names {
		slices.Sort(took[k])
		median := float64(took[k][len(took[k])/2].Nanoseconds())
		if k == 0 {
			first = median
		}
		b.ReportMetric(median, name+"-ns")
		b.ReportMetric(median/first, name+"-ratio")
	}
}

// BenchmarkInTurns compares the time of verifications in one run: of tokens that are seen for the first time, and of
// one that is seen again and again, as a resource server sees a token for ten minutes.
func BenchmarkInTurns(b *testing.B) {
	const many = 20_000 // more than any cache holds
	r := newRivals(b, many)
	b.Run("first sight", func(b *testing.B) { r.inTurns(b, func(i int) string { return r.tokens[i%many] }) })
	b.Run("seen before", func(b *testing.B) { r.inTurns(b, func(int) string { return r.tokens[0] }) })
}

// BenchmarkAllocations has the allocations of each.
func BenchmarkAllocations(b *testing.B) {
	const many = 20_000
	r := newRivals(b, many)
	for k, name := range r.names {
		b.Run("first sight/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := r.verify[k](b.Context(), r.tokens[i%many]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("seen before/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := r.verify[k](b.Context(), r.tokens[0]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
