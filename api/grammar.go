package api

import (
	"crypto/rand"
	"encoding/base32"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"
)

// IsScopeToken reports whether a word is a scope-token (RFC 6749 App. A.4): printable ASCII without space, " and \.
func IsScopeToken(word string) bool {
	for i := range len(word) {
		c := word[i]
		if c < 0x21 ||
			c > 0x7e ||
			c == '"' ||
			c == '\\' {
			return false
		}
	}
	return word != ""
}

// IsResource reports whether a text is a resource indicator: an absolute URI without a fragment (RFC 8707 §2).
func IsResource(text string) bool {
	u, err := url.Parse(text)
	return err == nil &&
		u.IsAbs() &&
		!strings.ContainsAny(text, "# ") &&
		(u.Host != "" || u.Opaque != "")
}

// IsText reports whether both databases can store a text: valid UTF-8 without NUL.
func IsText(text string) bool { return utf8.ValidString(text) && !strings.Contains(text, "\x00") }

// IsLine reports whether a text is safe in a form parameter and in a header: IsText without CR and LF.
func IsLine(text string) bool { return IsText(text) && !strings.ContainsAny(text, "\r\n") }

const (
	// MaxClientID is the largest length of a client id in bytes.
	MaxClientID = 128
	// SubPrefix begins every sub. No client id or username may begin with it, so that nobody can take a user's sub for
	// a client id (RFC 9068 §5).
	SubPrefix = "usr_"
)

var clientIDForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~:/@+-]{0,127}$`)

// IsClientID reports whether a text is a valid client id.
func IsClientID(text string) bool {
	return clientIDForm.MatchString(text) && !strings.HasPrefix(text, SubPrefix)
}

// NewSub returns an opaque subject identifier: SubPrefix and 128 random bits.
func NewSub() string {
	b := make([]byte, 16)
	rand.Read(b)
	return SubPrefix + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

// MetadataURL returns the URL of the metadata of an issuer (RFC 8414 §3.1).
func MetadataURL(issuer string) string {
	scheme, rest, _ := strings.Cut(issuer, "://")
	host, path, found := strings.Cut(rest, "/")
	if found {
		path = "/" + path
	}
	return scheme + "://" + host + PathMetadata + path
}
