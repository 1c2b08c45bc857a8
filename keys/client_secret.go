package keys

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
)

// HashClientSecret returns the hash of a client secret for the database: HMAC-SHA256 under a key that the database
// holds sealed. Generated secrets have 256 bits. Weaker secrets from elsewhere cannot be guessed from a copy of the
// database alone.
func (s *Secrets) HashClientSecret(secret string) string {
	return "hmac-sha256$" + base64.RawURLEncoding.EncodeToString(s.clientMAC(secret))
}

// DecoyFor returns a number for an unknown username, by which the caller picks the user whose hash it computes instead.
// The number is the same each time for one name, and outsiders cannot predict it.
func (s *Secrets) DecoyFor(username string) int64 {
	return int64(binary.BigEndian.Uint64(s.clientMAC("the hash for the name "+username)) >> 2)
}

// DevSecret derives a secret of `keyturn dev` for "client" or "user". A second start prints the same secret.
func (s *Secrets) DevSecret(of string) string {
	return base64.RawURLEncoding.EncodeToString(s.clientMAC("dev secret of " + of)[:18])
}

// clientMAC is HMAC-SHA256 under the key of client secrets.
func (s *Secrets) clientMAC(text string) []byte {
	mac := hmac.New(sha256.New, s.byPurpose[purposeClient][0].key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
