package passwords

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Bounds of the parameters of a stored hash. Others are refused before any work: argon2 panics on zeros, and large
// parameters exhaust the memory.
const (
	MaxMemory = 1 << 20 // KiB
	maxTime   = 16
	maxLanes  = 16
)

// Policy is how new passwords are hashed: argon2id, RFC 9106.
type Policy struct {
	Memory uint32 // KiB
	Time   uint32
	Lanes  uint8
}

// NewPolicy is a policy by the memory of one hash in bytes, with two passes and one lane (OWASP Password Storage Cheat
// Sheet).
func NewPolicy(memory int64) Policy { return Policy{Memory: uint32(memory >> 10), Time: 2, Lanes: 1} }

// Hash is a stored hash: ours or an imported one.
type Hash interface {
	// Matches hashes a password with the same parameters and compares in constant time. Imported hashes take the
	// password as it was typed, ours take its canonical form.
	Matches(typed, canonical string) bool
	// Weaker reports whether the hash is below the policy in any respect, so that it should be replaced.
	Weaker(Policy) bool
	// Cost is the memory that Matches takes, in KiB.
	Cost() uint32
	// Kind is equal for hashes that take the same time.
	Kind() string
}

// Argon2id is one argon2id hash with its parameters.
type Argon2id struct {
	Policy
	salt, sum []byte
}

// New hashes a password, which is in its canonical form, with a fresh salt.
func New(p Policy, password string) Argon2id {
	salt := make([]byte, 16)
	rand.Read(salt)
	return Argon2id{p, salt, argon2.IDKey([]byte(password), salt, p.Time, p.Memory, p.Lanes, 32)}
}

// String is the PHC string of the hash.
func (h Argon2id) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.Memory, h.Time, h.Lanes,
		b64.EncodeToString(h.salt), b64.EncodeToString(h.sum))
}

// Matches verifies the canonical form of a password.
func (h Argon2id) Matches(_, canonical string) bool {
	sum := argon2.IDKey([]byte(canonical), h.salt, h.Time, h.Memory, h.Lanes, uint32(len(h.sum)))
	return subtle.ConstantTimeCompare(sum, h.sum) == 1
}

// Weaker reports whether the hash is below the policy in any respect.
func (h Argon2id) Weaker(p Policy) bool {
	return h.Memory < p.Memory || h.Time < p.Time || len(h.sum) < 32 || len(h.salt) < 16
}

// Cost is the memory that Matches takes, in KiB.
func (h Argon2id) Cost() uint32 { return h.Memory }

// Kind is argon2id with its parameters.
func (h Argon2id) Kind() string {
	return fmt.Sprintf("argon2id m=%d,t=%d,p=%d", h.Memory, h.Time, h.Lanes)
}

var errForm = errors.New("not an argon2id hash in PHC form with parameters in bounds")

// ParseArgon2id reads the PHC string of a hash, exactly as String writes it.
func ParseArgon2id(s string) (Argon2id, error) {
	var h Argon2id
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v=19" {
		return h, errForm
	}
	var memory, times, lanes uint32
	n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &times, &lanes)
	if err != nil || n != 3 {
		return h, errForm
	}
	if times < 1 || times > maxTime || lanes < 1 || lanes > maxLanes || memory < 8*lanes || memory > MaxMemory {
		return h, errForm
	}
	b64 := base64.RawStdEncoding.Strict()
	salt, err1 := b64.DecodeString(parts[4])
	sum, err2 := b64.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(salt) < 8 || len(salt) > 64 || len(sum) < 16 || len(sum) > 64 {
		return h, errForm
	}
	h = Argon2id{Policy{memory, times, uint8(lanes)}, salt, sum}
	if h.String() != s {
		return Argon2id{}, errForm // base64 decoders ignore line breaks
	}
	return h, nil
}
