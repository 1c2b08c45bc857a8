package verify_test

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/verify"
)

var ctx = context.Background()

// wantReason checks that a token is refused, and why.
func wantReason(t *testing.T, v *verify.Verifier, what, raw string, want verify.Reason) {
	t.Helper()
	for range 2 { // the second time it may come from a cache
		_, err := v.Token(ctx, raw)
		var bad *verify.InvalidError
		if !errors.As(err, &bad) || bad.Reason != want || !errors.Is(err, verify.ErrInvalid) {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
		if err != nil && len(raw) > 20 && strings.Contains(err.Error(), raw) {
			t.Errorf("%s: the error has the token", what)
		}
	}
}

func wantGood(t *testing.T, v *verify.Verifier, what, raw string) *verify.Token {
	t.Helper()
	var got *verify.Token
	for range 2 {
		var err error
		if got, err = v.Token(ctx, raw); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	return got
}

func wantUnavailable(t *testing.T, v *verify.Verifier, what, raw string) {
	t.Helper()
	if _, err := v.Token(ctx, raw); !errors.Is(err, verify.ErrUnavailable) || errors.Is(err, verify.ErrInvalid) {
		t.Errorf("%s: %v", what, err)
	}
}

func TestGoodTokens(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, newIssuer(), nil)
	got := wantGood(t, v, "a good token", token(nil))
	if got.Subject != "usr_1" || got.ClientID != "app" || got.Session != "3d27b8161e8f3982" || !got.HasRole("admin") ||
		!got.HasScope("read") || !got.HasScope("write", "read") || !got.HasScope() || got.HasScope("rea") ||
		got.Expires.Sub(got.IssuedAt) != 10*time.Minute || got.AuthTime.IsZero() {
		t.Errorf("%+v", got)
	}
	var own struct {
		JTI string `json:"jti"`
	}
	if err := got.Claims(&own); err != nil || own.JTI != got.ID {
		t.Errorf("%+v %v", own, err)
	}
	now := time.Now().Unix()
	for what, changes := range map[string]map[string]any{
		"several audiences":        {"aud": []string{"https://else.example", resource}},
		"issued a little ahead":    {"iat": now + 30},
		"begins a little ahead":    {"nbf": now + 30},
		"began":                    {"nbf": now - 30},
		"no scope":                 {"scope": nil},
		"an expiry with fractions": {"exp": float64(now) + 60.5},
		"a claim of another kind":  {"x": map[string]any{"aud": 1}},
	} {
		wantGood(t, v, what, token(changes))
	}
	wantGood(t, v, "typ with application/", sign(pairs()[0], "k1", "application/AT+jwt", claims(nil)))
}

// header replaces the header of a token.
func withHeader(raw, header string) string {
	parts := strings.Split(raw, ".")
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + parts[1] + "." + parts[2]
}

// signedBy signs a header and a payload by hand.
func signedBy(key *rsa.PrivateKey, header, payload string) string {
	input := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." +
		base64.RawURLEncoding.EncodeToString([]byte(payload))
	sum := sha256.Sum256([]byte(input))
	signature := must(rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:]))
	return input + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, newIssuer(), nil)
	good := token(nil)
	parts := strings.Split(good, ".")
	payload := string(must(base64.RawURLEncoding.DecodeString(parts[1])))
	own, stranger := pairs()[0], pairs()[1]
	mac := func(key []byte) string {
		input := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","kid":"k1","typ":"at+jwt"}`)) +
			"." + parts[1]
		h := hmac.New(sha256.New, key)
		h.Write([]byte(input))
		return input + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
	}
	public := string(must(json.Marshal(jose.JSONWebKey{Key: &stranger.PublicKey})))
	const usual = `{"alg":"RS256","kid":"k1","typ":"at+jwt"}`
	extended := func(more string) string { // with more in its header
		return signedBy(own, strings.TrimSuffix(usual, "}")+more+"}", payload)
	}
	claimed := func(from, to string) string { // with another text among its claims
		return sign(own, "k1", "at+jwt", []byte(strings.Replace(payload, from, to, 1)))
	}
	altered := func(i int) string {
		b := []byte(parts[i])
		b[len(b)/2] ^= 1
		if strings.Trim(string(b), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			b[len(b)/2] = 'B'
		}
		all := []string{parts[0], parts[1], parts[2]}
		all[i] = string(b)
		return strings.Join(all, ".")
	}
	for what, c := range map[string]struct {
		raw  string
		want verify.Reason
	}{
		"nothing":            {"", verify.Malformed},
		"a word":             {"garbage", verify.Malformed},
		"three words":        {"a.b.c", verify.Malformed},
		"four parts":         {good + ".x", verify.Malformed},
		"encrypted":          {"e30.e30.e30.e30.e30", verify.Malformed},
		"too large":          {good + strings.Repeat("A", 20_000), verify.Malformed},
		"many dots":          {strings.Repeat(".", 10_000), verify.Malformed},
		"padding":            {good + "=", verify.Malformed},
		"a line break":       {good + "\n", verify.Malformed},
		"a refresh token":    {"ktr_AQfSVAHdvJ-n8AAAAAAx", verify.Malformed},
		"JSON serialisation": {`{"payload":"` + parts[1] + `","signatures":[]}`, verify.Malformed},
		"header no JSON":     {withHeader(good, `x`), verify.Malformed},
		"header twice": {withHeader(good, `{"alg":"RS256","alg":"none","kid":"k1","typ":"at+jwt"}`),
			verify.Malformed},
		"alg none":             {withHeader(good, `{"alg":"none","kid":"k1","typ":"at+jwt"}`), verify.Header},
		"alg None":             {withHeader(good, `{"alg":"None","typ":"at+jwt"}`), verify.Header},
		"RS512":                {withHeader(good, `{"alg":"RS512","kid":"k1","typ":"at+jwt"}`), verify.Header},
		"PS256":                {withHeader(good, `{"alg":"PS256","kid":"k1","typ":"at+jwt"}`), verify.Header},
		"alg in small letters": {withHeader(good, `{"alg":"rs256","kid":"k1","typ":"at+jwt"}`), verify.Header},
		"a MAC by the modulus": {mac(own.N.Bytes()), verify.Header},
		"typ JWT":              {sign(own, "k1", "JWT", claims(nil)), verify.Header},
		"no typ":               {signedBy(own, `{"alg":"RS256","kid":"k1"}`, payload), verify.Header},
		"a status list":        {sign(own, "k1", "statuslist+jwt", claims(nil)), verify.Header},
		"crit":                 {extended(`,"crit":["x"],"x":1`), verify.Header},
		"crit empty":           {extended(`,"crit":[]`), verify.Header},
		"b64":                  {extended(`,"b64":false`), verify.Header},
		"zip":                  {extended(`,"zip":"DEF"`), verify.Header},
		"no kid":               {signedBy(own, `{"alg":"RS256","typ":"at+jwt"}`, payload), verify.UnknownKey},
		"an unknown kid":       {sign(stranger, "mine", "at+jwt", claims(nil)), verify.UnknownKey},
		"a key in the header": {signedBy(stranger, `{"alg":"RS256","kid":"mine","typ":"at+jwt","jwk":`+public+`}`,
			payload), verify.UnknownKey},
		"where its key lies": {signedBy(stranger,
			`{"alg":"RS256","kid":"mine","typ":"at+jwt","jku":"https://evil.example/"}`, payload), verify.UnknownKey},
		"another's key":        {signedBy(stranger, usual, payload), verify.Signature},
		"an altered payload":   {altered(1), verify.Signature},
		"an altered signature": {altered(2), verify.Signature},
		"no signature":         {parts[0] + "." + parts[1] + ".", verify.Signature},
		"another issuer":       {token(map[string]any{"iss": "https://else.example"}), verify.Issuer},
		"issuer with a slash":  {token(map[string]any{"iss": issuerURL + "/"}), verify.Issuer},
		"no issuer":            {token(map[string]any{"iss": nil}), verify.Issuer},
		"another audience":     {token(map[string]any{"aud": "https://else.example"}), verify.Audience},
		"audience in part":     {token(map[string]any{"aud": resource + "/x"}), verify.Audience},
		"no audience":          {token(map[string]any{"aud": nil}), verify.Audience},
		"no audiences":         {token(map[string]any{"aud": []string{}}), verify.Audience},
		"audience in capitals": {token(map[string]any{"aud": "x", "AUD": resource}), verify.Audience},
		"audience a number":    {token(map[string]any{"aud": 1}), verify.Claims},
		"no sub":               {token(map[string]any{"sub": nil}), verify.Claims},
		"no client":            {token(map[string]any{"client_id": nil}), verify.Claims},
		"no jti":               {token(map[string]any{"jti": nil}), verify.Claims},
		"no iat":               {token(map[string]any{"iat": nil}), verify.Claims},
		"no exp":               {token(map[string]any{"exp": nil}), verify.Claims},
		"exp null":             {claimed(`"exp":`, `"exp":null,"x":`), verify.Claims},
		"exp a text":           {token(map[string]any{"exp": "9999999999"}), verify.Claims},
		"scope a list":         {token(map[string]any{"scope": []string{"read"}}), verify.Claims},
		"a claim twice":        {claimed(`{`, `{"sub":"usr_2",`), verify.Claims},
		"no object":            {sign(own, "k1", "at+jwt", []byte(`[]`)), verify.Claims},
		"no JSON":              {sign(own, "k1", "at+jwt", []byte(`x`)), verify.Claims},
		"expired":              {token(map[string]any{"exp": time.Now().Unix()}), verify.Expired},
		"expired long ago":     {token(map[string]any{"exp": -1}), verify.Expired},
		"issued ahead":         {token(map[string]any{"iat": time.Now().Unix() + 90}), verify.NotYetValid},
		"begins ahead":         {token(map[string]any{"nbf": time.Now().Unix() + 90}), verify.NotYetValid},
		"a list elsewhere":     {withStatus("https://evil.example/status/1", 1), verify.Status},
		"a list of a path":     {withStatus(issuerURL+"/status/../introspect", 1), verify.Status},
		"a list with a query":  {withStatus(issuerURL+"/status/1?x", 1), verify.Status},
		"a status of no place": {withStatus(issuerURL+"/status/1", nil), verify.Status},
		"a status of no list":  {token(map[string]any{"status": map[string]any{"status_list": nil}}), verify.Status},
		"an empty status":      {token(map[string]any{"status": map[string]any{}}), verify.Status},
		"a status in text":     {token(map[string]any{"status": "x"}), verify.Status},
		"a status null":        {claimed(`{`, `{"status":null,`), verify.Status},
		"a place in text":      {withStatus(issuerURL+"/status/1", "1"), verify.Status},
		"a huge nbf":           {token(map[string]any{"nbf": int64(1<<63 - 1)}), verify.Claims},
		"a huge iat":           {token(map[string]any{"iat": int64(1<<63 - 808)}), verify.Claims},
		"a huge exp":           {token(map[string]any{"exp": int64(1<<63 - 1)}), verify.Claims},
	} {
		wantReason(t, v, what, c.raw, c.want)
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range alphabet { // several spellings decode to one signature
		if raw := good[:len(good)-1] + alphabet[i:i+1]; raw != good {
			if _, err := v.Token(ctx, raw); !errors.Is(err, verify.ErrInvalid) {
				t.Errorf("last character %q: %v", alphabet[i], err)
			}
		}
	}
	wantGood(t, v, "a good token, still", good)
}

