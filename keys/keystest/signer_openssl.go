//go:build openssl

package keystest

import "github.com/keyturn/keyturn/keys"

// Signer is the signer that the tests of this build use.
const Signer = keys.SignerOpenSSL
