package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/keyturn/keyturn/api"
)

// response is one request with its answer: what is written to it, and what log and metrics tell of it.
type response struct {
	http.ResponseWriter
	id, route, clientID, outcome string
	trace                        string     // id of the trace that it belongs to, if any
	address                      netip.Addr // of the client
	from                         string     // its text
	status                       int
	wrote                        bool
	unread                       bool // the body has not been read to its end
}

func newResponse(w http.ResponseWriter, r *http.Request, id string) *response {
	x := &response{
		ResponseWriter: w,
		id:             id,
		route:          "other",
		status:         http.StatusOK,
		unread:         r.ContentLength != 0,
	}
	if !x.unread {
		isRead(r)
	}
	x.Header().Set("X-Request-Id", x.id)
	x.Header().Set("X-Content-Type-Options", "nosniff")
	return x
}

// lingerTimeout is how long a client that still sends has to read its answer, before the connection is closed.
const lingerTimeout = time.Second

// begin goes before the answer. Left to itself, net/http holds back an answer until it has read the rest of the body,
// which a slow client can draw out; it does not if the connection is closed afterwards.
func (x *response) begin() {
	if x.unread && !x.wrote {
		x.Header().Set("Connection", "close")
		http.NewResponseController(x.ResponseWriter).SetReadDeadline(time.Now().Add(lingerTimeout))
	}
	x.wrote = true
}

// WriteHeader implements [http.ResponseWriter].
func (x *response) WriteHeader(status int) {
	x.begin()
	x.status = status
	x.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (x *response) Write(b []byte) (int, error) {
	x.begin()
	return x.ResponseWriter.Write(b)
}

// Unwrap lets net/http reach the connection.
func (x *response) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// gateway is what every request passes: its id, its address, its line in the log, its place in metrics and traces.
type gateway struct {
	*core
	trusted         []netip.Prefix // proxies
	forwardedLogged seldom         // warning about X-Forwarded-For
}

// wrap gives every response its headers, its log line and its place in the metrics, and turns a panic into a 500.
func (s *gateway) wrap(routes http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		x := newResponse(w, r, s.requestID(r))
		x.address = s.addressOf(r)
		x.from = x.address.String()
		traced, endTrace := s.beginTrace(r, x)
		defer func() {
			if p := recover(); p != nil {
				s.recovered(x, p)
			}
			endTrace()
			s.finish(r, x, time.Since(begun))
		}()
		routes.ServeHTTP(x, traced)
	})
}

// recovered answers for a handler that panicked. The value of a panic may hold a secret; the stack holds none.
func (s *gateway) recovered(x *response, p any) {
	if p == http.ErrAbortHandler {
		panic(p)
	}
	s.log.Error("panic", "request_id", x.id, "path", x.route, "type", fmt.Sprintf("%T", p), "stack", panicStack())
	x.outcome = string(api.ServerError)
	if !x.wrote {
		writeError(x, visible(nil))
	}
}

// panicStack is the stack of a panic from the call that panicked on: a log line has no room for what stands above it.
func panicStack() string {
	stack := string(debug.Stack())
	if _, below, ok := strings.Cut(stack, "\npanic("); ok {
		return "panic(" + below
	}
	return stack
}

func (s *gateway) finish(r *http.Request, x *response, took time.Duration) {
	s.metrics.observe(x.route, methodOf(r), x.status, took)
	line := []slog.Attr{
		slog.String("request_id", x.id),
		slog.String("method", shownMethod(r)),
		slog.String("path", x.route),
		slog.Int("status", x.status),
		slog.Float64("duration_ms", float64(took.Microseconds())/1000),
		slog.String("client", x.clientID),
		slog.String("outcome", x.outcome),
		slog.String("address", x.from),
	}
	if x.trace != "" {
		line = append(line, slog.String("trace_id", x.trace))
	}
	s.logInfo("request", line...)
}

// shownMethod is the method as the log has it. A stranger may send any word, of any length.
func shownMethod(r *http.Request) string {
	if methodOf(r) == "other" {
		return r.Method[:min(len(r.Method), 16)]
	}
	return r.Method
}

// tell is one line of the log on the path of a request: unlike [slog.Logger.Info], it does not look for the line of
// code that says it.
func (s *core) logInfo(what string, attrs ...slog.Attr) {
	ctx, h := context.Background(), s.log.Handler()
	if h.Enabled(ctx, slog.LevelInfo) {
		line := slog.NewRecord(time.Now(), slog.LevelInfo, what, 0)
		line.AddAttrs(attrs...)
		h.Handle(ctx, line)
	}
}

// requestID is a new one, or that of a trusted proxy.
func (s *gateway) requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= 128 && api.IsScopeToken(id) &&
		isTrusted(peerAddress(r), s.trusted) {
		return id
	}
	return randomHex(8)
}
