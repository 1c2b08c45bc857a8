package passwords

import (
	stdpbkdf2 "crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-crypt/crypt/algorithm"
	"github.com/go-crypt/crypt/algorithm/argon2"
	"github.com/go-crypt/crypt/algorithm/bcrypt"
	"github.com/go-crypt/crypt/algorithm/pbkdf2"
	"github.com/go-crypt/crypt/algorithm/scrypt"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
)

// Bounds of the parameters of imported hashes. A login that verifies one costs about a second of a CPU at most.
const (
	maxImportedMemory = 256 << 10 // KiB
	maxArgon2Work     = 1 << 20   // KiB times passes
	maxScryptWork     = 1 << 20   // n times r times p
	minIterations     = 1000      // PBKDF2
	maxIterations     = 2_000_000 // PBKDF2, over all blocks of the value
	maxSHACrypt       = 700_000   // rounds
	minBcryptCost     = 4
	maxBcryptCost     = 14
	maxBcrypt         = 72 // bytes: bcrypt ignores the rest of a password
	minSum            = 16 // bytes
	maxSum            = 128
	maxImported       = 512 // bytes of the text
)

const argon2Version = 19 // RFC 9106

// Imported is a hash that another system made. The first login that it admits replaces it with one of ours.
type Imported struct {
	verify func(typed string) bool // takes the password as it was typed, as the other system did
	memory uint32                  // KiB that verify takes
	params string                  // form and parameters, without salt and value
}

// Matches verifies the password as it was typed.
func (h Imported) Matches(typed, _ string) bool { return h.verify(typed) }

// Weaker is always true: every imported hash is replaced.
func (h Imported) Weaker(Policy) bool { return true }

// Cost is the memory that Matches takes, in KiB.
func (h Imported) Cost() uint32 { return h.memory }

// Kind is the form and the parameters of the hash.
func (h Imported) Kind() string { return h.params }

// importedForm is one form in which other systems write hashes of a family. read takes the groups of form.
type importedForm struct {
	family string
	form   *regexp.Regexp
	read   func(g []string) (Imported, error)
}

var (
	padded   = base64.StdEncoding.Strict() // Django writes this
	unpadded = base64.RawStdEncoding       // PHC strings have this
)

// importedForms are all supported forms: Django's (django.contrib.auth.hashers), PHC strings, modular crypt, and
// passlib's.
var importedForms = []importedForm{
	{
		"PBKDF2",
		regexp.MustCompile(`^pbkdf2_(sha1|sha256)\$(\d{1,8})\$([^$]+)\$([A-Za-z0-9+/=]+)$`),
		func(g []string) (Imported, error) {
			salt, value, err := fromDjango(g[3], g[4])
			if err != nil {
				return Imported{}, err
			}
			return pbkdf2Hash(g[1], g[2], salt, value)
		},
	},
	{
		"PBKDF2",
		regexp.MustCompile(
			`^\$pbkdf2-(sha1|sha256|sha512)\$(?:i=)?(\d{1,8})(?:,l=\d{1,4})?\$([A-Za-z0-9+/.]+)\$([A-Za-z0-9+/.]+)$`,
		),
		func(g []string) (Imported, error) { return pbkdf2Hash(g[1], g[2], g[3], g[4]) },
	},
	{
		"PBKDF2",
		regexp.MustCompile(`^\$pbkdf2\$(\d{1,8})\$([A-Za-z0-9+/.]+)\$([A-Za-z0-9+/.]+)$`),
		// passlib names no digest if it is SHA-1.
		func(g []string) (Imported, error) { return pbkdf2Hash("sha1", g[1], g[2], g[3]) },
	},
	{
		"argon2",
		regexp.MustCompile(
			`^(?:argon2)?\$(argon2id?)\$v=19\$m=(\d{1,9}),t=(\d{1,3}),p=(\d{1,3})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)$`,
		),
		argon2Hash,
	},
	{
		"bcrypt",
		regexp.MustCompile(`^(?:bcrypt\$)?(\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53})$`),
		func(g []string) (Imported, error) {
			return bcryptHash(g[1], g[2], func(typed string) string { return typed })
		},
	},
	{
		"bcrypt",
		regexp.MustCompile(`^bcrypt_sha256\$(\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53})$`),
		func(g []string) (Imported, error) {
			return bcryptHash(g[1], g[2], func(typed string) string {
				sum := sha256.Sum256([]byte(typed))
				return hex.EncodeToString(sum[:])
			})
		},
	},
	{
		"scrypt",
		regexp.MustCompile(`^scrypt\$(\d{1,8})\$([^$]+)\$(\d{1,3})\$(\d{1,3})\$([A-Za-z0-9+/=]+)$`),
		func(g []string) (Imported, error) {
			salt, value, err := fromDjango(g[2], g[5])
			if err != nil {
				return Imported{}, err
			}
			return scryptHash(number(g[1]), g[3], g[4], salt, value)
		},
	},
	{
		"scrypt",
		regexp.MustCompile(`^\$scrypt\$ln=(\d{1,2}),r=(\d{1,3}),p=(\d{1,3})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)$`),
		func(g []string) (Imported, error) {
			return scryptHash(1<<min(number(g[1]), 62), g[2], g[3], g[4], g[5])
		},
	},
	{
		"SHA-crypt",
		regexp.MustCompile(`^\$[56]\$(?:rounds=(\d{1,9})\$)?[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]+$`),
		shaCryptHash,
	},
}

