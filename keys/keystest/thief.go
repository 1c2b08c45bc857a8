package keystest

import (
	"crypto"
	"encoding/base64"
	"errors"

	"github.com/go-jose/go-jose/v4"
)

// Forge signs a payload with a ready-made key, as somebody can who has stolen it.
func Forge(kid, typ string, payload []byte) (token string, err error) {
	for generate := Generator(); ; {
		private, err := generate(readyBits)
		if err != nil {
			return "", err
		}
		sum, err := (&jose.JSONWebKey{Key: &private.PublicKey}).Thumbprint(crypto.SHA256)
		if err != nil {
			return "", err
		}
		if base64.RawURLEncoding.EncodeToString(sum) != kid {
			if !isReady(private.N.String()) {
				return "", errors.New("forge: not a ready-made key")
			}
			continue
		}
		key := jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: private, KeyID: kid}}
		signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
		if err != nil {
			return "", err
		}
		jws, err := signer.Sign(payload)
		if err != nil {
			return "", err
		}
		return jws.CompactSerialize()
	}
}

// isReady reports whether a key with the modulus is ready-made.
func isReady(modulus string) bool {
	ready.Lock()
	defer ready.Unlock()
	for _, k := range ready.keys {
		if k.N.String() == modulus {
			return true
		}
	}
	return false
}
