package passwords

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-crypt/crypt/algorithm/shacrypt"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/crypto/scrypt"
)

// Bounds of the parameters of hashes that others made: what a login may cost until it has replaced such a hash, which
// is about a second of a CPU.
const (
	maxImportedMemory = 256 << 10 // KiB
	maxArgon2Work     = 1 << 20   // KiB times passes
	maxScryptWork     = 1 << 20   // n times r times p
	minIterations     = 1000      // of PBKDF2
	maxIterations     = 2_000_000 // of PBKDF2, for all blocks of the value together
	maxSHACrypt       = 700_000   // rounds
	maxBcryptCost     = 14
	maxBcrypt         = 72 // bytes of a password that bcrypt looks at
	minSum            = 16 // bytes
	maxSum            = 128
	maxImported       = 512 // bytes of the whole text
)

// Imported is a hash that another system made. It is replaced by one of ours as soon as its user logs in.
type Imported struct {
	verify func(typed string) bool // takes the password as the other system did: as it was typed
	memory uint32                  // KiB that it takes
	params string                  // its form and parameters, without salt and value
}

func (h Imported) Matches(typed, _ string) bool { return h.verify(typed) }
func (h Imported) Weaker(Policy) bool           { return true }
func (h Imported) Cost() uint32                 { return h.memory }
func (h Imported) Kind() string                 { return h.params }

// importedForm is a form in which others write hashes. read takes what the groups of form have matched.
type importedForm struct {
	form *regexp.Regexp
	read func(g []string) (Imported, error)
}

var (
	padded   = base64.StdEncoding.Strict()    // as Django writes
	unpadded = base64.RawStdEncoding.Strict() // as PHC strings have it
)

// importedForms are all that are taken: Django's (django.contrib.auth.hashers), PHC strings, modular crypt, and those
// of passlib.
var importedForms = []importedForm{
	{
		regexp.MustCompile(`^pbkdf2_(sha1|sha256)\$(\d{1,8})\$([^$]+)\$([A-Za-z0-9+/=]+)$`),
		func(g []string) (Imported, error) {
			return pbkdf2Hash(g[1], g[2], []byte(g[3]), padded, g[4])
		},
	},
	{
		regexp.MustCompile(
			`^\$pbkdf2-(sha1|sha256|sha512)\$(?:i=)?(\d{1,8})(?:,l=\d{1,4})?\$([A-Za-z0-9+/.]+)\$([A-Za-z0-9+/.]+)$`,
		),
		readPBKDF2,
	},
	{
		regexp.MustCompile(`^\$pbkdf2(?:-(sha1))?\$(\d{1,8})\$([A-Za-z0-9+/.]+)\$([A-Za-z0-9+/.]+)$`),
		func(g []string) (Imported, error) {
			return readPBKDF2([]string{"", "sha1", g[2], g[3], g[4]}) // passlib names no digest where it is SHA-1
		},
	},
	{
		regexp.MustCompile(
			`^(?:argon2)?\$argon2(i|id)\$v=19\$m=(\d{1,9}),t=(\d{1,3}),p=(\d{1,3})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)$`,
		),
		argon2Hash,
	},
	{regexp.MustCompile(`^(?:bcrypt\$)?(\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53})$`), func(g []string) (Imported, error) {
		return bcryptHash(g[1], g[2], func(typed string) []byte { return []byte(typed) })
	}},
	{regexp.MustCompile(`^bcrypt_sha256\$(\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53})$`), func(g []string) (Imported, error) {
		return bcryptHash(g[1], g[2], func(typed string) []byte {
			sum := sha256.Sum256([]byte(typed))
			return []byte(hex.EncodeToString(sum[:]))
		})
	}},
	{
		regexp.MustCompile(`^scrypt\$(\d{1,8})\$([^$]+)\$(\d{1,3})\$(\d{1,3})\$([A-Za-z0-9+/=]+)$`),
		func(g []string) (Imported, error) {
			return scryptHash(number(g[1]), g[3], g[4], []byte(g[2]), padded, g[5])
		},
	},
	{
		regexp.MustCompile(`^\$scrypt\$ln=(\d{1,2}),r=(\d{1,3}),p=(\d{1,3})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)$`),
		func(g []string) (Imported, error) {
			salt, err := unpadded.DecodeString(g[4])
			if err != nil {
				return Imported{}, errors.New("its salt is not base64")
			}
			return scryptHash(1<<min(number(g[1]), 62), g[2], g[3], salt, unpadded, g[5])
		},
	},
	{regexp.MustCompile(`^\$[56]\$(?:rounds=(\d{1,9})\$)?[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]+$`), shaCryptHash},
}