// refusedForms are known forms that are refused, each with the reason.
var refusedForms = []struct{ prefix, reason string }{
	{"md5$", "md5 is no password hash: anyone with a copy of it finds the password at once"},
	{"unsalted_md5$", "md5 is no password hash: anyone with a copy of it finds the password at once"},
	{"sha1$", "sha1 is no password hash: anyone with a copy of it finds the password at once"},
	{"unsalted_sha1$", "sha1 is no password hash: anyone with a copy of it finds the password at once"},
	{"crypt$", "crypt takes eight characters of a password, and is cracked at once"},
	{"$1$", "md5-crypt is too weak: it is cracked at once"},
	{"$y$", "yescrypt is not supported"},
	{"$argon2d$", "argon2d is not supported: argon2id and argon2i are"},
}

// Parse reads a stored hash: ours or an imported one.
func Parse(text string) (Hash, error) {
	if h, err := ParseArgon2id(text); err == nil {
		return h, nil
	}
	return ParseImported(text)
}

// ParseImported reads a hash that another system made. The error says why the hash is refused, and quotes nothing of it
// but parameters.
func ParseImported(text string) (Imported, error) {
	if len(text) > maxImported {
		return Imported{}, fmt.Errorf("the password hash is longer than %d bytes", maxImported)
	}
	for _, f := range importedForms {
		groups := f.form.FindStringSubmatch(text)
		if groups == nil {
			continue
		}
		h, err := f.read(groups)
		if err != nil {
			return Imported{}, fmt.Errorf("%s: %w", f.family, err)
		}
		return h, nil
	}
	for _, f := range refusedForms {
		if strings.HasPrefix(text, f.prefix) {
			return Imported{}, errors.New(f.reason)
		}
	}
	if md5Hex.MatchString(text) {
		return Imported{}, errors.New(refusedForms[0].reason)
	}
	return Imported{}, errors.New(
		"the password hash is in no form that is supported: argon2, bcrypt, PBKDF2, scrypt and SHA-crypt are",
	)
}

// md5Hex matches an unsalted MD5 as Django writes it.
var md5Hex = regexp.MustCompile(`^[0-9a-f]{32}$`)

// number reads digits. A number that does not fit is 1<<62.
func number(digits string) int {
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 1 << 62
	}
	return n
}

// within returns an error if a parameter is out of bounds.
func within(name string, n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("%s %d is not between %d and %d", name, n, least, most)
	}
	return nil
}

// fromDjango turns Django's salt, which is text, and its padded value into what PHC strings have.
func fromDjango(salt, value string) (salt64, value64 string, err error) {
	sum, err := padded.DecodeString(value)
	if err != nil {
		return "", "", errors.New("its value is not base64")
	}
	return unpadded.EncodeToString([]byte(salt)), unpadded.EncodeToString(sum), nil
}

// decode has go-crypt read a hash, without computing it. The caller checks the parameters first, since go-crypt's
// bounds are too wide. go-crypt ignores stray bits at the end of base64; decode refuses them. Its errors may quote the
// hash, so decode does not return them.
func decode(
	read func(string) (algorithm.Digest, error),
	format string,
	fields ...any,
) (digest algorithm.Digest, err error) {
	text := fmt.Sprintf(format, fields...)
	digest, err = read(text)
	switch {
	case errors.Is(err, algorithm.ErrEncodedHashSaltEncoding):
		return nil, errors.New("its salt is not base64")
	case err != nil:
		return nil, errors.New("its value is not base64")
	case digest.Encode() != text:
		return nil, errors.New("its salt or its value is not base64: the last character has stray bits")
	}
	return digest, within("its length in bytes", len(digest.Key()), minSum, maxSum)
}

