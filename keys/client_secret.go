package keys

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
)

// HashClientSecret returns the hash of a client secret for the database: HMAC-SHA256 under a key that is sealed in the
// database. A copy of the database alone does not suffice to guess a weak secret. Generated secrets have 256 bits.
func (s *Secrets) HashClientSecret(secret string) string {
	return "hmac-sha256$" + base64.RawURLEncoding.EncodeToString(s.clientMAC(secret))
}

// DecoyFor returns a number that selects, for an unknown username, the user whose hash to compute instead. The number
// is stable for a name and unpredictable for others.
func (s *Secrets) DecoyFor(username string) int64 {
	return int64(binary.BigEndian.Uint64(s.clientMAC("the hash for the name "+username)) >> 2)
}

// DevSecret derives a secret for `keyturn dev`, of "client" or "user". Every start prints the same one.
func (s *Secrets) DevSecret(of string) string {
	return base64.RawURLEncoding.EncodeToString(s.clientMAC("dev secret of " + of)[:18])
}

// clientMAC returns an HMAC-SHA256 under the key of client secrets.
func (s *Secrets) clientMAC(text string) []byte {
	mac := hmac.New(sha256.New, s.byPurpose[purposeClient][0].key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
