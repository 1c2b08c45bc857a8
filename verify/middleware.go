package verify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// tokenKey is the key of a Token in a context.
type tokenKey struct{}

// FromContext returns the token that [Verifier.Middleware] has verified; nil if there is none.
func FromContext(ctx context.Context) *Token {
	t, _ := ctx.Value(tokenKey{}).(*Token)
	return t
}

// Middleware passes on requests with a valid access token in the Authorization header that has all of the scope, and
// answers others as RFC 6750 §3 says: 401 without a valid token, 400 for a malformed header, 403 for too little scope.
// While tokens cannot be checked, it answers 503. It panics if scope has a character that RFC 6749 §3.3 does not
// allow.
func (v *Verifier) Middleware(next http.Handler, scope ...string) http.Handler {
	scope = strings.Fields(strings.Join(scope, " "))
	for _, s := range scope {
		if strings.ContainsFunc(s, func(r rune) bool { return r < '!' || r > '~' || r == '"' || r == '\\' }) {
			panic(fmt.Sprintf("verify: %q is no scope (RFC 6749 §3.3)", s))
		}
	}
	realm := fmt.Sprintf(`Bearer realm="%s"`, headerSafe(v.config.Resource))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, problem := bearer(r.Header.Values("Authorization"))
		if problem != "" {
			v.config.Counters.Refused(problem)
			if problem == NoToken {
				// RFC 6750 §3.1: without a token there is no error code.
				challenge(w, http.StatusUnauthorized, realm, "an access token is required")
				return
			}
			const malformed = "the Authorization header is malformed"
			challenge(w, http.StatusBadRequest, problemOf(realm, "invalid_request", malformed), malformed)
			return
		}
		t, err := v.Token(r.Context(), raw)
		switch {
		case err == nil && t.HasScope(scope...):
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tokenKey{}, t)))
		case err == nil:
			v.config.Counters.Refused(Scope)
			challenge(w, http.StatusForbidden,
				problemOf(realm, "insufficient_scope", tooLittle)+
					fmt.Sprintf(`, scope="%s"`, strings.Join(scope, " ")), tooLittle)
		case errors.Is(err, ErrInvalid):
			challenge(w, http.StatusUnauthorized, problemOf(realm, "invalid_token", notValid), notValid)
		default:
			w.Header().Set("Retry-After", "5")
			challenge(w, http.StatusServiceUnavailable, "", "access tokens cannot be checked now: try again later")
		}
	})
}

// What clients are told.
const (
	tooLittle = "the access token has too little scope"
	notValid  = "the access token is not valid"
)

// bearer returns the token of an Authorization header (RFC 6750 §2.1), or why there is none.
func bearer(headers []string) (token string, problem Reason) {
	if len(headers) == 0 {
		return "", NoToken
	}
	scheme, rest, _ := strings.Cut(headers[0], " ")
	token = strings.Trim(rest, " ")
	switch {
	case len(headers) > 1:
		return "", BadRequest
	case !strings.EqualFold(scheme, "Bearer"):
		return "", NoToken
	case !isToken68(token):
		return "", BadRequest
	}
	return token, ""
}

// isToken68 reports whether a text has the form of a bearer token: b64token of RFC 6750 §2.1.
func isToken68(text string) bool {
	const characters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._~+/"
	text = strings.TrimRight(text, "=")
	return text != "" && strings.Trim(text, characters) == ""
}

// problemOf returns a challenge with an error (RFC 6750 §3).
func problemOf(realm, code, description string) string {
	return fmt.Sprintf(`%s, error="%s", error_description="%s"`, realm, code, description)
}

// challenge answers with a status, a challenge unless it is "", and a line of text.
func challenge(w http.ResponseWriter, status int, challenge, text string) {
	if challenge != "" {
		w.Header().Set("WWW-Authenticate", challenge)
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, text, status)
}
