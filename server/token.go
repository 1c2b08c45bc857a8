package server

import (
	"context"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/storage"
)

// grantOther is the grant label of a token request that failed before its grant ran.
const grantOther = "other"

// token is POST /token (RFC 6749 §3.2). It makes the checks that all grants share, and runs the grant.
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
	// RFC 6749 §5.2, unsupported_grant_type.
	if f.grantType == api.GrantPassword && !s.config().PasswordGrant {
		issue = nil
	}
	if issue == nil {
		err := fail(api.UnsupportedGrantType, "grant_type is none of grant_types_supported")
		return nil, s.countRejected(req, err)
	}
	// RFC 6749 §5.2, unauthorized_client.
	if !slices.Contains(req.client.Grants, f.grantType) {
		err := fail(api.UnauthorizedClient, "the client is not registered for this grant_type")
		return nil, s.countToken(req, f.grantType, err)
	}
	tokens, err := issue(ctx, req, f)
	return tokens, s.countToken(req, f.grantType, err)
}

// countToken counts a token request by its outcome, and returns the error.
func (s *Server) countToken(req *request, grant string, err error) error {
	req.later(func() { s.metrics.tokens.WithLabelValues(grant, outcomeOf(err)).Inc() })
	return err
}

// outcomeOf returns the outcome label of a request: ok or the error code.
func outcomeOf(err error) string {
	if err == nil {
		return outcomeOK
	}
	return string(visible(err).body.Code)
}

// narrow returns the scope of a token: the requested scope, or by default all granted scope that the client may still
// have. A request beyond that is an error (RFC 6749 §3.3, §6).
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
		// RFC 6749 §3.3: scope-tokens with one space between.
		if !api.IsScopeToken(word) {
			return "", fail(api.InvalidScope, "scope is not a list of words with one space between")
		}
		if word == "openid" && !slices.Contains(registered, word) {
			return "", fail(api.InvalidScope, "the client does not have the scope openid: this server issues no ID "+
				"tokens. Ask without it, or give the client the scope: keyturn client update ID --add-scope openid")
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

// target returns the audience of a token: the requested resource, or by default the first granted one that the client
// may still have. A request beyond that is an error (RFC 8707 §2, §2.2).
func target(granted []string, c storage.Client, asked string) (string, error) {
	for _, audience := range granted {
		matches := asked == "" || asked == audience
		if matches && slices.Contains(c.Audiences, audience) {
			return audience, nil
		}
	}
	return "", fail(api.InvalidTarget, "resource is none that the client or the grant may have")
}
