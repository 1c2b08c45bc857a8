package keys

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
)

// CryptoModule makes signing keys and signs with them: a cryptographic module, in the words of NIST SP 800-57. It is
// the only part of keyturn that handles private halves. A module may be in this process, or a device or another process
// that never releases a private half, such as an HSM that is reached by PKCS #11.
//
// The life of a key calls it four times. Make makes the pair when the key is published, and the row keeps Secret,
// sealed. Open makes the key usable when it becomes current, and in each replica. Sign signs. Destroy comes after the
// change that removes the secret from the row, at a rotation or a revocation.
//
// For an HSM the secret is the name of an object. Some things then do not work as in software:
//
//   - A backup of the database holds no private half. A restore and keyturn copy need the same HSM, or a copy of it.
//   - A Ring has one module. To move from one to another, revoke or retire the keys of the old one first.
//   - Other replicas may sign with a key for up to StaleAfter after a rotation. Until they do not, Destroy must wait.
//   - A pair that loses against another replica, or whose change fails, is never destroyed: a person deletes it.
//   - Each signature waits for the device. Options.CPUs should be the number of its sessions.
type CryptoModule interface {
	fmt.Stringer // the name and version of the module
	// Make makes an RSA pair.
	Make(bits int) (PrivateKey, error)
	// Open returns the pair with the given secret.
	Open(secret []byte) (PrivateKey, error)
	// Destroy destroys a private half outside the database, if there is one. The row has forgotten the secret.
	Destroy(secret []byte) error
}

// PrivateKey is one RSA pair in a CryptoModule. Sign makes RSASSA-PKCS1-v1_5 signatures of SHA-256 digests, as RS256
// needs. It is safe for concurrent use.
type PrivateKey interface {
	crypto.Signer
	// Secret is what Open needs later: the PKCS #8 form if the private half may leave the module, or else its name
	// there. Clear it after use.
	Secret() ([]byte, error)
	// Close ends the use in this process. Signatures in progress come to their end. A Ring does not close the key that
	// signs, since requests may still hold it: use runtime.AddCleanup.
	Close()
}

// Values of Config.Signer.
const (
	SignerAuto    = "auto"    // OpenSSL, if this build has it and it works, or else Go
	SignerGo      = "go"      // Go's crypto/rsa
	SignerOpenSSL = "openssl" // libcrypto of the system
)

// ErrNoOpenSSL means that this build cannot use OpenSSL.
var ErrNoOpenSSL = errors.New("this build of keyturn cannot use OpenSSL: `make build-openssl` makes one that can")

// errUnsure means that OpenSSL does not work, and is, or may be, configured for FIPS: nothing else may take its place
// unasked.
var errUnsure = errors.New("the configuration of OpenSSL demands FIPS, or may do so: correct it, or set signer: go")

// NewCryptoModule returns the module that a value of Config.Signer names. OpenSSL is tested before its first use. With
// auto, Go replaces an OpenSSL that does not work, and the log says so, unless OpenSSL is, or may be, configured for
// FIPS.
func NewCryptoModule(signer string, log *slog.Logger) (CryptoModule, error) {
	if signer == SignerGo {
		return goModule{}, nil
	}
	m, err := openSSL()
	switch {
	case err == nil:
		return m, nil
	case signer == SignerOpenSSL, errors.Is(err, errUnsure):
		return nil, fmt.Errorf("signer: %w", err)
	case !errors.Is(err, ErrNoOpenSSL):
		log.Warn("OpenSSL is not usable, so Go signs", "error", err)
	}
	return goModule{}, nil
}

// OpenSSL returns the version of the libcrypto of the system, or why it is not usable: ErrNoOpenSSL if this build uses
// none.
func OpenSSL() (version string, err error) {
	m, err := openSSL()
	if err != nil {
		return "", err
	}
	return m.String(), nil
}

// GoSigner is what Go's module calls itself.
const GoSigner = "Go crypto/rsa"

// goModule is Go's crypto/rsa. Go cannot erase a private key from its memory: the collector frees it.
type goModule struct{}

// String implements [CryptoModule].
func (goModule) String() string { return GoSigner }

// Make implements [CryptoModule].
func (goModule) Make(bits int) (PrivateKey, error) {
	private, err := rsa.GenerateKey(rand.Reader, bits)
	return goKey{private}, err
}

// Open implements [CryptoModule].
func (goModule) Open(secret []byte) (PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(secret)
	if err != nil {
		return nil, errors.New("the private half does not parse") // the cause may quote it
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, errors.New("the private half is not an RSA key")
	}
	private.Precompute()
	return goKey{private}, nil
}

// Destroy implements [CryptoModule]. The row was the only place.
func (goModule) Destroy([]byte) error { return nil }

type goKey struct{ *rsa.PrivateKey }

// Secret implements [PrivateKey].
func (k goKey) Secret() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(k.PrivateKey) }

// Close implements [PrivateKey].
func (k goKey) Close() {}
