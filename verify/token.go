package verify

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/json"
)

// Token is a verified access token (RFC 9068 §2.2).
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

	raw     string // the token itself, only for Sample
	payload []byte
	by      signer
	status  *statusReference
}

// copy returns a token that a caller may change: the one in the cache is for all.
func (t *Token) copy() *Token {
	c := *t
	c.Audience, c.Roles = slices.Clone(t.Audience), slices.Clone(t.Roles)
	return &c
}

// HasScope reports whether the token has all the scope tokens (RFC 6749 §3.3).
func (t *Token) HasScope(scope ...string) bool {
	has := strings.Split(t.Scope, " ")
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

	Status json.RawMessage `json:"status"`
}

// readStatus returns the place in a list of a claim status (draft-ietf-oauth-status-list-20 §6.1); nil without the
// claim. A status that cannot be read is refused: nobody could tell whether the token is valid.
func readStatus(text json.RawMessage) (*statusReference, error) {
	if text == nil {
		return nil, nil
	}
	var status struct {
		List *statusReference `json:"status_list"`
	}
	if err := json.Unmarshal(text, &status); err != nil ||
		status.List == nil ||
		status.List.Index == nil ||
		status.List.URI == "" {
		return nil, invalid(Status)
	}
	return status.List, nil
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
	var f float64
	if err := json.Unmarshal(text, &f); err != nil {
		return err
	}
	const most = 1 << 40 // the year 36812: later times overflow
	if !(f > -most && f < most) {
		return errors.New("a time out of range")
	}
	*s = seconds(f)
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
	var err error
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
	}
	t.status, err = readStatus(l.Status)
	return t, err
}
