package keys

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash"
	"strconv"
	"sync"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// The jti of an access token shows that this server made the token, without a record of it:
//
//	base64url( random[8] mac[8] )
//
// The MAC is HMAC-SHA256 over "jti1", the kid, the random part and every other claim, each with its length before it.
// Whoever steals only a signing key can sign any claims, but cannot make their jti. 64 bits of MAC suffice, since each
// guess must be presented to this server, which alarms at the first. The place of the jti among the claims is free.
const (
	tokenRandomSize = 8
	tokenMACSize    = 8
	tokenIDSize     = 22 // of the text
	tokenKeySize    = 32
)

// upgradeGrace is how long tokens of unknown origin are exempt from the MAC after the first key of token ids: they are
// from before the upgrade, or from servers of the previous version that still run.
const upgradeGrace = time.Hour

// tokenKeySecret returns the secret of a new key of token ids. Until the given moment, tokens without its MAC are
// exempt; zero: none is.
func tokenKeySecret(exemptUntil time.Time) []byte {
	secret := make([]byte, tokenKeySize)
	rand.Read(secret)
	millis := int64(0)
	if !exemptUntil.IsZero() {
		millis = exemptUntil.UnixMilli()
	}
	return binary.BigEndian.AppendUint64(secret, uint64(millis))
}

// exemptUntil returns until when tokens without a MAC are not taken for forgeries; zero: never, or in 1970. A new key
// takes it over, so that it is known for as long as there are keys.
func (s *Secrets) exemptUntil() (until time.Time) {
	for _, k := range s.byPurpose[purposeTokenID] {
		until = later(until, time.UnixMilli(int64(binary.BigEndian.Uint64(k.key[tokenKeySize:]))))
	}
	return until
}

// tokenKey returns the key of the ids of tokens that were issued in the given second, or nil if there are no keys. It
// depends on the rows alone, so that all replicas return the same. older means that the tokens are older than the key.
func (s *Secrets) tokenKey(issued time.Time) (key *secretKey, older bool) {
	all := s.byPurpose[purposeTokenID]
	for i := range all {
		if key == nil || !all[i].row.ActivatedAt.After(issued) {
			key = &all[i]
		}
	}
	return key, key == nil || issued.Before(key.row.ActivatedAt.Time)
}

// tokenMACs returns the pool of a key of token ids; nil for a key of another purpose.
func tokenMACs(row storage.SecretKey, secret []byte) *sync.Pool {
	if row.Purpose != purposeTokenID {
		return nil
	}
	return &sync.Pool{New: func() any { return hmac.New(sha256.New, secret[:tokenKeySize]) }}
}

// tokenClaims are the claims of a payload that its jti depends on.
type tokenClaims struct {
	id      []byte // the text of the jti, inside the payload
	issued  time.Time
	expires time.Time
	text    []byte // what the MAC is over
	random  []byte // the place of the random part in text
}

// maxSeconds bounds iat and exp, so that times can be compared. It is in the year 36812.
const maxSeconds = 1 << 40

// names of claims, as they begin in a payload that this server wrote.
var (
	claimID      = []byte(`"jti":"`)
	claimIssued  = []byte(`"iat":`)
	claimExpires = []byte(`"exp":`)
)

// readTokenClaims splits the payload of a token of a key into its claims. ok is false for a text that this server did
// not write: anything but a JSON object without spaces, with one jti and one iat.
func readTokenClaims(kid string, payload []byte) (c tokenClaims, ok bool) {
	seconds := func(claim, name []byte) (at time.Time, ok bool) {
		n, err := strconv.ParseInt(string(claim[len(name):]), 10, 64)
		return time.Unix(n, 0), err == nil && n >= 0 && n < maxSeconds
	}
	const lengths = 256 // room for the lengths of the usual claims
	c.text = append(make([]byte, 0, lengths+len(kid)+len(payload)), "jti1"...)
	c.text = binary.BigEndian.AppendUint64(c.text, uint64(len(kid)))
	c.text = append(c.text, kid...)
	random := len(c.text)
	c.text = append(c.text, make([]byte, tokenRandomSize)...)
	well := eachMember(payload, func(claim []byte) (ok bool) {
		switch {
		case bytes.HasPrefix(claim, claimID):
			text := claim[len(claimID):]
			if c.id != nil || len(text) != tokenIDSize+1 || text[tokenIDSize] != '"' {
				return false
			}
			c.id = text[:tokenIDSize]
			return true
		case bytes.HasPrefix(claim, claimIssued):
			if c.issued, ok = seconds(claim, claimIssued); !ok {
				return false
			}
		case bytes.HasPrefix(claim, claimExpires):
			if c.expires, ok = seconds(claim, claimExpires); !ok {
				return false
			}
		}
		c.text = binary.BigEndian.AppendUint64(c.text, uint64(len(claim)))
		c.text = append(c.text, claim...)
		return true
	})
	c.random = c.text[random : random+tokenRandomSize]
	return c, well && c.id != nil && !c.issued.IsZero()
}

