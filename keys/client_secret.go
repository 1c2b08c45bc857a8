package keys

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
)

// HashClientSecret returns the hash of a client secret as the database stores it: HMAC-SHA256 under a key that lies
// sealed in the database. Generated secrets have 256 bits, and those that people bring cannot be guessed from a copy of
// the database alone.
func (s *Secrets) HashClientSecret(secret string) string {
	return "hmac-sha256$" + base64.RawURLEncoding.EncodeToString(s.clientMAC(secret))
}

// DecoyFor returns a number that picks, for a username that nobody has, the user whose hash is computed instead. It is
// always the same for the same name, and cannot be predicted from outside.
func (s *Secrets) DecoyFor(username string) int64 {
	return int64(binary.BigEndian.Uint64(s.clientMAC("the hash for the name "+username)) >> 2)
}

// DevSecret derives a secret of `keyturn dev` for "client" or "user", so that a second start prints the same one.
func (s *Secrets) DevSecret(of string) string {
	return base64.RawURLEncoding.EncodeToString(s.clientMAC("dev secret of " + of)[:18])
}

// clientMAC is HMAC-SHA256 under the key of client secrets.
func (s *Secrets) clientMAC(text string) []byte {
	mac := hmac.New(sha256.New, s.byPurpose[purposeClient][0].key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
