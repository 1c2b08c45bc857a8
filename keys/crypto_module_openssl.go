//go:build openssl && linux && (amd64 || arm64)

package keys

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"sync"

	"github.com/keyturn/keyturn/keys/internal/openssl"
)

// opensslModule is libcrypto of the system.
type opensslModule struct{ *openssl.Library }

// openSSL loads libcrypto and tests it, once.
var openSSL = sync.OnceValues(func() (CryptoModule, error) {
	library, err := openssl.Load()
	if errors.Is(err, openssl.ErrConfiguration) {
		return nil, fmt.Errorf("%w: %w", errUnsure, err)
	}
	if err != nil {
		return nil, err
	}
	m := opensslModule{library}
	if err = m.test(); err == nil {
		return m, nil
	}
	if m.FIPS() {
		err = fmt.Errorf("%w: %w", err, errUnsure)
	}
	return nil, fmt.Errorf("self-test of %v: %w", m, err)
})

// String implements [CryptoModule].
func (m opensslModule) String() string {
	if m.FIPS() {
		return m.Version() + ", FIPS"
	}
	return m.Version()
}

// Make implements [CryptoModule].
func (m opensslModule) Make(bits int) (PrivateKey, error) { return opensslPrivate(m.Generate(bits)) }

// Open implements [CryptoModule].
func (m opensslModule) Open(secret []byte) (PrivateKey, error) {
	return opensslPrivate(m.Parse(secret))
}

// Destroy implements [CryptoModule]. The row was the only place.
func (opensslModule) Destroy([]byte) error { return nil }

// opensslKey implements [PrivateKey].
type opensslKey struct{ *openssl.Key }

// Secret implements [PrivateKey].
func (k opensslKey) Secret() ([]byte, error) { return k.PKCS8() }

func opensslPrivate(k *openssl.Key, err error) (PrivateKey, error) {
	if err != nil {
		return nil, err
	}
	return opensslKey{k}, nil
}

// A key that is used for nothing else, and its signature of knownMessage.
var (
	//go:embed known_answer/key.der
	knownKey []byte
	//go:embed known_answer/signature.bin
	knownSignature []byte
)

const knownMessage = "a known message"

// test makes a signature whose bytes are known, since RSASSA-PKCS1-v1_5 has no random part. Then Go verifies what
// OpenSSL signs with the key, and OpenSSL what Go signs.
func (m opensslModule) test() error {
	ours, err := m.Open(knownKey)
	if err != nil {
		return err
	}
	defer ours.Close()
	theirs, err := goModule{}.Open(knownKey)
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(knownMessage))
	signature, err := ours.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return err
	}
	if !bytes.Equal(signature, knownSignature) {
		return errors.New("a signature is not the known one")
	}
	digest = sha256.Sum256([]byte(knownMessage + ", changed"))
	signature, err = ours.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return err
	}
	public := theirs.Public().(*rsa.PublicKey)
	if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature); err != nil {
		return fmt.Errorf("a signature of OpenSSL does not verify in Go: %w", err)
	}
	if signature, err = theirs.Sign(nil, digest[:], crypto.SHA256); err != nil {
		return err
	}
	return m.Verify(public, digest, signature)
}