// eachMember hands the members of a JSON object to do, as they are written, until it returns false. It reports whether
// do took all, and the text could be split.
func eachMember(object []byte, do func(member []byte) bool) bool {
	last := len(object) - 1
	if last < 2 || object[0] != '{' || object[last] != '}' {
		return false
	}
	depth, quoted, start := 0, false, 1
	for i := 1; i < last; i++ {
		switch c := object[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{', c == '[':
			depth++
		case c == '}', c == ']':
			depth--
		case c == ',' && depth == 0:
			if !do(object[start:i]) {
				return false
			}
			start = i + 1
		}
	}
	return !quoted && depth == 0 && do(object[start:last])
}

// mac returns the MAC of a jti with a random part.
func (c tokenClaims) mac(key *secretKey, random []byte) []byte {
	copy(c.random, random)
	mac := key.macs.Get().(hash.Hash)
	defer key.macs.Put(mac)
	mac.Reset()
	mac.Write(c.text)
	return mac.Sum(nil)[:tokenMACSize]
}

var errTokenClaims = errors.New("sign: the payload is no JSON object with a jti of 22 characters and an iat")

// stamp writes the jti of a token into its payload. Without a key, as before the end of an upgrade, the jti is random.
func (s *Secrets) stamp(kid string, payload []byte) error {
	c, ok := readTokenClaims(kid, payload)
	if !ok {
		return errTokenClaims
	}
	id := make([]byte, tokenRandomSize, tokenRandomSize+tokenMACSize)
	rand.Read(id)
	if key, _ := s.tokenKey(c.issued); key != nil {
		id = append(id, c.mac(key, id)...)
	} else {
		id = id[:tokenRandomSize+tokenMACSize]
		rand.Read(id[tokenRandomSize:])
	}
	base64.RawURLEncoding.Encode(c.id, id)
	return nil
}

// made reports whether the jti of a payload shows that this server made it.
func (s *Secrets) made(c tokenClaims) bool {
	id := make([]byte, tokenRandomSize+tokenMACSize)
	if n, err := base64.RawURLEncoding.Strict().Decode(id, c.id); err != nil || n != len(id) {
		return false
	}
	key, _ := s.tokenKey(c.issued)
	return key != nil &&
		hmac.Equal(id[tokenRandomSize:], c.mac(key, id[:tokenRandomSize]))
}

// origin returns who made a payload that a key of this server has signed. published is when that key was made. A token
// that has expired is not judged if its key of token ids may have been deleted, or if it may be from a server of the
// previous version.
func (s *Secrets) origin(
	kid string, payload []byte, published time.Time, longest time.Duration, now time.Time,
) Origin {
	c, ok := readTokenClaims(kid, payload)
	exempt := s.exemptUntil()
	switch {
	case !ok:
		return OriginForged
	case s.made(c): // the MAC covers all claims: whatever they are, this server wrote them
		return OriginServer
	case c.expires.Sub(c.issued) > longest, c.issued.Before(published.Add(-Skew)):
		return OriginForged
	case len(s.byPurpose[purposeTokenID]) == 0, now.Before(exempt):
		return OriginExempt
	}
	if _, older := s.tokenKey(c.issued); !now.Before(c.expires) && (older || c.issued.Before(exempt)) {
		return OriginExempt
	}
	return OriginForged
}
