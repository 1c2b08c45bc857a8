package server

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gorilla/mux"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
)

// PublicHandler returns the handler of the public listener.
func (s *Server) PublicHandler() http.Handler { return s.wrap(s.publicRoutes()) }

// AdminHandler returns the handler of the admin listener.
func (s *Server) AdminHandler() http.Handler { return s.wrap(s.adminRoutes()) }

// handler answers one request.
type handler func(*response, *http.Request)

// ServeHTTP implements [http.Handler]. The router passes on the *response of wrap.
func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h(w.(*response), r) }

// routes maps paths to handlers. It never cleans, decodes or redirects a path.
type routes struct{ *mux.Router }

func newRoutes() routes {
	t := routes{mux.NewRouter().SkipClean(true).UseEncodedPath()}
	t.NotFoundHandler = wellFramed(false, func(x *response, _ *http.Request) {
		plain(x, http.StatusNotFound, "not found")
	})
	return t
}

// add routes a path. The path is also the route in log and metrics.
func (t routes) add(path string, h handler) {
	h = wellFramed(isPost(path), h)
	t.Handle(path, handler(func(x *response, r *http.Request) {
		x.route = path
		h(x, r)
	}))
}

// wellFramed refuses requests with an ambiguous length (RFC 9112 §6.1), in JSON or as plain text.
func wellFramed(inJSON bool, h handler) handler {
	return func(x *response, r *http.Request) {
		if isMisframed(r) {
			x.Header().Set("Connection", "close")
			x.refuse(inJSON, misframed)
			return
		}
		h(x, r)
	}
}

// endpoints are the handlers of the public listener.
type endpoints struct {
	token, revoke, introspect handler
	jwks, metadata, openAPI   handler
	statusList, aggregation   handler
	livez, readyz             handler
}

func (s *Server) publicRoutes() routes {
	return endpoints{
		token:      post(s, readTokenForm, s.token),
		revoke:     post(s, readReferenceForm, s.revoke),
		introspect: post(s, readReferenceForm, s.introspect),
		jwks:       s.jwks,
		metadata:   metadata(s.config, s.scopesNow),
		openAPI:    openAPI,
		livez:      livez,
		readyz:     s.readyz,

		statusList:  s.lists.statusList,
		aggregation: s.lists.aggregation,
	}.routes(s.config)
}

// routes lists the endpoints in the order of the contract. If the issuer has a path, the endpoints of the metadata are
// also below that path, and the metadata has the path as suffix (RFC 8414 §3.1).
func (e endpoints) routes(config func() *config.Config) routes {
	r := newRoutes()
	path := issuerPath(*config())
	for _, prefix := range prefixes(path) {
		r.add(prefix+api.PathToken, cors(config, only(e.token, http.MethodPost)))
		r.add(prefix+api.PathRevoke, cors(config, only(e.revoke, http.MethodPost)))
		r.add(prefix+api.PathIntrospect, only(e.introspect, http.MethodPost))
		r.add(prefix+api.PathJWKS, anyOrigin(only(e.jwks, http.MethodGet, http.MethodHead)))
		r.add(prefix+api.PathStatus, anyOrigin(only(e.aggregation, http.MethodGet, http.MethodHead)))
		r.add(prefix+api.PathStatus+"/{id}", anyOrigin(only(e.statusList, http.MethodGet, http.MethodHead)))
	}
	metadata := anyOrigin(only(e.metadata, http.MethodGet, http.MethodHead))
	r.add(api.PathMetadata+path, metadata)
	if config().OpenIDConfigurationAlias {
		for _, prefix := range prefixes(path) {
			r.add(prefix+api.PathOpenID, metadata)
		}
	}
	r.add(api.PathOpenAPI, only(e.openAPI, http.MethodGet, http.MethodHead))
	r.add(api.PathLivez, only(e.livez, http.MethodGet, http.MethodHead))
	r.add(api.PathReadyz, only(e.readyz, http.MethodGet, http.MethodHead))
	return r
}

// adminEndpoints are the handlers of the admin listener.
type adminEndpoints struct {
	metrics, livez, readyz handler
	console                handler // everything else; nil: not found
}

func (s *Server) adminRoutes() routes {
	e := adminEndpoints{metrics: s.metrics.serve, livez: livez, readyz: s.adminReadyz}
	if s.console != nil {
		e.console = func(x *response, r *http.Request) {
			r.Body = &followedBody{r.Body, func() { x.unread = false; isRead(r) }}
			s.console.ServeHTTP(x, r)
		}
	}
	return e.routes()
}

func (e adminEndpoints) routes() routes {
	r := newRoutes()
	r.add(api.PathMetrics, only(e.metrics, http.MethodGet, http.MethodHead))
	r.add(api.PathLivez, only(e.livez, http.MethodGet, http.MethodHead))
	r.add(api.PathReadyz, only(e.readyz, http.MethodGet, http.MethodHead))
	if e.console != nil {
		r.PathPrefix("/").Handler(wellFramed(false, e.console))
	}
	return r
}

// isPost reports whether the endpoint of a path takes forms. Such an endpoint answers errors in JSON.
func isPost(path string) bool {
	return strings.HasSuffix(path, api.PathToken) ||
		strings.HasSuffix(path, api.PathRevoke) ||
		strings.HasSuffix(path, api.PathIntrospect)
}

// refuse answers with an error, in JSON or as plain text.
func (x *response) refuse(inJSON bool, f *failure) {
	x.outcome = string(f.body.Code)
	if inJSON {
		writeError(x, f)
		return
	}
	plain(x, f.httpStatus(), f.body.Description)
}

// only answers 405 with Allow to all other methods (RFC 9110 §15.5.6).
func only(h handler, methods ...string) handler {
	return func(x *response, r *http.Request) {
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

// issuerPath returns the path of the issuer, or "".
func issuerPath(c config.Config) string {
	u, err := url.Parse(c.Issuer)
	if err != nil {
		return "" // Config.Problems refuses such an issuer
	}
	return u.EscapedPath()
}

// prefixes returns the prefixes of the endpoints for a path of the issuer.
func prefixes(path string) []string {
	if path == "" {
		return []string{""}
	}
	return []string{"", path}
}

// plain writes a line of text that no cache may store.
func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}