// A removed key is gone in 15 seconds, although tokens of it are known, and a new key is known as soon.
func TestKeysArePolled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		v := newVerifier(t, i, func(c *verify.Config) { c.JWKSURL = issuerURL + "/.well-known/jwks.json?v=abc" })
		time.Sleep(100 * time.Millisecond)
		old := token(nil)
		wantGood(t, v, "a token of the old key", old)
		i.with(func() { i.keys = map[string]*rsa.PrivateKey{"k2": pairs()[1]} })
		next := sign(pairs()[1], "k2", "at+jwt", claims(nil))
		time.Sleep(15 * time.Second)
		wantReason(t, v, "a token of the removed key", old, verify.UnknownKey)
		wantGood(t, v, "a token of the new key", next)
		before := i.requests("/.well-known")
		time.Sleep(150 * time.Second)
		if n := i.requests("/.well-known") - before; n < 9 || n > 11 {
			t.Errorf("%d requests in ten intervals", n)
		}
		last := i.asked[len(i.asked)-1]
		if last.Header.Get("If-None-Match") == "" || last.URL.RawQuery != "v=abc" ||
			!strings.HasPrefix(last.UserAgent(), "keyturn-verify/") || !strings.Contains(last.UserAgent(), resource) {
			t.Errorf("%s %v", last.URL, last.Header)
		}
	})
}

