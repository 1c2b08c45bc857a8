package verify_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/verify"
)

// No text is accepted but a token that the issuer signed.
func FuzzToken(f *testing.F) {
	v := newVerifier(f, newIssuer(), nil)
	good := token(nil)
	for _, seed := range []string{good, good + "x", "a.b.c", strings.Replace(good, ".", "..", 1), "e30.e30.e30",
		"eyJhbGciOiJub25lIn0.e30."} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if _, err := v.Token(ctx, raw); (err == nil) != (raw == good) ||
			err != nil && !errors.Is(err, verify.ErrInvalid) {
			t.Fatalf("%q: %v", raw, err)
		}
	})
}

// Whatever the issuer signs: a token is accepted only if its claims say so.
func FuzzClaims(f *testing.F) {
	v := newVerifier(f, newIssuer(), nil)
	for _, seed := range []string{`{}`, `null`, `[]`, `{"exp":1e400}`, `{"aud":["a",1]}`, `{"iss":"` + issuerURL + `"}`,
		string(must(json.Marshal(claims(nil)))), `{"exp":-9223372036854775808,"iat":1e300}`,
		`{"status":{"status_list":{"idx":1e9,"uri":"x"}}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, err := v.Token(ctx, sign(pairs()[0], "k1", "at+jwt", payload))
		if err == nil && (got.Issuer != issuerURL || got.Subject == "" || len(got.Audience) == 0) {
			t.Fatalf("%q: %+v", payload, got)
		}
	})
}

// A list is read or refused, whatever it holds.
func FuzzStatusList(f *testing.F) {
	i := newIssuer()
	f.Add(1, deflate([]byte{1, 2, 3}), int64(5))
	f.Add(8, "eNrbuRgAAhcBXQ", int64(1))
	f.Add(2, "x", int64(-1))
	f.Fuzz(func(t *testing.T, bits int, lst string, index int64) {
		i.with(func() {
			i.tokens["/status/abc"] = sign(pairs()[0], "k1", "statuslist+jwt", map[string]any{
				"sub": listURL, "iat": 1, "exp": 1 << 35,
				"status_list": map[string]any{"bits": bits, "lst": lst},
			})
		})
		newVerifier(t, i, nil).Token(ctx, withStatus(listURL, index))
	})
}