// refusedForms are hashes that are not taken, each with the reason.
var refusedForms = []struct{ prefix, reason string }{
	{"md5$", "md5 is no password hash: whoever has a copy of it finds the password in no time"},
	{"unsalted_md5$", "md5 is no password hash: whoever has a copy of it finds the password in no time"},
	{"sha1$", "sha1 is no password hash: whoever has a copy of it finds the password in no time"},
	{"unsalted_sha1$", "sha1 is no password hash: whoever has a copy of it finds the password in no time"},
	{"crypt$", "crypt takes eight characters of a password, and is found out in no time"},
	{"$1$", "md5-crypt is no password hash any more: it is found out in no time"},
	{"$y$", "yescrypt is not read"},
	{"$argon2d$", "argon2d is not read: argon2id and argon2i are"},
}

// Parse reads a hash that is stored: ours, or one that was imported.
func Parse(text string) (Hash, error) {
	if h, err := ParseArgon2id(text); err == nil {
		return h, nil
	}
	return ParseImported(text)
}

// ParseImported reads a hash that another system made. The error says why it is not taken, and holds nothing of the
// hash but its parameters.
func ParseImported(text string) (Imported, error) {
	if len(text) > maxImported {
		return Imported{}, fmt.Errorf("the password hash is longer than %d bytes", maxImported)
	}
	for _, f := range importedForms {
		if groups := f.form.FindStringSubmatch(text); groups != nil {
			return f.read(groups)
		}
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
		"the password hash is in no form that is read: argon2, bcrypt, PBKDF2, scrypt and SHA-crypt are",
	)
}

// md5Hex is how Django writes an unsalted MD5.
var md5Hex = regexp.MustCompile(`^[0-9a-f]{32}$`)

// number reads digits; what does not fit is as large as can be.
func number(digits string) int {
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 1 << 62
	}
	return n
}

// within refuses a parameter that is out of bounds.
func within(name string, n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("%s %d is not between %d and %d", name, n, least, most)
	}
	return nil
}

// sumOf reads the hash value itself.
func sumOf(encoding *base64.Encoding, text string) ([]byte, error) {
	sum, err := encoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("its value is not base64")
	}
	return sum, within("its length in bytes", len(sum), minSum, maxSum)
}

var digests = map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha512": sha512.New}

// readPBKDF2 reads PHC strings and those of passlib, which writes a dot for a plus.
func readPBKDF2(g []string) (Imported, error) {
	salt, err := unpadded.DecodeString(strings.ReplaceAll(g[3], ".", "+"))
	if err != nil {
		return Imported{}, errors.New("its salt is not base64")
	}
	return pbkdf2Hash(g[1], g[2], salt, unpadded, strings.ReplaceAll(g[4], ".", "+"))
}

func pbkdf2Hash(digest, iterations string, salt []byte, encoding *base64.Encoding, value string) (Imported, error) {
	n := number(iterations)
	sum, err := sumOf(encoding, value)
	blocks := (len(sum) + digests[digest]().Size() - 1) / digests[digest]().Size()
	if err := errors.Join(err, within("iterations", n, minIterations, maxIterations/max(blocks, 1))); err != nil {
		return Imported{}, fmt.Errorf("PBKDF2: %w", err)
	}
	params := fmt.Sprintf("pbkdf2 %s %d %d", digest, n, len(sum))
	return Imported{params: params, verify: func(typed string) bool {
		key, err := pbkdf2.Key(digests[digest], typed, salt, n, len(sum))
		return err == nil && hmac.Equal(key, sum)
	}}, nil
}