// A key that was gone for a moment, as from a server that lags behind, is good again when it is back, also for tokens
// that were known.
func TestKeyComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		v := newVerifier(t, i, nil)
		raw := token(map[string]any{"exp": time.Now().Unix() + 3600})
		wantGood(t, v, "before", raw)
		i.with(func() { i.keys = map[string]*rsa.PrivateKey{"k2": pairs()[1]} })
		time.Sleep(15 * time.Second)
		wantReason(t, v, "while its key is gone", raw, verify.UnknownKey)
		i.with(func() { i.keys = map[string]*rsa.PrivateKey{"k1": pairs()[0]} })
		time.Sleep(15 * time.Second)
		wantGood(t, v, "back again", raw)
		i.with(func() { i.keys = map[string]*rsa.PrivateKey{"k1": pairs()[2]} })
		time.Sleep(15 * time.Second)
		wantReason(t, v, "another key under its id", raw, verify.Signature)
	})
}

// A handler that changes its token changes it for nobody else.
func TestTokensAreApart(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, newIssuer(), nil)
	raw := token(nil)
	got := wantGood(t, v, "first", raw)
	got.Scope, got.Roles[0], got.Audience[0] = "everything", "root", "x"
	if again := wantGood(t, v, "again", raw); again.Scope != "read write" || again.Roles[0] != "admin" ||
		again.Audience[0] != resource {
		t.Errorf("%+v", again)
	}
}

