package server

import "github.com/keyturn/keyturn/api"

// sender holds the client credentials of a form (RFC 6749 §2.3.1).
type sender struct {
	id, secret string
	asserts    bool // the form has a client assertion, which this server does not support (RFC 7521 §4.2)
}

// paramClientAssertion belongs to an authentication method that this server does not support (RFC 7521 §4.2).
const paramClientAssertion = "client_assertion"

func readSender(p parameters) sender {
	return sender{
		id:      p[api.ParamClientID],
		secret:  p[api.ParamClientSecret],
		asserts: p[paramClientAssertion]+p[paramClientAssertion+"_type"] != "",
	}
}

func (s sender) client() sender { return s }

// tokenForm is the form of /token (RFC 6749 §4.3.2, §6; RFC 8707 §2).
type tokenForm struct {
	sender
	grantType          string
	username, password string
	refreshToken       string
	scope, resource    string // "": the default of the client or the grant
}

func readTokenForm(p parameters) tokenForm {
	return tokenForm{
		sender:       readSender(p),
		grantType:    p[api.ParamGrantType],
		username:     p[api.ParamUsername],
		password:     p[api.ParamPassword],
		refreshToken: p[api.ParamRefreshToken],
		scope:        p[api.ParamScope],
		resource:     p[api.ParamResource],
	}
}

// repeats returns the refresh token, which the client may send again if it gets no answer. It returns "" for another
// grant.
func (f tokenForm) repeats() string {
	if f.grantType != api.GrantRefreshToken {
		return ""
	}
	return f.refreshToken
}

// referenceForm is the form of /introspect and /revoke (RFC 7662 §2.1, RFC 7009 §2.1). The server ignores
// token_type_hint, because the token itself shows its type.
type referenceForm struct {
	sender
	token string
}

func readReferenceForm(p parameters) referenceForm {
	return referenceForm{readSender(p), p[api.ParamToken]}
}

func (f referenceForm) repeats() string { return "" }
