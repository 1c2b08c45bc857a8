package keys

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
)

// tokenKID accepts only the form of a token of this server: three parts in canonical base64url and exactly its header.
func FuzzTokenKID(f *testing.F) {
	f.Add("eyJhbGciOiJSUzI1NiIsImtpZCI6IngiLCJ0eXAiOiJhdCtqd3QifQ.e30.AAAA")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("..")
	f.Add("eyJhbGciOiJSUzI1NiIsImtpZCI6IngiLCJ0eXAiOiJhdCtqd3QiLCJqa3UiOiJ4In0.e30.AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		kid, ok := tokenKID(text)
		if !ok {
			return
		}
		parts := strings.Split(text, ".")
		for _, part := range parts {
			b, err := base64.RawURLEncoding.DecodeString(part)
			if err != nil || base64.RawURLEncoding.EncodeToString(b) != part {
				t.Fatalf("%q is not canonical", text)
			}
		}
		raw, _ := base64.RawURLEncoding.DecodeString(parts[0])
		var all map[string]any
		if err := json.Unmarshal(raw, &all); err != nil || len(parts) != 3 {
			t.Fatalf("%q: %v", text, err)
		}
		for name := range all {
			if low := strings.ToLower(name); low != "alg" && low != "kid" && low != "typ" {
				t.Fatalf("%q has %q in its header; kid %q", text, name, kid)
			}
		}
	})
}

// A text opens only if it was sealed for the same purpose and id.
func FuzzSealed(f *testing.F) {
	m, err := NewMaster(make([]byte, MasterSize))
	if err != nil {
		f.Fatal(err)
	}
	whole := m.seal("purpose", "id", []byte("public"), []byte("secret"))
	f.Add(whole)
	f.Add("v1." + m.ID() + ".")
	f.Add("v1.0011223344556677.AAAA")
	f.Add("v2." + strings.TrimPrefix(whole, "v1."))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		if secret, err := m.open("purpose", "id", []byte("public"), text); err == nil && string(secret) != "secret" {
			t.Fatalf("%q opens as %q", text, secret)
		}
		if _, err := m.open("purpose", "another id", []byte("public"), text); err == nil {
			t.Fatalf("%q opens for another id", text)
		}
		sealedUnder(text)
	})
}

// A master key file holds only keys of the right size, or is refused.
func FuzzMasterFile(f *testing.F) {
	f.Add([]byte(strings.Repeat("ab", 32)))
	f.Add([]byte(strings.Repeat("A", 43) + "=\n" + strings.Repeat("B", 43) + "=\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		keys, ok := decodeMaster(content)
		if ok != (len(keys) > 0) {
			t.Fatalf("%q: %d keys, %v", content, len(keys), ok)
		}
		for _, key := range keys {
			if len(key) != MasterSize {
				t.Fatalf("%q: a key of %d bytes", content, len(key))
			}
		}
	})
}
