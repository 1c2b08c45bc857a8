// Package peer has what the servers of this module share: the parties that keyturn-bench knows, the hash of passwords,
// and the listener.
package peer

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"os"

	"golang.org/x/crypto/argon2"
)

// The parties of keyturn-bench.
const (
	AppID, AppSecret           = "app", "a secret of the app that nobody else knows"
	ResourceID, ResourceSecret = "api", "a secret of the resource server"
	Password                   = "correct horse battery staple"
	People                     = 20 // user0 and so on
	Issuer                     = "http://127.0.0.1:8080"
)

// KeyID names the signing key.
const KeyID = "peer"

var (
	salt   = []byte("sixteen bytes ..")
	stored = hash(Password)
)

// hash is argon2id with keyturn's default parameters.
func hash(password string) []byte { return argon2.IDKey([]byte(password), salt, 2, 19<<10, 1, 32) }

// Matches reports whether a password is that of the users of keyturn-bench.
func Matches(password string) bool { return subtle.ConstantTimeCompare(hash(password), stored) == 1 }

// NewKey makes a signing key.
func NewKey() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		Fail(err)
	}
	return key
}

// Serve serves on a free port of loopback, and prints it as keyturn does.
func Serve(handler http.Handler) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		Fail(err)
	}
	fmt.Fprintf(os.Stderr, "{\"msg\":\"serving\",\"listen\":%q}\n", l.Addr())
	Fail(http.Serve(l, handler))
}

// Fail ends the program.
func Fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
