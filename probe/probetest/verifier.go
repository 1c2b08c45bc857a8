// Package probetest has a resource server for tests, which can be wrong in one way at a time.
package probetest

import (
	"crypto"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Verifier is a resource server that is right in everything but its fault.
type Verifier struct {
	Issuer, Resource string
	Scope            string                          // that the URL needs; "": none
	Keys             func(kid string) *rsa.PublicKey // nil for an unknown kid
	Ended            func(sid string) bool
	Fault            string // "": none
	Now              func() time.Time
}

// has reports whether the verifier has a fault.
func (v *Verifier) has(fault string) bool { return v.Fault == fault }

// ServeHTTP implements [http.Handler].
func (v *Verifier) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case v.has("asks for no token") && !ok:
	case v.has("redirects to a login") && !ok:
		http.Redirect(w, r, "/login", http.StatusFound)
		return
	case v.has("fails at a bad token") && ok && v.check(token) != http.StatusOK:
		http.Error(w, "sorry", http.StatusInternalServerError)
		return
	default:
		if status := v.check(token); status != http.StatusOK {
			http.Error(w, "no", status)
			return
		}
	}
	io.WriteString(w, "yes")
}

// header is what a verifier reads of a header.
type header struct {
	Alg, Typ, KID, JKU, X5U string
	Crit                    []string
	JWK                     map[string]string
}

func (v *Verifier) check(token string) int {
	if v.has("takes any text for a token") {
		if token != "" {
			return http.StatusOK
		}
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return http.StatusUnauthorized
	}
	var h header
	var c map[string]any
	if !decode(parts[0], &h) || !decode(parts[1], &c) || !v.signed(h, parts) || !v.typed(h) || !v.current(c) ||
		!v.addressed(c) || !v.known(c) {
		return http.StatusUnauthorized
	}
	scope, _ := c["scope"].(string)
	if v.Scope != "" && !v.has("ignores the scope") && !slices.Contains(strings.Fields(scope), v.Scope) {
		return http.StatusForbidden
	}
	return http.StatusOK
}

func decode(part string, to any) bool {
	text, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(text, to) == nil
}

// signed checks the signature, and what the header says of it.
func (v *Verifier) signed(h header, parts []string) bool {
	key := v.Keys(h.KID)
	switch {
	case strings.EqualFold(h.Alg, "none"):
		return v.has("accepts alg "+h.Alg) || v.has("accepts alg none in any case")
	case h.Alg == "HS256":
		return v.byPublicKey(key, parts)
	case h.Alg != "RS256":
		return false
	case len(h.Crit) > 0 && !v.has("ignores crit"):
		return false
	case h.JWK != nil && v.has("takes the key from the header"):
		key = keyOf(h.JWK)
	case h.JKU != "":
		key = v.keyAt(h, key)
	case h.X5U != "":
		key = v.certificateAt(h, key)
	case key == nil && h.JWK == nil && v.has("accepts unknown kids"):
		return true
	}
	if key == nil {
		return false
	}
	strict := base64.RawURLEncoding.Strict()
	if v.has("decodes base64 laxly") {
		strict = base64.RawURLEncoding
	}
	signature, err := strict.DecodeString(parts[2])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	good := err == nil && rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) == nil
	switch {
	case v.has("accepts an empty signature") && parts[2] == "":
		return true
	case v.has("accepts half a signature") && len(signature) > 0 && len(signature) < key.Size():
		return true
	case v.has("checks no signature of its own kid") && h.JKU == "" && h.X5U == "" && h.JWK == nil && h.Crit == nil:
		return len(signature) == key.Size() && err == nil
	case v.has("verifies the claims before a proxy changed them"):
		var c map[string]any
		decode(parts[1], &c)
		return good || c["scope"] == "keyturn-probe-scope"
	}
	return good
}

// byPublicKey verifies HS256 under a public key, if that is the fault.
func (v *Verifier) byPublicKey(key *rsa.PublicKey, parts []string) bool {
	if key == nil {
		return false
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return false
	}
	for fault, secret := range map[string][]byte{
		"takes the PEM for a secret":     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		"takes the DER for a secret":     der,
		"takes the modulus for a secret": key.N.Bytes(),
	} {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(parts[0] + "." + parts[1]))
		if v.has(fault) && base64.RawURLEncoding.EncodeToString(mac.Sum(nil)) == parts[2] {
			return true
		}
	}
	return false
}

