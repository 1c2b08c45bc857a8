package keys

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
)

// header is the whole protected header of a token of this server (RFC 9068 §2.1). A token with any other member (jku,
// jwk, x5u, crit …) is not a token of this server.
type header struct {
	Alg string `json:"alg"`
	KID string `json:"kid"`
	Typ Typ    `json:"typ"`
}

// Typ is the typ in the header of a token (RFC 7519 §5.1).
type Typ string

// The values of typ. The exported ones mean an access token. TypJWT is for verifiers that do not know RFC 9068.
const (
	TypAccessToken Typ = "at+jwt" // RFC 9068 §2.1
	TypJWT         Typ = "JWT"    // RFC 7519 §5.1

	typStatusList Typ = "statuslist+jwt" // draft-ietf-oauth-status-list §5.1
)

// OfAccessToken reports whether the typ is that of an access token.
func (t Typ) OfAccessToken() bool { return t == TypAccessToken || t == TypJWT }

// tokenKID returns the kid of a text in the form of a token of this server: three parts in canonical base64url. A lax
// decoder ignores trailing bits and accepts several spellings of one signature.
func tokenKID(token string) (kid string, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", false
	}
	strict := base64.RawURLEncoding.Strict()
	raw, err := strict.DecodeString(parts[0])
	if err != nil {
		return "", false
	}
	for _, part := range parts[1:] {
		if _, err := strict.DecodeString(part); err != nil || strings.ContainsAny(part, "\r\n") {
			return "", false
		}
	}
	var h header
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil || d.More() {
		return "", false
	}
	return h.KID, h.Alg == string(signingAlg) && h.Typ.OfAccessToken()
}
