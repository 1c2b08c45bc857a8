package server

import (
	"context"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/storage"
)

// grantOther is the grant, in metrics, of a token request that named none that it may use.
const grantOther = "other"

// token is POST /token (RFC 6749 §3.2): what all grants share, then the grant.
func (s *Server) token(ctx context.Context, req *request, f tokenForm) (any, error) {
	var issue func(context.Context, *request, tokenForm) (api.TokenResponse, error)
	switch f.grantType {
	case "":
		return nil, s.countRejected(req, fail(api.InvalidRequest, "grant_type is missing"))
	case api.GrantPassword:
		issue = s.password
	case api.GrantRefreshToken:
		issue = s.refresh
	}
	if issue == nil || f.grantType == api.GrantPassword && !s.config().PasswordGrant {
		err := fail(api.UnsupportedGrantType, "grant_type is none of grant_types_supported")
		return nil, s.countRejected(req, err)
	}
	if !slices.Contains(req.client.Grants, f.grantType) {
		err := fail(api.UnauthorizedClient, "the client is not registered for this grant_type")
		return nil, s.countToken(f.grantType, err)
	}
	tokens, err := issue(ctx, req, f)
	return tokens, s.countToken(f.grantType, err)
}

// countToken counts a token request by its outcome and returns the error that it was given.
func (s *Server) countToken(grant string, err error) error {
	s.metrics.tokens.WithLabelValues(grant, outcomeOf(err)).Inc()
	return err
}

// outcomeOf is the outcome of a request in metrics: ok or the code of the error.
func outcomeOf(err error) string {
	if err == nil {
		return outcomeOK
	}
	return string(visible(err).body.Code)
}

// narrow is the scope of a token: all words of granted that the client may still have, or those that were asked for.
// Asking for a word that is in only one of them is refused (RFC 6749 §3.3, §6).
func narrow(granted string, c storage.Client, asked string) (string, error) {
	registered := strings.Fields(c.Scope)
	var allowed []string
	for _, word := range strings.Fields(granted) {
		if slices.Contains(registered, word) {
			allowed = append(allowed, word)
		}
	}
	if asked == "" {
		return strings.Join(allowed, " "), nil
	}
	var words []string
	for word := range strings.SplitSeq(asked, " ") {
		if !api.IsScopeToken(word) {
			return "", fail(api.InvalidScope, "scope is not a list of words with one space between")
		}
		if !slices.Contains(allowed, word) {
			return "", fail(api.InvalidScope, "scope goes beyond what the client or the grant may have")
		}
		if !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	return strings.Join(words, " "), nil
}

// target is the audience of a token: the resource that was asked for, if it was granted and the client may still name
// it, else the first of those (RFC 8707 §2, §2.2).
func target(granted []string, c storage.Client, asked string) (string, error) {
	for _, audience := range granted {
		if slices.Contains(c.Audiences, audience) && (asked == "" || asked == audience) {
			return audience, nil
		}
	}
	return "", fail(api.InvalidTarget, "resource is none that the client or the grant may have")
}
