// Package api defines keyturn's HTTP API: paths, parameter names, responses and errors, with the names of the RFCs. It
// imports only the standard library, so that clients can import it.
package api

import (
	"bytes"
	"encoding/json"
)

// Paths of the public listener.
const (
	PathToken      = "/token"
	PathRevoke     = "/revoke"
	PathIntrospect = "/introspect"
	PathJWKS       = "/.well-known/jwks.json"
	PathMetadata   = "/.well-known/oauth-authorization-server" // followed by the path of the issuer, RFC 8414 §3.1
	PathOpenID     = "/.well-known/openid-configuration"       // preceded by the path of the issuer, RFC 8414 §5
	PathStatus     = "/status"                                 // names all status lists; one is at /status/ID
	PathOpenAPI    = "/openapi.yaml"
	PathLivez      = "/livez"
	PathReadyz     = "/readyz"
	PathMetrics    = "/metrics" // only on the admin listener
)

// Form parameters.
const (
	ParamGrantType     = "grant_type"      // RFC 6749 §4.3.2, §6
	ParamClientID      = "client_id"       // RFC 6749 §2.3.1
	ParamClientSecret  = "client_secret"   // RFC 6749 §2.3.1
	ParamUsername      = "username"        // RFC 6749 §4.3.2
	ParamPassword      = "password"        // RFC 6749 §4.3.2
	ParamScope         = "scope"           // RFC 6749 §3.3
	ParamResource      = "resource"        // RFC 8707 §2
	ParamRefreshToken  = "refresh_token"   // RFC 6749 §6
	ParamToken         = "token"           // RFC 7009 §2.1, RFC 7662 §2.1
	ParamTokenTypeHint = "token_type_hint" // RFC 7009 §2.1, RFC 7662 §2.1; keyturn ignores it
)

// Grant types.
const (
	GrantPassword     = "password"      // RFC 6749 §4.3
	GrantRefreshToken = "refresh_token" // RFC 6749 §6
)

// Client authentication methods, RFC 7591 §2.
const (
	AuthBasic = "client_secret_basic"
	AuthPost  = "client_secret_post"
	AuthNone  = "none"
)

// TokenResponse is the body of a successful response of /token, RFC 6749 §5.1.
type TokenResponse struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`              // always Bearer, RFC 6750
	ExpiresIn    int64  `json:"expires_in"`              // seconds
	RefreshToken string `json:"refresh_token,omitempty"` // RFC 6749 §6; absent if the client may not refresh
	Scope        string `json:"scope,omitempty"`         // of the access token, RFC 6749 §3.3
	Username     string `json:"username,omitempty"`      // only after the password grant
}

// AccessToken holds the claims of an access token, RFC 9068 §2.2. Times are unix seconds.
type AccessToken struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience string   `json:"aud"` // exactly one, RFC 9068 §3
	ClientID string   `json:"client_id"`
	Expires  int64    `json:"exp"`
	IssuedAt int64    `json:"iat"`
	ID       string   `json:"jti"`
	Scope    string   `json:"scope"`     // RFC 9068 §2.2.3
	AuthTime int64    `json:"auth_time"` // time of the login, RFC 9068 §2.2.1
	Session  string   `json:"sid"`       // id of the grant
	Roles    []string `json:"roles,omitempty"`
	Username string   `json:"preferred_username,omitempty"` // if the client asks for it, RFC 9068 §2.2.2
	Status   *Status  `json:"status,omitempty"`             // draft-ietf-oauth-status-list §6.1
}

// Wrote reports whether a server wrote a payload for these claims: with each claim once, in its usual spelling.
func (t AccessToken) Wrote(payload []byte) bool {
	text, err := json.Marshal(t)
	return err == nil && bytes.Equal(text, payload)
}

// Status says where the status of a token is found, draft-ietf-oauth-status-list §6.
type Status struct {
	List StatusReference `json:"status_list"`
}

// StatusReference is a place in a Token Status List, draft-ietf-oauth-status-list §6.2.
type StatusReference struct {
	Index int64  `json:"idx"`
	URI   string `json:"uri"`
}

// StatusLists names all Token Status Lists, draft-ietf-oauth-status-list §9.3.
type StatusLists struct {
	URIs []string `json:"status_lists"`
}

// Introspection is the response of /introspect, RFC 7662 §2.2. If the token is not active, or the caller may not see
// it, only Active is present.
type Introspection struct {
	Active    bool     `json:"active"`
	Issuer    string   `json:"iss,omitempty"`
	Subject   string   `json:"sub,omitempty"`
	Audience  string   `json:"aud,omitempty"`
	ClientID  string   `json:"client_id,omitempty"`
	Username  string   `json:"username,omitempty"`
	Scope     string   `json:"scope,omitempty"`
	Expires   int64    `json:"exp,omitempty"` // unix seconds
	IssuedAt  int64    `json:"iat,omitempty"` // unix seconds
	ID        string   `json:"jti,omitempty"`
	TokenType string   `json:"token_type,omitempty"` // Bearer or refresh_token
	Session   string   `json:"sid,omitempty"`
	Roles     []string `json:"roles,omitempty"`
}

// Revocation is the body of a successful response of /revoke: {}. Clients ignore it, RFC 7009 §2.2.
type Revocation struct{}

// Metadata is the authorization server metadata, RFC 8414 §2.
type Metadata struct {
	Issuer                   string   `json:"issuer"`
	TokenEndpoint            string   `json:"token_endpoint"`
	RevocationEndpoint       string   `json:"revocation_endpoint"`
	IntrospectionEndpoint    string   `json:"introspection_endpoint"`
	JWKSURI                  string   `json:"jwks_uri"`
	ResponseTypes            []string `json:"response_types_supported"` // empty: there is no authorization endpoint
	GrantTypes               []string `json:"grant_types_supported"`
	TokenAuthMethods         []string `json:"token_endpoint_auth_methods_supported"`
	RevocationAuthMethods    []string `json:"revocation_endpoint_auth_methods_supported"`
	IntrospectionAuthMethods []string `json:"introspection_endpoint_auth_methods_supported"`
	Scopes                   []string `json:"scopes_supported,omitempty"` // of enabled clients
	// draft-ietf-oauth-status-list §9.1; absent if access tokens have no status
	StatusLists string `json:"status_list_aggregation_endpoint,omitempty"`
}

// Code is an OAuth error code.
type Code string

// Error codes.
const (
	InvalidRequest         Code = "invalid_request"         // RFC 6749 §5.2
	InvalidClient          Code = "invalid_client"          // RFC 6749 §5.2
	InvalidGrant           Code = "invalid_grant"           // RFC 6749 §5.2
	UnauthorizedClient     Code = "unauthorized_client"     // RFC 6749 §5.2
	UnsupportedGrantType   Code = "unsupported_grant_type"  // RFC 6749 §5.2
	InvalidScope           Code = "invalid_scope"           // RFC 6749 §5.2
	InvalidTarget          Code = "invalid_target"          // RFC 8707 §2
	TemporarilyUnavailable Code = "temporarily_unavailable" // RFC 6749 §4.1.2.1; the response has Retry-After
	ServerError            Code = "server_error"            // RFC 6749 §4.1.2.1
)

// Error is the error body of /token, /revoke and /introspect, RFC 6749 §5.2.
type Error struct {
	Code        Code   `json:"error"`
	Description string `json:"error_description,omitempty"` // for the developer of the client; ASCII without " and \
}
