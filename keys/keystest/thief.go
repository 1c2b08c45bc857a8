package keystest

import (
	"crypto"
	"crypto/rsa"
	"encoding/base64"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

// Forge signs a payload with a ready-made key, as somebody can who has stolen it.
func Forge(kid, typ string, payload []byte) (token string, err error) {
	private, err := stolen(kid)
	if err != nil {
		return "", err
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

// stolen returns the ready-made key with a kid.
func stolen(kid string) (*rsa.PrivateKey, error) {
	ready.Lock()
	defer ready.Unlock()
	for n := 0; ; n++ {
		private, err := readyKey(n)
		if err != nil {
			return nil, err
		}
		if private == nil {
			return nil, fmt.Errorf("forge: %s is not a ready-made key", kid)
		}
		sum, err := (&jose.JSONWebKey{Key: &private.PublicKey}).Thumbprint(crypto.SHA256)
		if err != nil {
			return nil, err
		}
		if base64.RawURLEncoding.EncodeToString(sum) == kid {
			return private, nil
		}
	}
}
