package verify

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"sync"

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

// verify checks the signature of a compact JWS of a typ (RFC 7515 §5.2), and returns its payload and its key.
func (k *keyRing) verify(ctx context.Context, token, typ string) (payload []byte, by signer, err error) {
	parts, ok := split(token)
	if !ok {
		return nil, by, invalid(Malformed)
	}
	h, ok := k.headers.read(parts.header)
	if !ok {
		return nil, by, invalid(Malformed)
	}
	// RFC 8725 §3.1: the algorithm is that of the key, whatever the token says. RFC 9068 §4: typ.
	if h.Alg != string(jose.RS256) || h.Crit != nil || h.Zip != nil || h.B64 != nil || !isTyp(h.Typ, typ) {
		return nil, by, invalid(Header)
	}
	key, err := k.key(ctx, h.KID)
	if err != nil {
		return nil, by, err
	}
	// RS256: RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 §3.3).
	if rsa.VerifyPKCS1v15(key, crypto.SHA256, parts.digest[:], parts.signature) != nil {
		return nil, by, invalid(Signature)
	}
	k.headers.keep(parts.header, h)
	return parts.payload, signer{h.KID, key}, nil
}

// signer is the key that made a signature.
type signer struct {
	kid string
	key *rsa.PublicKey
}

// headers remembers the headers of verified tokens, by their text: all tokens of a key have the same.
type headers struct {
	mu    sync.RWMutex
	known map[string]header
}

// maxHeaders bounds them. A server has a few keys, and two kinds of tokens.
const maxHeaders = 64

// read parses a header, unless it is known.
func (k *headers) read(text []byte) (h header, ok bool) {
	k.mu.RLock()
	h, ok = k.known[string(text)]
	k.mu.RUnlock()
	if ok {
		return h, true
	}
	return h, json.Unmarshal(text, &h) == nil
}

func (k *headers) keep(text []byte, h header) {
	k.mu.RLock()
	_, ok := k.known[string(text)]
	k.mu.RUnlock()
	if ok {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == nil || len(k.known) >= maxHeaders {
		k.known = map[string]header{}
	}
	k.known[string(text)] = h
}

// parts are the parts of a compact JWS, decoded, and the digest of what is signed.
type parts struct {
	header, payload, signature []byte
	digest                     [sha256.Size]byte
}

// split splits a compact JWS in canonical base64url. A lax decoder ignores trailing bits and line breaks, and accepts
// several spellings of one token.
func split(token string) (p parts, ok bool) {
	last := strings.LastIndexByte(token, '.')
	if last < 0 || strings.ContainsAny(token, "\r\n") {
		return p, false
	}
	header, payload, ok := strings.Cut(token[:last], ".")
	if !ok || strings.Contains(payload, ".") {
		return p, false
	}
	for _, part := range []struct {
		text string
		into *[]byte
	}{{header, &p.header}, {payload, &p.payload}, {token[last+1:], &p.signature}} {
		var err error
		if *part.into, err = strictBase64.DecodeString(part.text); err != nil {
			return p, false
		}
	}
	p.digest = sha256.Sum256([]byte(token[:last]))
	return p, true
}

var strictBase64 = base64.RawURLEncoding.Strict()

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
