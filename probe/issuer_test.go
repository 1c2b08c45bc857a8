package probe_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"

	"github.com/keyturn/keyturn/probe"
)

// issuer signs tokens as keyturn does, as far as a verifier can tell.
type issuer struct {
	key *rsa.PrivateKey
	kid string
}

func (i issuer) KID() string            { return i.kid }
func (i issuer) Public() *rsa.PublicKey { return &i.key.PublicKey }

func (i issuer) Sign(h probe.Header, claims map[string]any) (string, error) {
	header := map[string]any{"alg": "RS256", "kid": i.kid}
	if h.Typ != "" {
		header["typ"] = h.Typ
	}
	if h.Critical {
		header["crit"], header[probe.CriticalName] = []string{probe.CriticalName}, true
	}
	text := encode(header) + "." + encode(claims)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, sum[:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), err
}

func encode(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}
