package server

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// refreshToken is a refresh token taken apart:
//
//	ktr_ base64url( k[1] id[8] generation[4] family[16] mac[16] )
//
// The database holds the SHA-256 of family and nothing of mac, so that no copy of it suffices to make a token; mac is
// compared before any database is asked. 128 bits of family and 128 of mac are unguessable (RFC 6749 §10.10).
type refreshToken struct {
	grant      storage.GrantID
	generation uint32
	family     [familySize]byte
}

const (
	refreshPrefix = "ktr_"
	familySize    = 16
	macSize       = 16
	refreshSize   = 1 + 8 + 4 + familySize + macSize
)

func newFamily() (family [familySize]byte) {
	rand.Read(family[:])
	return family
}

// familyHash is what the database knows of a family.
func (t refreshToken) familyHash() string {
	sum := sha256.Sum256(t.family[:])
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// seal is the text of the token as issued at the moment given: the same whenever and wherever it is computed.
func (t refreshToken) seal(s *keys.Secrets, issued time.Time) string {
	number, key := s.RefreshKey(issued)
	b := make([]byte, 0, refreshSize)
	b = append(b, number)
	b = binary.BigEndian.AppendUint64(b, uint64(t.grant))
	b = binary.BigEndian.AppendUint32(b, t.generation)
	b = append(b, t.family[:]...)
	b = append(b, refreshMAC(key, b)...)
	return refreshPrefix + base64.RawURLEncoding.EncodeToString(b)
}

func refreshMAC(key, content []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("ktr1"))
	mac.Write(content)
	return mac.Sum(nil)[:macSize]
}

// readRefreshToken is openRefreshToken with the keys of today. The error is of a server that cannot be sure of them: a
// token under a key that it does not know yet is not the client's fault.
func (s *Server) readRefreshToken(text string) (t refreshToken, ok bool, err error) {
	if !strings.HasPrefix(text, refreshPrefix) {
		return t, false, nil
	}
	secrets, err := s.ring.FreshSecrets()
	if err != nil {
		return t, false, err
	}
	t, ok = openRefreshToken(secrets, text)
	return t, ok, nil
}

// openRefreshToken takes apart a text that this server has issued as a refresh token; ok is false for any other.
func openRefreshToken(s *keys.Secrets, text string) (t refreshToken, ok bool) {
	rest, ok := strings.CutPrefix(text, refreshPrefix)
	if !ok || len(rest) != base64.RawURLEncoding.EncodedLen(refreshSize) {
		return t, false
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil || len(b) != refreshSize {
		return t, false
	}
	key := s.RefreshKeyByNumber(b[0])
	content, mac := b[:refreshSize-macSize], b[refreshSize-macSize:]
	if key == nil || !hmac.Equal(mac, refreshMAC(key, content)) {
		return t, false
	}
	t.grant = storage.GrantID(binary.BigEndian.Uint64(b[1:]))
	t.generation = binary.BigEndian.Uint32(b[9:])
	copy(t.family[:], b[13:])
	return t, true
}
