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

// RefreshToken holds the parts of a refresh token, which is
//
//	ktr_ base64url( k[1] id[8] generation[4] family[16] mac[16] )
//
// k is the number of the key of the MAC, and id that of the grant. The MAC is checked before the database is asked. The
// database holds only the SHA-256 of the family, so that a copy of it does not suffice to make a token. 128 bits of
// family and 128 bits of MAC cannot be guessed (RFC 6749 §10.10).
type RefreshToken struct {
	Grant      storage.GrantID
	Generation uint32
	Family     Family
}

// Family is the random part that all refresh tokens of a grant share.
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

// SealRefreshToken returns the text of a token that was issued at the given moment. All replicas return the same text.
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

// OpenRefreshToken parses a refresh token. ok is false for a text that this server did not issue.
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

// OpenRefreshToken is [Secrets.OpenRefreshToken] with the newest keys. It returns ErrStale if this replica may lack the
// newest key: then a valid token could look like a text that this server did not issue.
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
