package server

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/api"
)

// Public is the handler of the public listener.
func (s *Server) Public() http.Handler { return s.wrap(s.publicRoutes()) }

// Admin is the handler of the admin listener.
func (s *Server) Admin() http.Handler { return s.wrap(s.adminRoutes()) }

// handler answers one request.
type handler func(*exchange, *http.Request)

// routes are handlers by path. Paths are neither cleaned nor decoded, and nothing is redirected.
type routes map[string]handler

// publicRoutes reads like the contract. When the issuer has a path, the endpoints that the metadata names stand under it as well, and
// the metadata stands where RFC 8414 §3.1 wants it.
func (s *Server) publicRoutes() routes {
	r := routes{}
	path := s.issuerPath()
	for _, prefix := range prefixes(path) {
		r[prefix+api.PathToken] = s.cors(only(s.post(s.token), http.MethodPost))
		r[prefix+api.PathRevoke] = s.cors(only(s.post(s.revoke), http.MethodPost))
		r[prefix+api.PathIntrospect] = only(s.post(s.introspect), http.MethodPost)
		r[prefix+api.PathJWKS] = anyOrigin(only(s.jwks, http.MethodGet, http.MethodHead))
	}
	r[api.PathMetadata+path] = anyOrigin(only(s.metadata(), http.MethodGet, http.MethodHead))
	r[api.PathOpenAPI] = only(s.openAPI, http.MethodGet, http.MethodHead)
	r[api.PathLivez] = only(s.livez, http.MethodGet, http.MethodHead)
	r[api.PathReadyz] = only(s.readyz, http.MethodGet, http.MethodHead)
	return r
}

func (s *Server) adminRoutes() routes {
	return routes{
		api.PathMetrics: only(s.metrics.serve, http.MethodGet, http.MethodHead),
		api.PathLivez:   only(s.livez, http.MethodGet, http.MethodHead),
		api.PathReadyz:  only(s.readyz, http.MethodGet, http.MethodHead),
	}
}

// serve answers by the handler of the path, whose name goes to log and metrics.
func (r routes) serve(x *exchange, q *http.Request) {
	path := q.URL.EscapedPath()
	h, ok := r[path]
	if !ok {
		plain(x, http.StatusNotFound, "not found")
		return
	}
	x.route = path
	h(x, q)
}

// only answers other methods than those given with 405 and Allow (RFC 9110 §15.5.6).
func only(h handler, methods ...string) handler {
	return func(x *exchange, r *http.Request) {
		switch {
		case slices.Contains(methods, r.Method):
			h(x, r)
		case methods[0] == http.MethodPost:
			x.Header().Set("Allow", strings.Join(methods, ", "))
			writeError(x, failWith(http.StatusMethodNotAllowed, api.InvalidRequest, "use POST"))
		default:
			x.Header().Set("Allow", strings.Join(methods, ", "))
			plain(x, http.StatusMethodNotAllowed, "method not allowed")
		}
	}
}

// issuerPath is the path of the issuer, "" if it has none.
func (s *Server) issuerPath() string {
	u, err := url.Parse(s.config().Issuer)
	if err != nil {
		return "" // Problems has refused it
	}
	return u.EscapedPath()
}

func prefixes(path string) []string {
	if path == "" {
		return []string{""}
	}
	return []string{"", path}
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}