// pbkdf2Hash reads salt and value in base64 without padding. passlib and go-crypt write a dot for a plus.
func pbkdf2Hash(name, iterations, salt, value string) (Imported, error) {
	n, variant := number(iterations), pbkdf2.NewVariant(name)
	size := variant.HashFunc()().Size()
	blocks := (unpadded.DecodedLen(len(value)) + size - 1) / size
	if err := within("iterations", n, minIterations, maxIterations/max(blocks, 1)); err != nil {
		return Imported{}, err
	}
	salt, value = strings.ReplaceAll(salt, "+", "."), strings.ReplaceAll(value, "+", ".")
	digest, err := decode(pbkdf2.Decode, pbkdf2.EncodingFmt, variant.Prefix(), n, salt, value)
	if err != nil {
		return Imported{}, err
	}
	sum := digest.Key()
	params := fmt.Sprintf("pbkdf2 %s %d %d", name, n, len(sum))
	return Imported{params: params, verify: func(typed string) bool {
		// In builds with BoringCrypto, go-crypt takes twice as long to derive the key.
		key, err := stdpbkdf2.Key(variant.HashFunc(), typed, digest.Salt(), n, len(sum))
		return err == nil && subtle.ConstantTimeCompare(key, sum) == 1
	}}, nil
}

func argon2Hash(g []string) (Imported, error) {
	memory, times, lanes := number(g[2]), number(g[3]), number(g[4])
	if err := errors.Join(
		within("lanes", lanes, 1, maxLanes),
		within("time", times, 1, maxTime),
		within("memory in KiB", memory, 8*lanes, min(maxImportedMemory, maxArgon2Work/max(times, 1))),
	); err != nil {
		return Imported{}, err
	}
	digest, err := decode(argon2.Decode, argon2.EncodingFmt, g[1], argon2Version, memory, times, lanes, g[5], g[6])
	if err != nil {
		return Imported{}, err
	}
	params := fmt.Sprintf("%s m=%d,t=%d,p=%d", g[1], memory, times, lanes)
	return Imported{params: params, memory: uint32(memory), verify: digest.Match}, nil
}

// bcryptHash reads a hash that matches no password longer than 72 bytes, since bcrypt would not verify the rest.
func bcryptHash(text, cost string, prepare func(typed string) string) (Imported, error) {
	if err := within("cost", number(cost), minBcryptCost, maxBcryptCost); err != nil {
		return Imported{}, err
	}
	digest, err := bcrypt.Decode(text)
	if err != nil {
		return Imported{}, errors.New("it cannot be read")
	}
	return Imported{params: "bcrypt " + cost, verify: func(typed string) bool {
		password := prepare(typed)
		return digest.Match(password[:min(len(password), maxBcrypt)]) && len(password) <= maxBcrypt
	}}, nil
}

// scryptHash reads salt and value in base64 without padding.
func scryptHash(n int, blockSize, lanes, salt, value string) (Imported, error) {
	r, p := number(blockSize), number(lanes)
	if err := errors.Join(
		within("n", n, 2, 1<<20),
		within("r", r, 1, 64),
		within("p", p, 1, maxLanes),
		within("n times r times p", min(n, 1<<20)*min(r, 64)*min(p, maxLanes), 2, maxScryptWork),
	); err != nil {
		return Imported{}, err
	}
	memory := n * r * 128 >> 10
	if err := within("memory in KiB", memory, 0, maxImportedMemory); err != nil {
		return Imported{}, err
	}
	if n&(n-1) != 0 {
		return Imported{}, fmt.Errorf("n %d is not a power of two", n)
	}
	log2 := bits.Len(uint(n)) - 1
	digest, err := decode(scrypt.Decode, scrypt.EncodingFmt, scrypt.AlgIdentifier, log2, r, p, salt, value)
	if err != nil {
		return Imported{}, err
	}
	params := fmt.Sprintf("scrypt %d %d %d", n, r, p)
	return Imported{params: params, memory: uint32(memory), verify: digest.Match}, nil
}

func shaCryptHash(g []string) (Imported, error) {
	if g[1] != "" {
		if err := within("rounds", number(g[1]), 1000, maxSHACrypt); err != nil {
			return Imported{}, err
		}
	}
	digest, err := shacrypt.Decode(g[0])
	if err != nil {
		return Imported{}, errors.New("it cannot be read")
	}
	return Imported{params: "sha-crypt " + g[0][:3] + g[1], verify: digest.Match}, nil
}
