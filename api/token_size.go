package api

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// MaxAccessToken is the size of the largest access token in bytes. Many servers take no larger header, and the forms of
// /introspect and /revoke must hold the token.
const MaxAccessToken = 8 << 10

const (
	// rolesClaim stands in a payload before the JSON text of the roles.
	rolesClaim = `,"roles":`
	// noRoles is the size of the JSON text of no roles, [].
	noRoles = 2
)

// TokenSize is the exact size of an access token as compact JWS (RFC 7515 §7.1): typ of its header, the size of its
// payload in bytes, the size of its RSA key in bits. The kid is a SHA-256 thumbprint.
func TokenSize(typ string, payload, bits int) int {
	return base64.RawURLEncoding.EncodedLen(payload) + jwsFrame(typ, bits)
}

// jwsFrame is the size of a compact JWS without its payload.
func jwsFrame(typ string, bits int) int {
	b64 := base64.RawURLEncoding
	header := len(`{"alg":"RS256","kid":"","typ":""}`) + b64.EncodedLen(32) + len(typ)
	return b64.EncodedLen(header) + len("..") + b64.EncodedLen((bits+7)/8)
}

// WithRoles is the size of a payload without roles after roles are added whose JSON text has a size.
func WithRoles(payload, roles int) int {
	if roles <= noRoles {
		return payload
	}
	return payload + len(rolesClaim) + roles
}

// MaxRoles is the size of the longest JSON text of roles that fits into a token beside a payload without roles; 0 if not
// even no roles fit.
func MaxRoles(typ string, payload, bits int) int {
	room := base64.RawURLEncoding.DecodedLen(MaxAccessToken-jwsFrame(typ, bits)) - payload
	if room < 0 {
		return 0
	}
	return max(noRoles, room-len(rolesClaim))
}

// LargestPayload is the size of the payload of the largest access token that a client can get, without roles.
func LargestPayload(issuer, clientID, scope string, audiences []string) (int, error) {
	payload, err := json.Marshal(AccessToken{
		Issuer:   issuer,
		Subject:  sampleSub,
		ClientID: clientID,
		Expires:  year2100,
		IssuedAt: year2100,
		ID:       SampleTokenID,
		Scope:    scope,
		AuthTime: year2100,
		Session:  strings.Repeat("0", sessionSize),
	})
	longest := 0
	for _, audience := range audiences {
		text, _ := json.Marshal(audience) // a string has no error
		longest = max(longest, len(text)-len(`""`))
	}
	return len(payload) + longest, err
}

// SampleTokenID is as long as the jti of every access token.
var SampleTokenID = strings.Repeat("x", 22)

// sampleSub is as long as every sub, and year2100 has as many digits as the times of all tokens until the year 2286.
var (
	sampleSub = NewSub()
	year2100  = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
)

// sessionSize is the length of every sid: 64 bits in hexadecimal.
const sessionSize = 16