// While the server is away, a token of an unknown key cannot be checked: it may be new.
func TestUnknownKeyWhileAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		v := newVerifier(t, i, nil)
		i.with(func() { i.away, i.keys["k2"] = true, pairs()[1] })
		raw := sign(pairs()[1], "k2", "at+jwt", claims(nil))
		for range 3 {
			wantUnavailable(t, v, "while it is away", raw)
			time.Sleep(5 * time.Second)
		}
		i.with(func() { i.away = false })
		time.Sleep(16 * time.Second)
		wantGood(t, v, "back again", raw)
		wantReason(t, v, "an invented kid", sign(pairs()[1], "k3", "at+jwt", claims(nil)), verify.UnknownKey)
	})
}

// max-age and ttl shorten the time between two polls, down to a second, and do not lengthen it.
func TestPollsObeyMaxAge(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]int{"max-age=300": 4, "public, max-age=5": 12, "max-age=0": 4, "no-cache": 4,
		"max-age=1": 60} {
		synctest.Test(t, func(t *testing.T) {
			i := newIssuer()
			i.header.Set("Cache-Control", header)
			newVerifier(t, i, nil)
			time.Sleep(100 * time.Millisecond)
			before := i.requests("/.well-known")
			time.Sleep(time.Minute)
			if n := i.requests("/.well-known") - before; n < want-1 || n > want+want/4+1 {
				t.Errorf("%s: %d requests in a minute, want %d", header, n, want)
			}
		})
	}
}

