package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/keyturn/keyturn/api"
)

// response is the response to one request, with the facts for its log line and its metrics.
type response struct {
	http.ResponseWriter
	id, route, clientID, outcome string
	trace                        string     // id of its trace; "": none
	address                      netip.Addr // of the client
	from                         string     // address as text
	peer                         string     // the other end of the connection, with its port; "socket"
	status                       int
	wrote                        bool
	unread                       bool // the request body has not been read to its end
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

// followedBody is a request body that reports its end.
type followedBody struct {
	io.ReadCloser
	ended func()
}

// Read implements [io.Reader].
func (b *followedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.ended()
	}
	return n, err
}

// lingerTimeout is the time that a client which still sends has to read the response before the connection closes.
const lingerTimeout = time.Second

// begin runs before the first byte of the response. net/http would delay the response until it has read the rest of the
// body, which a slow client can prolong. Connection: close prevents that.
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

// Address returns the address at the other end of the connection: trusted_proxies are those of the public listener.
func (x *response) Address() string {
	peer, err := netip.ParseAddrPort(x.peer)
	if err != nil {
		return x.peer
	}
	return peer.Addr().Unmap().WithZone("").String()
}

// Note sets what the log line and the metrics say of a request at the console: its route, who sends it, the outcome.
func (x *response) Note(route, who, outcome string) {
	x.route, x.clientID, x.outcome = route, who, outcome
}

// Unwrap lets net/http reach the connection.
func (x *response) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// gateway handles what all requests share: the request id, the address, the log line, metrics and traces.
type gateway struct {
	*core
	trusted         []netip.Prefix // trusted proxies
	forwardedLogged seldom         // warning about X-Forwarded-For
}

// wrap adds headers, log line, metrics and trace to every response, and turns a panic into a 500.
func (s *gateway) wrap(routes http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		x := newResponse(w, r, s.requestID(r))
		x.address = s.addressOf(r)
		x.from, x.peer = x.address.String(), r.RemoteAddr
		if OverSocket(r.Context()) {
			x.from, x.peer = "socket", "socket"
		}
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

// recovered answers for a handler that panicked. It does not log the value of the panic, which may hold a secret.
func (s *gateway) recovered(x *response, p any) {
	if p == http.ErrAbortHandler {
		panic(p)
	}
	s.log.Error("panic", "request_id", x.id, "path", x.route, "type", fmt.Sprintf("%T", p), "stack", panicStack())
	x.outcome = string(api.ServerError)
	if !x.wrote {
		writeError(x, errInternal)
	}
}

// panicStack returns the stack below the call of panic. A log line is too short for the frames above it.
func panicStack() string {
	stack := string(debug.Stack())
	if _, below, ok := strings.Cut(stack, "\npanic("); ok {
		return "panic(" + below
	}
	return stack
}

// finish counts and logs a request.
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

// shownMethod returns the method for the log, shortened, because a client may send any text.
func shownMethod(r *http.Request) string {
	if methodOf(r) == "other" {
		return r.Method[:min(len(r.Method), 16)]
	}
	return r.Method
}

// logInfo logs one line. It is cheaper than [slog.Logger.Info], because it does not look up the caller.
func (s *core) logInfo(what string, attrs ...slog.Attr) {
	ctx, h := context.Background(), s.log.Handler()
	if h.Enabled(ctx, slog.LevelInfo) {
		line := slog.NewRecord(time.Now(), slog.LevelInfo, what, 0)
		line.AddAttrs(attrs...)
		h.Handle(ctx, line)
	}
}

// requestID returns a new request id, or the id that a trusted proxy has sent.
func (s *gateway) requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	valid := len(id) <= 128 && api.IsScopeToken(id)
	if valid && isTrusted(peerAddress(r), s.trusted) {
		return id
	}
	return randomHex(8)
}
