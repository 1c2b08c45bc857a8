package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/storage"
)

// Public is the handler of the public listener.
func (s *Server) Public() http.Handler { return s.wrap(s.publicRoutes()) }

// Admin is the handler of the admin listener.
func (s *Server) Admin() http.Handler { return s.wrap(s.adminRoutes()) }

// publicRoutes reads like the contract. When the issuer has a path, the endpoints that the metadata names stand under it as well, and
// the metadata stands where RFC 8414 §3.1 wants it.
func (s *Server) publicRoutes() *mux.Router {
	r := newRouter()
	path := s.issuerPath()
	for _, prefix := range prefixes(path) {
		route(r, prefix+api.PathToken, s.cors(only(s.post(s.token), http.MethodPost)))
		route(r, prefix+api.PathRevoke, s.cors(only(s.post(s.revoke), http.MethodPost)))
		route(r, prefix+api.PathIntrospect, only(s.post(s.introspect), http.MethodPost))
		route(r, prefix+api.PathJWKS, anyOrigin(only(s.jwks, http.MethodGet, http.MethodHead)))
	}
	route(r, api.PathMetadata+path, anyOrigin(only(s.metadata, http.MethodGet, http.MethodHead)))
	route(r, api.PathOpenAPI, only(s.openAPI, http.MethodGet, http.MethodHead))
	route(r, api.PathLivez, only(s.livez, http.MethodGet, http.MethodHead))
	route(r, api.PathReadyz, only(s.readyz, http.MethodGet, http.MethodHead))
	return r
}

func (s *Server) adminRoutes() *mux.Router {
	r := newRouter()
	route(r, api.PathMetrics, only(s.metrics.serve, http.MethodGet, http.MethodHead))
	route(r, api.PathLivez, only(s.livez, http.MethodGet, http.MethodHead))
	route(r, api.PathReadyz, only(s.readyz, http.MethodGet, http.MethodHead))
	return r
}

// newRouter neither cleans paths nor redirects.
func newRouter() *mux.Router {
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	r.NotFoundHandler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusNotFound, "not found") })
	return r
}

// route registers a handler and names the path to log and metrics.
func route(r *mux.Router, path string, h http.HandlerFunc) {
	r.Path(path).HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		exchangeOf(q).route = path
		h(w, q)
	})
}

// only answers other methods than those given with 405 and Allow (RFC 9110 §15.5.6), which the router alone would not.
func only(h http.HandlerFunc, methods ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case slices.Contains(methods, r.Method):
			h(w, r)
		case methods[0] == http.MethodPost:
			w.Header().Set("Allow", strings.Join(methods, ", "))
			writeError(w, failWith(http.StatusMethodNotAllowed, api.InvalidRequest, "use POST"))
		default:
			w.Header().Set("Allow", strings.Join(methods, ", "))
			plain(w, http.StatusMethodNotAllowed, "method not allowed")
		}
	}
}

// issuerPath is the path of the issuer, "" if it has none.
func (s *Server) issuerPath() string {
	u, err := url.Parse(s.config.Issuer)
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

// request is one request to /token, /revoke or /introspect, parsed once.
type request struct {
	http     *http.Request
	form     form
	address  netip.Addr
	client   storage.Client // authenticated
	clientID string         // of a client that exists, authenticated or not
	username string         // of a user that exists: people type passwords into the field for the name
}

// post adapts an endpoint: it parses the form, authenticates the client, and writes the value or the error.
func (s *Server) post(endpoint func(context.Context, *request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := &request{http: r, address: clientAddress(r, s.trusted)}
		body, err := s.answer(w, q, endpoint)
		exchangeOf(r).clientID = q.client.ID
		if err == nil {
			exchangeOf(r).outcome = "ok"
			writeJSON(w, http.StatusOK, body)
			return
		}
		f := visible(err)
		exchangeOf(r).outcome = string(f.body.Code)
		if f.httpStatus() >= 500 {
			s.log.Error("request failed", "request_id", exchangeOf(r).id, "path", exchangeOf(r).route, "error", err.Error())
		}
		writeError(w, f)
	}
}

func (s *Server) answer(w http.ResponseWriter, q *request, endpoint func(context.Context, *request) (any, error)) (any, error) {
	var err error
	if q.form, err = readForm(w, q.http); err != nil {
		return nil, err
	}
	if s.older.Load() {
		return nil, errOlder
	}
	ctx, cancel := context.WithTimeout(q.http.Context(), s.db.Patience())
	defer cancel()
	begun := s.now()
	if err := s.authenticate(ctx, q); err != nil {
		return nil, err
	}
	body, err := endpoint(ctx, q)
	if errors.Is(err, storage.ErrUnavailable) {
		s.ring.Away(begun, s.now())
	}
	return body, err
}

// exchange is what the log and the metrics tell of one request.
type exchange struct {
	id, route, clientID, outcome string
	status                       int
}

type exchangeKey struct{}

func exchangeOf(r *http.Request) *exchange {
	if x, ok := r.Context().Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return &exchange{}
}

// wrap gives every response its headers, its log line and its place in the metrics, and turns a panic into a 500. It stands outside the
// router, whose middleware is not asked for 404.
func (s *Server) wrap(routes *mux.Router) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		x := &exchange{id: s.requestID(r), route: "other"}
		r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		rec.Header().Set("X-Request-Id", x.id)
		rec.Header().Set("X-Content-Type-Options", "nosniff")
		defer func() {
			if p := recover(); p != nil {
				s.recovered(rec, x, p)
			}
			x.status = rec.status
			s.finish(r, x, time.Since(begun))
		}()
		routes.ServeHTTP(rec, r)
	})
}

// recovered answers for a handler that panicked. The value of a panic may hold a secret; the stack holds none.
func (s *Server) recovered(w *recorder, x *exchange, p any) {
	if p == http.ErrAbortHandler {
		panic(p)
	}
	s.log.Error("panic", "request_id", x.id, "path", x.route, "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
	x.outcome = string(api.ServerError)
	if !w.wrote {
		writeError(w, visible(nil))
	}
}

func (s *Server) finish(r *http.Request, x *exchange, took time.Duration) {
	s.metrics.observe(x.route, r.Method, x.status, took)
	s.log.Info("request", "request_id", x.id, "method", r.Method, "path", x.route, "status", x.status,
		"duration_ms", float64(took.Microseconds())/1000, "client", x.clientID, "outcome", x.outcome, "address", clientAddress(r, s.trusted).String())
}

// requestID is a new one, or that of a trusted proxy.
func (s *Server) requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= 128 && isScopeToken(id) && isTrusted(peerAddress(r), s.trusted) {
		return id
	}
	return randomHex(8)
}

// recorder remembers the status.
type recorder struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (w *recorder) WriteHeader(status int) {
	w.status, w.wrote = status, true
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(b)
}

// Unwrap lets net/http reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// event tells the log of something that security teams look for: one line with who, what and the outcome.
func (s *Server) event(q *request, name, outcome string, more ...any) {
	s.log.Info(name, append([]any{"event", name, "outcome", outcome, "request_id", exchangeOf(q.http).id, "client", q.clientID,
		"user", q.username, "address", q.address.String()}, more...)...)
}