// Unknown kids make a verifier ask at most once a minute, and a key that is published just now is found at once.
func TestUnknownKeys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		v := newVerifier(t, i, nil)
		i.with(func() { i.keys["k2"] = pairs()[1] })
		var all sync.WaitGroup
		for n := range 20 { // at the same moment
			all.Go(func() {
				c := claims(map[string]any{"jti": fmt.Sprint("token ", n)})
				if _, err := v.Token(ctx, sign(pairs()[1], "k2", "at+jwt", c)); err != nil {
					t.Errorf("a token of a new key: %v", err)
				}
			})
		}
		all.Wait()
		before := i.requests("/.well-known")
		for n := range 1000 {
			wantReason(t, v, "an invented kid", sign(pairs()[2], fmt.Sprint("kid ", n), "at+jwt", claims(nil)),
				verify.UnknownKey)
			if n == 10 {
				break
			}
		}
		if n := i.requests("/.well-known") - before; n != 0 {
			t.Errorf("%d requests within the minute", n)
		}
		time.Sleep(61 * time.Second)
		before = i.requests("/.well-known")
		for n := range 10 {
			wantReason(t, v, "an invented kid", sign(pairs()[2], fmt.Sprint("other ", n), "at+jwt", claims(nil)),
				verify.UnknownKey)
		}
		if n := i.requests("/.well-known") - before; n != 1 {
			t.Errorf("%d requests after the minute", n)
		}
	})
}

// While the server is away, keys and lists are used until they are ten minutes old. Then the policy decides.
func TestServerAway(t *testing.T) {
	t.Parallel()
	for policy, after := range map[verify.Stale]bool{verify.Refuse: false, verify.Allow: true} {
		synctest.Test(t, func(t *testing.T) {
			i := newIssuer()
			i.lists["/status/1"] = make([]byte, 16)
			var problems []error
			var mu sync.Mutex
			v := newVerifier(t, i, func(c *verify.Config) {
				c.Stale = policy
				c.Problem = func(err error) { mu.Lock(); problems = append(problems, err); mu.Unlock() }
			})
			life := map[string]any{"exp": time.Now().Unix() + 3600}
			plain := token(life)
			life["status"] = map[string]any{"status_list": map[string]any{"idx": 3, "uri": issuerURL + "/status/1"}}
			listed := token(life)
			life["status"] = map[string]any{"status_list": map[string]any{"idx": 3, "uri": issuerURL + "/status/2"}}
			unseen := token(life)
			for range 39 { // a list stays polled while tokens name it
				wantGood(t, v, "before", listed)
				time.Sleep(time.Second)
			}
			wantGood(t, v, "before", plain)
			i.with(func() { i.away = true })
			for range 58 {
				wantGood(t, v, "while it is away", plain)
				wantGood(t, v, "while it is away", listed)
				time.Sleep(10 * time.Second)
			}
			wantUnavailable(t, v, "a list that was never seen", unseen)
			time.Sleep(time.Minute)
			if after {
				wantGood(t, v, "a list that was never seen, after ten minutes", unseen)
			}
			for what, raw := range map[string]string{"plain": plain, "listed": listed} {
				if after {
					wantGood(t, v, what, raw)
				} else {
					wantUnavailable(t, v, what, raw)
				}
			}
			i.with(func() { i.away = false })
			time.Sleep(16 * time.Second)
			wantGood(t, v, "back again", plain)
			wantGood(t, v, "back again", listed)
			mu.Lock()
			defer mu.Unlock()
			if len(problems) < 30 || !strings.Contains(problems[0].Error(), issuerURL) {
				t.Errorf("%d problems: %v", len(problems), problems)
			}
		})
	}
}

// A verifier that starts while the server is away refuses every token with ErrUnavailable, asks at most once a second
// for the requests that come, and recovers.
func TestStartWhileAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.away = true
		v := newVerifier(t, i, nil)
		raw := token(nil)
		before := i.requests("/")
		for range 100 {
			wantUnavailable(t, v, "at the start", raw)
		}
		if n := i.requests("/") - before; n != 0 {
			t.Errorf("%d requests in a second", n)
		}
		i.with(func() { i.away = false })
		time.Sleep(time.Second)
		wantGood(t, v, "a second later", raw)
	})
}

