package api

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// MaxAccessToken is the largest size of an access token in bytes. Many servers refuse a larger header, and the token
// must fit into the forms of /introspect and /revoke.
const MaxAccessToken = 8 << 10

const (
	// rolesClaim precedes the JSON text of the roles in a payload.
	rolesClaim = `,"roles":`
	// noRoles is the size of the JSON text [].
	noRoles = 2
)

// TokenSize returns the exact size in bytes of an access token, a compact JWS (RFC 7515 §7.1). typ is the typ header,
// payload the size of the payload in bytes, and bits the size of the RSA key. The kid is a SHA-256 thumbprint.
func TokenSize(typ string, payload, bits int) int {
	return base64.RawURLEncoding.EncodedLen(payload) + jwsFrame(typ, bits)
}

// jwsFrame returns the size in bytes of a compact JWS without its payload.
func jwsFrame(typ string, bits int) int {
	b64 := base64.RawURLEncoding
	header := len(`{"alg":"RS256","kid":"","typ":""}`) + b64.EncodedLen(32) + len(typ)
	return b64.EncodedLen(header) + len("..") + b64.EncodedLen((bits+7)/8)
}

// WithRoles returns the size of a payload after the roles are added. roles is the size of their JSON text.
func WithRoles(payload, roles int) int {
	if roles <= noRoles {
		return payload
	}
	return payload + len(rolesClaim) + roles
}

// MaxRoles returns the largest size of the JSON text of roles that fits into a token. payload is the size of the
// payload without roles. The result is 0 if even that payload does not fit.
func MaxRoles(typ string, payload, bits int) int {
	room := base64.RawURLEncoding.DecodedLen(MaxAccessToken-jwsFrame(typ, bits)) - payload
	if room < 0 {
		return 0
	}
	return max(noRoles, room-len(rolesClaim))
}

// TokenRights are the properties of a client that decide the size of its access tokens.
type TokenRights struct {
	ClientID  string
	Scope     string
	Audiences []string
	Username  bool // its tokens have preferred_username
	Status    bool // its tokens have status
}

// largestUsername has the longest JSON text of a username: 255 bytes, each of them escaped.
var largestUsername = strings.Repeat("<", 255)

// LargestPayload returns the largest size of a payload without roles that a client can get.
func LargestPayload(issuer string, r TokenRights) (int, error) {
	t := AccessToken{
		Issuer:   issuer,
		Subject:  sampleSub,
		ClientID: r.ClientID,
		Expires:  year2100,
		IssuedAt: year2100,
		ID:       SampleTokenID,
		Scope:    r.Scope,
		AuthTime: year2100,
		Session:  strings.Repeat("0", sessionSize),
	}
	if r.Username {
		t.Username = largestUsername
	}
	if r.Status {
		t.Status = &Status{StatusReference{Index: maxStatusIndex, URI: StatusURI(issuer, t.Session)}}
	}
	payload, err := json.Marshal(t)
	longest := 0
	for _, audience := range r.Audiences {
		text, _ := json.Marshal(audience) // a string never fails
		longest = max(longest, len(text)-len(`""`))
	}
	return len(payload) + longest, err
}

// maxStatusIndex has as many digits as any index.
const maxStatusIndex = 1<<20 - 1

// StatusURI returns the URI of a Token Status List. Its id has the length of a session.
func StatusURI(issuer, id string) string { return issuer + PathStatus + "/" + id }

// SampleTokenID has the length of every jti.
var SampleTokenID = strings.Repeat("x", 22)

// sampleSub has the length of every sub. year2100 has as many digits as every time until the year 2286.
var (
	sampleSub = NewSub()
	year2100  = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
)

// sessionSize is the length of every sid: 64 bits in hexadecimal.
const sessionSize = 16
