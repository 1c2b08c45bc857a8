package server

import (
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// A form that is taken says what net/url says of it, each name once, in text that goes anywhere.
func FuzzForm(f *testing.F) {
	for _, seed := range []string{
		"", "a=b", "grant_type=password&username=alice&password=a+b", "a=%41&b=%00", "a=1&a=2", "resource=x&resource=y",
		"%zz=1", "a=\xff", "=x&=y", "a;b=c",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		got, err := parseForm(body)
		if err != nil {
			if visible(err).httpStatus() != 400 {
				t.Fatal(err)
			}
			return
		}
		if strings.Contains(body, ";") { // net/url refuses it, though it is an octet like any other in a form
			return
		}
		want, err := url.ParseQuery(body)
		if err != nil {
			t.Fatalf("%q is taken, net/url says %v", body, err)
		}
		for name, value := range got {
			if len(want[name]) != 1 || want[name][0] != value || !utf8.ValidString(value) ||
				strings.ContainsAny(value, "\x00\r\n") {
				t.Fatalf("%q: %q is %q", body, name, value)
			}
		}
	})
}

// Basic credentials that are taken come out as they went in.
func FuzzBasic(f *testing.F) {
	for _, seed := range []string{"Basic YXBwOnNlY3JldA==", "basic  YTpi", "Bearer x", "Basic", "Basic YQ==",
		"Basic Og==", "Basic JTAwOmI=", "Basic YSUzQWI6YyUyNmQ="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		p, ok := parseBasic(header)
		if !ok {
			return
		}
		again, ok := parseBasic(
			"Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(p.id)+":"+url.QueryEscape(p.secret))),
		)
		if !ok || again != p || p.id == "" || !api.IsLine(p.id) || !api.IsLine(p.secret) {
			t.Fatalf("%q: %+v, then %+v", header, p, again)
		}
	})
}

// Whatever claims a token of this server bears, even signed by it: introspection answers, and calls none alive that
// names no grant.
func FuzzClaims(f *testing.F) {
	h := OpenHarness(f, ConfigFor(storagetest.SQLiteURL(f)), nil)
	h.Provision()
	kid := Must(h.Server.ring.Signer(ctx, h.Clock.Now().Add(time.Hour))).KID
	for _, seed := range []string{`{}`, `null`, `[]`,
		`{"iss":"` + issuer + `","exp":99999999999,"sid":"0000000000000001",` +
			`"aud":"https://api.example","client_id":"app","sub":"x"}`,
		`{"exp":1e400}`, `{"exp":-1,"sid":"zz"}`, `{"iss":"` + issuer +
			`","exp":9223372036854775807,"sid":"ffffffffffffffff"}`, `{"aud":["a","b"],"roles":{}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		text, err := keystest.Forge(kid, "at+jwt", payload)
		if err != nil {
			return // not something that can be signed
		}
		v, at, err := h.Server.readAccessToken(text)
		if err != nil {
			t.Fatal(err)
		}
		if at != checkable {
			return
		}
		t.Fatalf("%q: it does not count as forged: %+v", payload, v)
	})
}
