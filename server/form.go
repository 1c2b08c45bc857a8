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

// maxBody is the size of the largest form in bytes.
const maxBody = 64 << 10

// parameters are those of a form, each once. An empty value is no value (RFC 6749 §3.2). Endpoints read them once, into
// a struct of their own.
type parameters map[string]string

// credentials may stand in a form, never in a URL, which ends up in logs (RFC 6749 §2.3.1).
var credentials = map[string]bool{
	api.ParamClientSecret: true,
	api.ParamPassword:     true,
	api.ParamUsername:     true,
	api.ParamRefreshToken: true,
	api.ParamToken:        true,
	"access_token":        true, paramClientAssertion: true,
}

// readForm reads and parses the form of a request: one application/x-www-form-urlencoded body of at most maxBody bytes.
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

// readBody reads a body. Memory comes with what is sent, not with what is announced.
func readBody(r *http.Request) (string, error) {
	var b bytes.Buffer
	b.Grow(int(min(max(r.ContentLength, 0), 4<<10)) + bytes.MinRead)
	_, err := b.ReadFrom(http.MaxBytesReader(nil, r.Body, maxBody))
	return b.String(), err
}

// checkQuery refuses credentials in the query. Everything else in it is ignored.
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

// checkMediaType wants exactly one Content-Type, the form's, in UTF-8 (RFC 6749 App. B; media types ignore case, RFC
// 9110 §8.3.1). Many clients name that charset utf8, which nothing else is called.
func checkMediaType(h http.Header) error {
	values := h.Values("Content-Type")
	if len(values) == 1 && values[0] == formMediaType && h.Get("Content-Encoding") == "" {
		return nil
	}
	if len(values) == 1 {
		mediaType, params, err := mime.ParseMediaType(values[0])
		charset, given := params["charset"]
		inUTF8 := !given || strings.EqualFold(charset, "utf-8") || strings.EqualFold(charset, "utf8")
		if err == nil && mediaType == formMediaType && inUTF8 && h.Get("Content-Encoding") == "" {
			return nil
		}
	}
	return fail(api.InvalidRequest, "send one body of type application/x-www-form-urlencoded in UTF-8")
}

// parseForm parses a form body. Unlike net/url it refuses a parameter that is there twice (RFC 6749 §3.2), a malformed
// escape, and text that a database, a log or a header could take for something else.
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
		_, seen := f[name]
		if seen && name != api.ParamResource {
			return nil, fail(api.InvalidRequest, "a parameter is there more than once")
		}
		repeatedResource = repeatedResource || seen
		f[name] = value
	}
	if repeatedResource {
		// RFC 8707 §2 allows several; a token of keyturn is for one.
		return nil, fail(api.InvalidTarget, "resource is there more than once: a token is for one")
	}
	return f, nil
}

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
