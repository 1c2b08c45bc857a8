package verify_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/verify"
)

const (
	issuerURL = "https://auth.example.com"
	resource  = "https://api.example.com"
)

// pairs are key pairs that all tests share: a new one takes long.
var pairs = sync.OnceValue(func() (all []*rsa.PrivateKey) {
	for range 3 {
		all = append(all, must(rsa.GenerateKey(rand.Reader, 2048)))
	}
	return all
})

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// issuer is a server in memory. It is the transport of its verifiers.
type issuer struct {
	mu       sync.Mutex
	keys     map[string]*rsa.PrivateKey // published
	lists    map[string][]byte          // path: the places of a list
	tokens   map[string]string          // path: a body in place of a list
	iat      int64                      // of the lists; 0: now
	jwks     string                     // in place of the keys
	away     bool
	header   http.Header // of every answer
	inactive bool        // what introspection says
	asked    []*http.Request
}

func newIssuer() *issuer {
	return &issuer{
		keys:   map[string]*rsa.PrivateKey{"k1": pairs()[0]},
		lists:  map[string][]byte{},
		tokens: map[string]string{},
		header: http.Header{},
	}
}

// with changes the issuer.
func (i *issuer) with(change func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change()
}

// RoundTrip implements http.RoundTripper.
func (i *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked = append(i.asked, r)
	if i.away {
		return nil, fmt.Errorf("connection refused")
	}
	w := httptest.NewRecorder()
	for name, values := range i.header {
		w.Header()[name] = values
	}
	i.answer(w, r)
	return w.Result(), nil
}

func (i *issuer) answer(w http.ResponseWriter, r *http.Request) {
	var body string
	switch path := r.URL.Path; {
	case path == "/.well-known/jwks.json":
		if body = i.jwks; body == "" {
			body = i.jwksText()
		}
	case path == "/introspect":
		fmt.Fprintf(w, `{"active":%v}`, !i.inactive)
		return
	case i.tokens[path] != "":
		body = i.tokens[path]
	case i.lists[path] != nil:
		iat := i.iat
		if iat == 0 {
			iat = time.Now().Unix()
		}
		body = i.statusList(path, i.lists[path], iat)
	default:
		http.NotFound(w, r)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/status/") {
		w.Header().Set("Content-Type", "application/statuslist+jwt")
	}
	etag := fmt.Sprintf(`"%x"`, len(body)) + base64.RawURLEncoding.EncodeToString([]byte(body))[max(0, len(body)-40):]
	w.Header().Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Write([]byte(body))
}

func (i *issuer) jwksText() string {
	set := jose.JSONWebKeySet{}
	for kid, key := range i.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: &key.PublicKey, KeyID: kid, Algorithm: "RS256", Use: "sig"})
	}
	return string(must(json.Marshal(set)))
}

// sign signs claims.
func sign(key *rsa.PrivateKey, kid, typ string, claims any) string {
	payload, ok := claims.([]byte)
	if !ok {
		payload = must(json.Marshal(claims))
	}
	options := (&jose.SignerOptions{}).WithType(jose.ContentType(typ))
	signer := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: kid}},
		options))
	return must(must(signer.Sign(payload)).CompactSerialize())
}

func deflate(places []byte) string {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	must(w.Write(places))
	w.Close()
	return base64.RawURLEncoding.EncodeToString(b.Bytes())
}

func (i *issuer) statusList(path string, places []byte, iat int64) string {
	return sign(pairs()[0], "k1", "statuslist+jwt", map[string]any{
		"sub": issuerURL + path, "iat": iat, "exp": iat + 300, "ttl": 15,
		"status_list": map[string]any{"bits": 1, "lst": deflate(places)},
	})
}

// claims returns the claims of a good token, with changes; nil removes one.
func claims(changes map[string]any) map[string]any {
	now := time.Now().Unix()
	c := map[string]any{
		"iss": issuerURL, "sub": "usr_1", "aud": resource, "client_id": "app", "exp": now + 600, "iat": now,
		"jti": "AAAAAAAAAAAAAAAAAAAAAA", "scope": "read write", "sid": "3d27b8161e8f3982", "roles": []string{"admin"},
		"auth_time": now,
	}
	for name, v := range changes {
		if c[name] = v; v == nil {
			delete(c, name)
		}
	}
	return c
}

// token returns a good token with changes.
func token(changes map[string]any) string { return sign(pairs()[0], "k1", "at+jwt", claims(changes)) }

// withStatus returns a good token with a place in a list.
func withStatus(uri string, index any) string {
	return token(map[string]any{"status": map[string]any{"status_list": map[string]any{"idx": index, "uri": uri}}})
}

// newVerifier returns a verifier of an issuer.
func newVerifier(t testing.TB, i *issuer, change func(*verify.Config)) *verify.Verifier {
	t.Helper()
	c := verify.Config{Issuer: issuerURL, Resource: resource, Transport: i}
	if change != nil {
		change(&c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	v, err := verify.New(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// requests counts the requests for a path.
func (i *issuer) requests(path string) (n int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, r := range i.asked {
		if strings.HasPrefix(r.URL.Path, path) {
			n++
		}
	}
	return n
}
