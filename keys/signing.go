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

	"github.com/keyturn/keyturn/storage"
)

const (
	signingAlg        = jose.RS256
	purposeSigningKey = "signing key"
)

// thumbprint returns the kid of a public key (RFC 7638).
func thumbprint(public *rsa.PublicKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(sum), err
}

// newRow returns the row of a new pair in state next, published now, with its private half sealed.
func (m *Master) newRow(private *rsa.PrivateKey, reason string, now time.Time) (storage.SigningKey, error) {
	kid, err := thumbprint(&private.PublicKey)
	if err != nil {
		return storage.SigningKey{}, fmt.Errorf("new key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		return storage.SigningKey{}, fmt.Errorf("new key: %w", err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return storage.SigningKey{}, fmt.Errorf("new key: %w", err)
	}
	row := storage.SigningKey{
		KID:         kid,
		State:       storage.KeyNext,
		Alg:         string(signingAlg),
		Bits:        private.N.BitLen(),
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

// privateOf opens the private half of a row and checks that it belongs to the public half.
func (m *Master) privateOf(row storage.SigningKey) (*rsa.PrivateKey, error) {
	public, der, err := publicOf(row)
	if err != nil {
		return nil, err
	}
	if row.PrivateKey == "" {
		return nil, fmt.Errorf("key %s: its private half has been destroyed", row.KID)
	}
	secret, err := m.open(purposeSigningKey, row.KID, der, row.PrivateKey)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(secret)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", row.KID, errors.New("its private half does not parse"))
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok || !private.PublicKey.Equal(public) {
		return nil, fmt.Errorf("key %s: its private half belongs to another key", row.KID)
	}
	private.Precompute()
	return private, nil
}