func argon2Hash(g []string) (Imported, error) {
	memory, times, lanes := number(g[2]), number(g[3]), number(g[4])
	salt, saltErr := unpadded.DecodeString(g[5])
	sum, err := sumOf(unpadded, g[6])
	if err := errors.Join(err, saltErr, within("lanes", lanes, 1, maxLanes), within("time", times, 1, maxTime),
		within("memory in KiB", memory, 8*lanes, min(maxImportedMemory, maxArgon2Work/max(times, 1)))); err != nil {
		return Imported{}, fmt.Errorf("argon2: %w", err)
	}
	derive := argon2.IDKey
	if g[1] == "i" {
		derive = argon2.Key
	}
	params := fmt.Sprintf("argon2%s m=%d,t=%d,p=%d", g[1], memory, times, lanes)
	return Imported{params: params, memory: uint32(memory), verify: func(typed string) bool {
		return subtle.ConstantTimeCompare(
			derive([]byte(typed), salt, uint32(times), uint32(memory), uint8(lanes), uint32(len(sum))),
			sum,
		) == 1
	}}, nil
}

// bcryptHash takes no password of more bytes than bcrypt looks at, since what comes after them would not be verified.
func bcryptHash(text, cost string, prepare func(string) []byte) (Imported, error) {
	if err := within("cost", number(cost), bcrypt.MinCost, maxBcryptCost); err != nil {
		return Imported{}, fmt.Errorf("bcrypt: %w", err)
	}
	return Imported{params: "bcrypt " + cost, verify: func(typed string) bool {
		password := prepare(typed)
		return bcrypt.CompareHashAndPassword([]byte(text), password[:min(len(password), maxBcrypt)]) == nil &&
			len(password) <= maxBcrypt
	}}, nil
}

func scryptHash(
	n int,
	blockSize, lanes string,
	salt []byte,
	encoding *base64.Encoding,
	value string,
) (Imported, error) {
	r, p := number(blockSize), number(lanes)
	sum, err := sumOf(encoding, value)
	if err := errors.Join(err, within("n", n, 2, 1<<20), within("r", r, 1, 64), within("p", p, 1, maxLanes),
		within("n times r times p", min(n, 1<<20)*min(r, 64)*min(p, maxLanes), 2, maxScryptWork)); err != nil {
		return Imported{}, fmt.Errorf("scrypt: %w", err)
	}
	memory := n * r * 128 >> 10
	if err := within("memory in KiB", memory, 0, maxImportedMemory); err != nil || n&(n-1) != 0 {
		return Imported{}, fmt.Errorf(
			"scrypt: %w",
			errors.Join(err, errors.New("n is a power of two, and n times r not too much")),
		)
	}
	params := fmt.Sprintf("scrypt %d %d %d", n, r, p)
	return Imported{params: params, memory: uint32(memory), verify: func(typed string) bool {
		key, err := scrypt.Key([]byte(typed), salt, n, r, p, len(sum))
		return err == nil && hmac.Equal(key, sum)
	}}, nil
}

func shaCryptHash(g []string) (Imported, error) {
	if g[1] != "" {
		if err := within("rounds", number(g[1]), 1000, maxSHACrypt); err != nil {
			return Imported{}, fmt.Errorf("SHA-crypt: %w", err)
		}
	}
	digest, err := shacrypt.Decode(g[0])
	if err != nil {
		return Imported{}, errors.New("SHA-crypt: it cannot be read")
	}
	params := "sha-crypt " + g[0][:3] + g[1]
	return Imported{params: params, verify: func(typed string) bool {
		matches, err := digest.MatchBytesAdvanced([]byte(typed))
		return err == nil && matches
	}}, nil
}
