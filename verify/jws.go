package verify

import (
	"context"
	"encoding/base64"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// header is the protected header of a JWS. A token with any of the other members that are listed is refused: they name
// keys, or extensions that a verifier must understand (RFC 7515 §4.1.11, RFC 8725 §3.10).
type header struct {
	Alg  string          `json:"alg"`
	KID  string          `json:"kid"`
	Typ  string          `json:"typ"`
	Crit json.RawMessage `json:"crit"`
	Zip  json.RawMessage `json:"zip"`
	B64  json.RawMessage `json:"b64"`
}

// verify checks the signature of a compact JWS of a typ, and returns its payload and the id of its key.
func (k *keyRing) verify(ctx context.Context, token, typ string) (payload []byte, kid string, err error) {
	h, ok := readHeader(token)
	if !ok {
		return nil, "", invalid(Malformed)
	}
	// RFC 8725 §3.1: the algorithm is that of the key, whatever the token says. RFC 9068 §4: typ.
	if h.Alg != string(jose.RS256) || h.Crit != nil || h.Zip != nil || h.B64 != nil || !isTyp(h.Typ, typ) {
		return nil, "", invalid(Header)
	}
	key, err := k.key(ctx, h.KID)
	if err != nil {
		return nil, "", err
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return nil, "", invalid(Malformed)
	}
	if payload, err = jws.Verify(key); err != nil {
		return nil, "", invalid(Signature)
	}
	return payload, h.KID, nil
}

// readHeader returns the header of a compact JWS in canonical base64url. A lax decoder ignores trailing bits and line
// breaks, and accepts several spellings of one token.
func readHeader(token string) (h header, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 || strings.ContainsAny(token, "\r\n") {
		return h, false
	}
	var text []byte
	for i, part := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil {
			return h, false
		}
		if i == 0 {
			text = b
		}
	}
	return h, json.Unmarshal(text, &h) == nil
}

// isTyp compares a typ without regard to case; a missing prefix application/ is added (RFC 7515 §4.1.9).
func isTyp(typ, want string) bool {
	rest, ok := cutPrefixFold(typ, "application/")
	if !ok {
		rest = typ
	}
	return strings.EqualFold(rest, want)
}

func cutPrefixFold(text, prefix string) (string, bool) {
	if len(text) < len(prefix) || !strings.EqualFold(text[:len(prefix)], prefix) {
		return text, false
	}
	return text[len(prefix):], true
}