// Documents that a verifier refuses leave it with the keys that it has.
func TestBadKeySets(t *testing.T) {
	t.Parallel()
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	private := string(must(json.Marshal(jose.JSONWebKey{Key: pairs()[0], KeyID: "k1"})))
	first, second := keyText(&pairs()[0].PublicKey, "k1"), keyText(&pairs()[1].PublicKey, "k1")
	for what, body := range map[string]string{
		"no JSON":        "<html>",
		"no keys":        `{"keys":[]}`,
		"an object":      `{}`,
		"a private key":  `{"keys":[` + private + `]}`,
		"a secret":       `{"keys":[{"kty":"oct","kid":"k1","k":"AAAA"},` + first + `]}`,
		"a small key":    `{"keys":[` + keyText(&small.PublicKey, "k1") + `]}`,
		"one id twice":   `{"keys":[` + first + `,` + second + `]}`,
		"too many":       `{"keys":[` + strings.Repeat(`{"kty":"x"},`, 100) + `{"kty":"x"}]}`,
		"too large":      `{"keys":[` + strings.Repeat(" ", 2<<20) + second + `]}`,
		"for encryption": `{"keys":[` + strings.Replace(second, `"use":"sig"`, `"use":"enc"`, 1) + `]}`,
	} {
		synctest.Test(t, func(t *testing.T) {
			i := newIssuer()
			v := newVerifier(t, i, nil)
			raw := token(nil)
			i.with(func() { i.jwks = body })
			time.Sleep(20 * time.Second)
			wantGood(t, v, what, raw)
			unseen := newVerifier(t, i, nil)
			wantUnavailable(t, unseen, what, raw)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.jwks = `{"keys":[{"kty":"AKP","kid":"pq","alg":"ML-DSA-44","pub":"AAAA"},` + first + `]}`
		wantGood(t, newVerifier(t, i, nil), "beside a key of another kind", token(nil))
	})
}

func keyText(key *rsa.PublicKey, kid string) string {
	return string(must(json.Marshal(jose.JSONWebKey{Key: key, KeyID: kid, Algorithm: "RS256", Use: "sig"})))
}

// No redirect is followed, whatever it leads to.
func TestRedirects(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, newIssuer(), func(c *verify.Config) {
		c.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host != "auth.example.com" {
				t.Errorf("asked %s", r.URL)
			}
			h := http.Header{"Location": {"https://evil.example/jwks.json"}}
			return &http.Response{StatusCode: 302, Header: h, Body: http.NoBody, Request: r}, nil
		})
	})
	wantUnavailable(t, v, "after a redirect", token(nil))
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestConfig(t *testing.T) {
	t.Parallel()
	sample := func(change func(*verify.Sample)) verify.Config {
		s := &verify.Sample{Every: 1, ClientID: "api", ClientSecret: "x", Refused: func(*verify.Token) {}}
		change(s)
		return verify.Config{Issuer: issuerURL, Resource: resource, Sample: s}
	}
	for what, c := range map[string]verify.Config{
		"nothing":               {},
		"no resource":           {Issuer: issuerURL},
		"http":                  {Issuer: "http://auth.example.com", Resource: resource},
		"a slash":               {Issuer: issuerURL + "/", Resource: resource},
		"a query":               {Issuer: issuerURL + "?x", Resource: resource},
		"a fragment":            {Issuer: issuerURL + "#", Resource: resource},
		"a user":                {Issuer: "https://user@auth.example.com", Resource: resource},
		"no host":               {Issuer: "https:///x", Resource: resource},
		"a JWKS by http":        {Issuer: issuerURL, Resource: resource, JWKSURL: "http://auth.example.com/keys"},
		"a JWKS of no server":   {Issuer: issuerURL, Resource: resource, JWKSURL: "keys"},
		"an unknown policy":     {Issuer: issuerURL, Resource: resource, Stale: 7},
		"a sample of none":      sample(func(s *verify.Sample) { s.Every = 0 }),
		"a sample by nobody":    sample(func(s *verify.Sample) { s.ClientID = "" }),
		"a sample nobody hears": sample(func(s *verify.Sample) { s.Refused = nil }),
		"a sample by http":      sample(func(s *verify.Sample) { s.URL = "http://auth.example.com/x" }),
	} {
		if _, err := verify.New(ctx, c); err == nil || !strings.HasPrefix(err.Error(), "verify: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, local := range []string{"http://localhost:8080", "http://127.0.0.1:8080", "http://[::1]:8080"} {
		done, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := verify.New(done, verify.Config{Issuer: local, Resource: resource}); err != nil {
			t.Errorf("%s: %v", local, err)
		}
	}
}
