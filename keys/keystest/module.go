package keystest

import (
	"crypto/rsa"
	"crypto/x509"

	"github.com/keyturn/keyturn/keys"
)

// module is the CryptoModule under test, which gets the keys that a Generator makes.
type module struct {
	keys.CryptoModule
	generate func(bits int) (*rsa.PrivateKey, error)
}

// Module returns the module of this build with ready-made keys: OpenSSL with the tag openssl, or else Go.
func Module() keys.CryptoModule {
	real, err := keys.NewCryptoModule(Signer, Quiet)
	if err != nil {
		panic(err) // the tests of this build need OpenSSL
	}
	return module{real, Generator()}
}

// Make implements [keys.CryptoModule].
func (m module) Make(bits int) (keys.PrivateKey, error) {
	private, err := m.generate(bits)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	return m.Open(secret)
}
