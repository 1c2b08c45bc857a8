package keys

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"

	"github.com/keyturn/keyturn/storage"
)

const (
	signingAlg        = jose.RS256
	purposeSigningKey = "signing key"
)

// joseKey makes go-jose sign with a private key whose bytes it does not see.
func joseKey(private PrivateKey, kid string) jose.SigningKey {
	return jose.SigningKey{
		Algorithm: signingAlg,
		Key:       jose.JSONWebKey{Key: cryptosigner.Opaque(private), KeyID: kid},
	}
}

// thumbprint returns the kid of a public key (RFC 7638).
func thumbprint(public *rsa.PublicKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(sum), err
}

// newRow returns the row of a new pair in state next, published now, with its secret sealed.
func (m *Master) newRow(private PrivateKey, reason string, now time.Time) (storage.SigningKey, error) {
	half, err := rsaPublic(private)
	if err != nil {
		return storage.SigningKey{}, fmt.Errorf("new key: %w", err)
	}
	kid, err := thumbprint(half)
	if err != nil {
		return storage.SigningKey{}, fmt.Errorf("new key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(half)
	if err != nil {
		return storage.SigningKey{}, fmt.Errorf("new key: %w", err)
	}
	secret, err := private.Secret()
	if err != nil {
		return storage.SigningKey{}, fmt.Errorf("new key: %w", err)
	}
	defer clear(secret)
	row := storage.SigningKey{
		KID:         kid,
		State:       storage.KeyNext,
		Alg:         string(signingAlg),
		Bits:        half.N.BitLen(),
		PublicKey:   base64.RawURLEncoding.EncodeToString(public),
		PrivateKey:  m.seal(purposeSigningKey, kid, public, secret),
		PublishedAt: storage.At(now),
		SafeFrom:    storage.At(now),
		Reason:      reason,
		SignsUntil:  storage.At(now),
	}
	return row, nil
}

// publicOf parses the public half of a row, and checks that the kid is its thumbprint. Check the MAC of the row first.
func publicOf(row storage.SigningKey) (*rsa.PublicKey, []byte, error) {
	der, err := base64.RawURLEncoding.DecodeString(row.PublicKey)
	if err != nil {
		return nil, nil, fmt.Errorf("key %s: %w", row.KID, err)
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, nil, fmt.Errorf("key %s: %w", row.KID, err)
	}
	public, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return nil, nil, fmt.Errorf("key %s: not an RSA key", row.KID)
	}
	if kid, err := thumbprint(public); err != nil || kid != row.KID {
		return nil, nil, fmt.Errorf("key %s: its public half has another thumbprint", row.KID)
	}
	return public, der, nil
}

// rsaPublic returns the public half of a pair.
func rsaPublic(private PrivateKey) (*rsa.PublicKey, error) {
	public, ok := private.Public().(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("not an RSA key")
	}
	return public, nil
}

// privateOf takes the private half of a row into use, and checks that it belongs to the public half.
func (m *Master) privateOf(row storage.SigningKey, module CryptoModule) (PrivateKey, error) {
	public, _, err := publicOf(row)
	if err != nil {
		return nil, err
	}
	secret, err := m.secretOf(row)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	private, err := module.Open(secret)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", row.KID, err)
	}
	if half, err := rsaPublic(private); err != nil || !half.Equal(public) {
		private.Close()
		return nil, fmt.Errorf("key %s: its private half belongs to another key", row.KID)
	}
	return private, nil
}

// secretOf opens what the module of a key needs to find its private half. Clear it after use.
func (m *Master) secretOf(row storage.SigningKey) ([]byte, error) {
	_, public, err := publicOf(row)
	if err != nil {
		return nil, err
	}
	if row.PrivateKey == "" {
		return nil, fmt.Errorf("key %s: its private half has been destroyed", row.KID)
	}
	return m.open(purposeSigningKey, row.KID, public, row.PrivateKey)
}
