// Package passwords hashes passwords and verifies them: with argon2id (RFC 9106), and with what other systems wrote for
// as long as their hashes live. It gives names and passwords their canonical forms (RFC 8265) and bounds how many
// hashes are computed at once.
package passwords

import (
	"errors"

	"golang.org/x/text/secure/precis"
)

const (
	// MaxPassword is the size of the longest password in bytes.
	MaxPassword = 1024
	// maxUsername is the size of the longest username in bytes.
	maxUsername = 255
)

// CanonicalUsername is the one form of a name for look-up, throttle and audit: RFC 8265 §3.3, UsernameCaseMapped.
func CanonicalUsername(name string) (string, error) {
	canonical, err := precis.UsernameCaseMapped.String(name)
	if err == nil && (canonical == "" || len(canonical) > maxUsername) {
		err = errors.New("between 1 and 255 bytes")
	}
	return canonical, err
}

// Canonical is the one form of a password: RFC 8265 §4.2, OpaqueString.
func Canonical(password string) (string, error) { return precis.OpaqueString.String(password) }
