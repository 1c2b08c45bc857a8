package verify

import (
	"crypto/rsa"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/json"
)

// Token is a verified access token (RFC 9068 §2.2). It is shared between requests: do not change it.
type Token struct {
	Issuer   string    // iss
	Subject  string    // sub: the user
	ClientID string    // client_id
	Audience []string  // aud: one of them is Config.Resource
	ID       string    // jti
	Session  string    // sid: the login
	Scope    string    // space-separated, RFC 6749 §3.3
	Roles    []string  // of the user
	Username string    // preferred_username; "": the client does not ask for it
	IssuedAt time.Time // iat
	Expires  time.Time // exp
	AuthTime time.Time // of the login; zero: not stated

	raw     string // the token itself, for Sample
	payload []byte
	kid     string
	key     *rsa.PublicKey
	status  *statusReference
}

// HasScope reports whether the token has all the scope tokens.
func (t *Token) HasScope(scope ...string) bool {
	has := strings.Fields(t.Scope)
	return !slices.ContainsFunc(scope, func(s string) bool { return !slices.Contains(has, s) })
}

// HasRole reports whether the user has a role.
func (t *Token) HasRole(role string) bool { return slices.Contains(t.Roles, role) }

// Claims decodes all claims of the token into a value, as [encoding/json] does, but with regard to case.
func (t *Token) Claims(into any) error { return json.Unmarshal(t.payload, into) }

// claims are the claims of an access token.
type claims struct {
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	ClientID  string   `json:"client_id"`
	Audience  audience `json:"aud"`
	ID        string   `json:"jti"`
	Session   string   `json:"sid"`
	Scope     string   `json:"scope"`
	Roles     []string `json:"roles"`
	Username  string   `json:"preferred_username"`
	Expires   *seconds `json:"exp"`
	IssuedAt  *seconds `json:"iat"`
	NotBefore *seconds `json:"nbf"`
	AuthTime  *seconds `json:"auth_time"`
	Status    *struct {
		List *statusReference `json:"status_list"`
	} `json:"status"`
}

// statusReference is a place in a Token Status List (draft-ietf-oauth-status-list-20 §6.2).
type statusReference struct {
	Index *int64 `json:"idx"`
	URI   string `json:"uri"`
}

// audience is one string or a list of them (RFC 7519 §4.1.3).
type audience []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audience) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '"' {
		*a = audience{""}
		return json.Unmarshal(text, &(*a)[0])
	}
	return json.Unmarshal(text, (*[]string)(a))
}

// seconds is a NumericDate (RFC 7519 §2). Fractions are cut off.
type seconds int64

// UnmarshalJSON implements json.Unmarshaler.
func (s *seconds) UnmarshalJSON(text []byte) error {
	var n int64
	if err := json.Unmarshal(text, &n); err == nil {
		*s = seconds(n)
		return nil
	}
	var f float64
	if err := json.Unmarshal(text, &f); err != nil {
		return err
	}
	const most = 1 << 53
	*s = seconds(max(min(f, most), -most))
	return nil
}

func (s *seconds) time() time.Time {
	if s == nil {
		return time.Time{}
	}
	return time.Unix(int64(*s), 0).UTC()
}

// readToken checks the claims of a payload (RFC 9068 §4).
func (c Config) readToken(payload []byte) (*Token, error) {
	var l claims
	if err := json.Unmarshal(payload, &l); err != nil {
		return nil, invalid(Claims)
	}
	t := &Token{
		Issuer:   l.Issuer,
		Subject:  l.Subject,
		ClientID: l.ClientID,
		Audience: l.Audience,
		ID:       l.ID,
		Session:  l.Session,
		Scope:    l.Scope,
		Roles:    l.Roles,
		Username: l.Username,
		IssuedAt: l.IssuedAt.time(),
		Expires:  l.Expires.time(),
		AuthTime: l.AuthTime.time(),
		payload:  payload,
	}
	if l.Status != nil {
		t.status = l.Status.List
	}
	switch now := c.Now(); {
	case l.Issuer != c.Issuer:
		return nil, invalid(Issuer)
	case !slices.Contains(l.Audience, c.Resource):
		return nil, invalid(Audience)
	case l.Subject == "", l.ClientID == "", l.ID == "", l.Expires == nil, l.IssuedAt == nil:
		return nil, invalid(Claims)
	case !now.Before(t.Expires):
		return nil, invalid(Expired)
	case t.IssuedAt.After(now.Add(clockSkew)), l.NotBefore.time().After(now.Add(clockSkew)):
		return nil, invalid(NotYetValid)
	case t.status != nil && (t.status.Index == nil || t.status.URI == ""):
		return nil, invalid(Status)
	}
	return t, nil
}
