package keys

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// RefreshToken is a parsed refresh token. Its text is
//
//	ktr_ base64url( key[1] id[8] generation[4] family[16] mac[16] )
//
// The database holds only the SHA-256 of the family, so a copy of the database does not suffice to make a token. The
// MAC is checked before any database call. Family and MAC have 128 bits each and cannot be guessed (RFC 6749 §10.10).
type RefreshToken struct {
	Grant      storage.GrantID
	Generation uint32
	Family     Family
}

// Family is the random part of a refresh token. All refresh tokens of a grant share it.
type Family [16]byte

// RefreshPrefix begins every refresh token.
const RefreshPrefix = "ktr_"

const (
	refreshMACSize = 16
	refreshSize    = 1 + 8 + 4 + len(Family{}) + refreshMACSize
)

// NewFamily returns a random family.
func NewFamily() (f Family) {
	rand.Read(f[:])
	return f
}

// Hash returns the hash of a family for the database.
func (f Family) Hash() string {
	sum := sha256.Sum256(f[:])
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// SealRefreshToken returns the text of a token that was issued at the given time. Every replica computes the same text.
func (s *Secrets) SealRefreshToken(t RefreshToken, issued time.Time) string {
	number, key := s.refreshKey(issued)
	b := make([]byte, 0, refreshSize)
	b = append(b, number)
	b = binary.BigEndian.AppendUint64(b, uint64(t.Grant))
	b = binary.BigEndian.AppendUint32(b, t.Generation)
	b = append(b, t.Family[:]...)
	b = append(b, refreshMAC(key, b)...)
	return RefreshPrefix + base64.RawURLEncoding.EncodeToString(b)
}

func refreshMAC(key, content []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("ktr1"))
	mac.Write(content)
	return mac.Sum(nil)[:refreshMACSize]
}

// OpenRefreshToken parses a refresh token that this server issued. ok is false for any other text.
func (s *Secrets) OpenRefreshToken(text string) (t RefreshToken, ok bool) {
	rest, ok := strings.CutPrefix(text, RefreshPrefix)
	if !ok || len(rest) != base64.RawURLEncoding.EncodedLen(refreshSize) {
		return t, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil || len(b) != refreshSize {
		return t, false
	}
	key := s.refreshKeyByNumber(b[0])
	content, mac := b[:refreshSize-refreshMACSize], b[refreshSize-refreshMACSize:]
	if key == nil || !hmac.Equal(mac, refreshMAC(key, content)) {
		return t, false
	}
	t.Grant = storage.GrantID(binary.BigEndian.Uint64(b[1:]))
	t.Generation = binary.BigEndian.Uint32(b[9:])
	copy(t.Family[:], b[13:])
	return t, true
}

// OpenRefreshToken is [Secrets.OpenRefreshToken] with the newest keys. The error is ErrStale if the keys of this
// replica may be outdated, because the token may have a newer key.
func (r *Ring) OpenRefreshToken(text string) (t RefreshToken, ok bool, err error) {
	if !strings.HasPrefix(text, RefreshPrefix) {
		return t, false, nil
	}
	secrets, err := r.FreshSecrets()
	if err != nil {
		return t, false, err
	}
	t, ok = secrets.OpenRefreshToken(text)
	return t, ok, nil
}
