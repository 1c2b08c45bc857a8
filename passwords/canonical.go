// Package passwords hashes and verifies passwords with argon2id (RFC 9106), and verifies hashes that other systems made
// until a login replaces them. It gives names and passwords their canonical forms (RFC 8265) and bounds how many hashes
// are computed at once.
package passwords

import (
	"errors"

	"golang.org/x/text/secure/precis"
)

const (
	// MaxPassword is the longest password, in bytes.
	MaxPassword = 1024
	// maxUsername is the longest username, in bytes.
	maxUsername = 255
)

// CanonicalUsername returns the form of a name for look-up, throttle and audit: RFC 8265 §3.3, UsernameCaseMapped.
func CanonicalUsername(name string) (string, error) {
	canonical, err := precis.UsernameCaseMapped.String(name)
	if err == nil && (canonical == "" || len(canonical) > maxUsername) {
		err = errors.New("between 1 and 255 bytes")
	}
	return canonical, err
}

// Canonical returns the canonical form of a password: RFC 8265 §4.2, OpaqueString.
func Canonical(password string) (string, error) { return precis.OpaqueString.String(password) }
