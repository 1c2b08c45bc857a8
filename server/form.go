package server

import (
	"bytes"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/keyturn/keyturn/api"
)

// maxBody is the largest size of a form in bytes.
const maxBody = 64 << 10

// parameters are the parameters of a form. An empty value counts as absent (RFC 6749 §3.2). Each endpoint reads them
// once into its own struct.
type parameters map[string]string

// credentials must not be in a URL, since URLs are logged (RFC 6749 §2.3.1).
var credentials = map[string]bool{
	api.ParamClientSecret: true,
	api.ParamPassword:     true,
	api.ParamUsername:     true,
	api.ParamRefreshToken: true,
	api.ParamToken:        true,
	"access_token":        true,
	paramClientAssertion:  true,
}

// readForm reads and parses a form: one application/x-www-form-urlencoded body of at most maxBody bytes.
func readForm(x *response, r *http.Request) (parameters, error) {
	if err := checkQuery(r.URL.RawQuery); err != nil {
		return nil, err
	}
	if err := checkMediaType(r.Header); err != nil {
		return nil, err
	}
	tooLarge := failWith(http.StatusRequestEntityTooLarge, api.InvalidRequest, "the body is larger than 65536 bytes")
	if r.ContentLength > maxBody {
		return nil, tooLarge
	}
	body, err := readBody(r)
	if err != nil {
		var size *http.MaxBytesError
		if errors.As(err, &size) {
			return nil, tooLarge
		}
		return nil, fail(api.InvalidRequest, "the body could not be read")
	}
	x.unread = false
	isRead(r)
	return parseForm(body)
}

// readBody reads a body. It allocates memory for the bytes that arrive, not for the announced length.
func readBody(r *http.Request) (string, error) {
	var b bytes.Buffer
	b.Grow(int(min(max(r.ContentLength, 0), 4<<10)) + bytes.MinRead)
	_, err := b.ReadFrom(http.MaxBytesReader(nil, r.Body, maxBody))
	return b.String(), err
}

// checkQuery refuses credentials in the query. It ignores other parameters.
func checkQuery(query string) error {
	if query == "" {
		return nil
	}
	for pair := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
		if credentials[name] {
			return fail(
				api.InvalidRequest,
				"credentials belong into the body, not into the URL: treat what was sent as known to others",
			)
		}
	}
	return nil
}

const formMediaType = "application/x-www-form-urlencoded"

// checkMediaType requires exactly one Content-Type: the form's, in UTF-8 (RFC 6749 App. B).
func checkMediaType(h http.Header) error {
	values := h.Values("Content-Type")
	if len(values) == 1 &&
		isForm(values[0]) &&
		h.Get("Content-Encoding") == "" {
		return nil
	}
	return fail(api.InvalidRequest, "send one body of type application/x-www-form-urlencoded in UTF-8")
}

// isForm reports whether a Content-Type is a form in UTF-8. Media types ignore case (RFC 9110 §8.3.1), and many
// clients spell the charset utf8.
func isForm(contentType string) bool {
	if contentType == formMediaType {
		return true
	}
	mediaType, params, err := mime.ParseMediaType(contentType)
	if err != nil || mediaType != formMediaType {
		return false
	}
	charset, given := params["charset"]
	return !given ||
		strings.EqualFold(charset, "utf-8") ||
		strings.EqualFold(charset, "utf8")
}

// parseForm parses a form body. Unlike net/url it refuses malformed escapes, and characters that a database, a log or a
// header could misread.
func parseForm(body string) (parameters, error) {
	f := parameters{}
	repeatedResource := false
	for pair := range strings.SplitSeq(body, "&") {
		if pair == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, err := unescape(rawName)
		if err != nil {
			return nil, err
		}
		value, err := unescape(rawValue)
		if err != nil {
			return nil, err
		}
		// RFC 6749 §3.2: no parameter more than once.
		_, seen := f[name]
		if seen && name != api.ParamResource {
			return nil, fail(api.InvalidRequest, "a parameter is there more than once")
		}
		repeatedResource = repeatedResource || seen
		f[name] = value
	}
	if repeatedResource {
		// RFC 8707 §2 allows several resources. A token of keyturn has one audience.
		return nil, fail(api.InvalidTarget, "resource is there more than once: a token is for one")
	}
	return f, nil
}

// unescape decodes a name or a value of a form (RFC 6749 App. B).
func unescape(s string) (string, error) {
	plain, err := url.QueryUnescape(s)
	if err != nil {
		return "", fail(api.InvalidRequest, "malformed percent-encoding")
	}
	if !api.IsLine(plain) {
		return "", fail(api.InvalidRequest, "NUL, CR, LF or invalid UTF-8 in a parameter")
	}
	return plain, nil
}
