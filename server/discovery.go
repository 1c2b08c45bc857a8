package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn/keyturn"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
)

// jwks answers GET /.well-known/jwks.json (RFC 7517 §5) from memory.
func (s *Server) jwks(w *response, r *http.Request) {
	set := s.ring.JWKS()
	w.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", set.MaxAge/time.Second))
	w.Header().Set("ETag", set.ETag)
	s.observed.fetched(w, r, set.Published)
	if etagMatches(r.Header.Get("If-None-Match"), set.ETag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	s.metrics.jwks.Inc()
	document(w, "application/jwk-set+json", set.Body)
}

// metadata answers GET /.well-known/oauth-authorization-server (RFC 8414 §3) from memory. scopes returns those of the
// clients.
func metadata(config func() *config.Config, scopes func() []string) handler {
	return func(x *response, _ *http.Request) {
		described := describe(*config())
		described.Scopes = scopes()
		body, err := json.Marshal(described)
		if err != nil {
			writeError(x, visible(err))
			return
		}
		x.Header().Set("Cache-Control", "public, max-age=300")
		document(x, "application/json", body)
	}
}

// describe returns the metadata of this server (RFC 8414 §2).
func describe(c config.Config) api.Metadata {
	grants := []string{api.GrantPassword, api.GrantRefreshToken}
	if !c.PasswordGrant {
		grants = grants[1:]
	}
	confidential := []string{api.AuthBasic, api.AuthPost}
	all := append(confidential, api.AuthNone)
	issuer, statusLists := c.Issuer, ""
	if c.StatusList == config.StatusListOn {
		statusLists = issuer + api.PathStatus
	}
	return api.Metadata{
		Issuer:                   issuer,
		TokenEndpoint:            issuer + api.PathToken,
		RevocationEndpoint:       issuer + api.PathRevoke,
		IntrospectionEndpoint:    issuer + api.PathIntrospect,
		JWKSURI:                  issuer + api.PathJWKS,
		ResponseTypes:            []string{},
		GrantTypes:               grants,
		TokenAuthMethods:         all,
		RevocationAuthMethods:    all,
		IntrospectionAuthMethods: confidential,
		StatusLists:              statusLists,
	}
}

// openAPI answers GET /openapi.yaml, the contract of the public listener.
func openAPI(w *response, _ *http.Request) {
	w.Header().Set("Cache-Control", "public, max-age=300")
	document(w, "application/yaml", keyturn.OpenAPI)
}

// document writes a body. net/http omits it for HEAD.
func document(w http.ResponseWriter, mediaType string, body []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)
}

// etagMatches compares entity tags weakly (RFC 9110 §13.1.2).
func etagMatches(header, etag string) bool {
	for candidate := range strings.SplitSeq(header, ",") {
		candidate = strings.TrimSpace(candidate)
		if candidate == "*" || strings.TrimPrefix(candidate, "W/") == etag {
			return true
		}
	}
	return false
}