func keyOf(jwk map[string]string) *rsa.PublicKey {
	n, err := base64.RawURLEncoding.DecodeString(jwk["n"])
	if err != nil {
		return nil
	}
	return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537}
}

// keyAt fetches the key of a jku, if that is the fault.
func (v *Verifier) keyAt(h header, key *rsa.PublicKey) *rsa.PublicKey {
	if !v.has("fetches jku") && !v.has("uses jku") {
		return key
	}
	body := fetch(h.JKU)
	var set struct{ Keys []map[string]string }
	if v.has("uses jku") && json.Unmarshal(body, &set) == nil && len(set.Keys) > 0 {
		return keyOf(set.Keys[0])
	}
	return key
}

// certificateAt fetches the certificate of an x5u, if that is the fault.
func (v *Verifier) certificateAt(h header, key *rsa.PublicKey) *rsa.PublicKey {
	if !v.has("fetches x5u") && !v.has("uses x5u") {
		return key
	}
	block, _ := pem.Decode(fetch(h.X5U))
	if block == nil || !v.has("uses x5u") {
		return key
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return certificate.PublicKey.(*rsa.PublicKey)
}

func fetch(url string) []byte {
	response, err := http.Get(url)
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return body
}

// typed checks the typ.
func (v *Verifier) typed(h header) bool {
	switch {
	case h.Typ == "at+jwt":
		return true
	case v.has("ignores typ"):
		return true
	case v.has("accepts typ JWT"):
		return h.Typ == "JWT"
	case v.has("accepts no typ"):
		return h.Typ == ""
	case v.has("accepts any typ that ends in +jwt"):
		return strings.HasSuffix(h.Typ, "+jwt")
	}
	return false
}

// current checks the times, with a leeway of a minute.
func (v *Verifier) current(c map[string]any) bool {
	now := float64(v.Now().Unix())
	exp, hasExp := c["exp"].(float64)
	nbf, hasNBF := c["nbf"].(float64)
	iat, _ := c["iat"].(float64)
	leeway := 60.0
	switch {
	case v.has("allows a leeway of five minutes"):
		leeway = 300
	case v.has("allows a leeway of a day"):
		leeway = 86400
	}
	switch {
	case !hasExp:
		return v.has("accepts tokens without exp")
	case now > exp+leeway && !v.has("ignores exp") && !(v.has("accepts what expired long ago") && now > exp+600):
		return false
	case hasNBF && nbf > now+60 && !v.has("ignores nbf"):
		return false
	case iat > now+60 && !v.has("ignores iat"):
		return false
	}
	return true
}

// addressed checks the audience.
func (v *Verifier) addressed(c map[string]any) bool {
	var all []string
	list := false
	switch aud := c["aud"].(type) {
	case nil:
		return v.has("accepts no audience") || v.has("ignores the audience")
	case string:
		all = []string{aud}
	case []any:
		list = true
		for _, one := range aud {
			all = append(all, one.(string))
		}
	}
	switch {
	case v.has("ignores the audience"):
		return true
	case v.has("refuses lists of audiences") && list:
		return false
	case v.has("accepts any list of audiences") && list:
		return true
	case v.has("accepts any string as audience") && !list:
		return true
	}
	return slices.Contains(all, v.Resource)
}

// known checks issuer, subject and login.
func (v *Verifier) known(c map[string]any) bool {
	iss, _ := c["iss"].(string)
	sid, _ := c["sid"].(string)
	switch {
	case v.has("ignores the issuer"):
	case v.has("accepts the issuer with a slash") && strings.TrimSuffix(iss, "/") == v.Issuer:
	case v.has("accepts every other host as issuer") && !strings.HasPrefix(iss, v.Issuer+"/"):
	case iss != v.Issuer:
		return false
	}
	if c["sub"] == nil && !v.has("accepts no sub") {
		return false
	}
	return !v.Ended(sid) || v.has("accepts ended logins")
}
