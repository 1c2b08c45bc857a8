package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/storage"
)

// request is one request to /token, /revoke or /introspect.
type request struct {
	*response
	header   http.Header
	base     context.Context // ends when the client disconnects
	sender   sender          // the client credentials in the form
	repeats  string          // a refresh token: see tokenForm.repeats
	client   storage.Client  // authenticated
	known    string          // id of an existing client, authenticated or not
	at       time.Time       // arrival; all statements of a request use this time
	asking   time.Time       // start of the latest use of the database; the time of a password hash does not count
	username string          // of an existing user; others stay unlogged, because people type passwords into this field

	cached  bool     // the client comes from the cache
	asked   bool     // a statement got the caller, and confirms it unless it returns ErrClientChanged
	effects []func() // events and counters of this run of the endpoint; see settle
}

// form is the parsed form of an endpoint.
type form interface {
	client() sender
	repeats() string
}

// endpoint answers a form with a value, which is written as JSON, or an error.
type endpoint[F form] func(context.Context, *request, F) (any, error)

// post makes a handler of an endpoint. It parses the form, authenticates the client, and writes the value or the error.
func post[F form](s *Server, read func(parameters) F, run endpoint[F]) handler {
	return func(x *response, r *http.Request) {
		req := &request{response: x, header: r.Header, base: r.Context()}
		body, err := s.admit(r, req, func(p parameters) func(context.Context) (any, error) {
			f := read(p)
			req.sender, req.repeats = f.client(), f.repeats()
			return func(ctx context.Context) (any, error) { return run(ctx, req, f) }
		})
		x.clientID = req.client.ID
		if err == nil {
			x.outcome = outcomeOK
			writeJSON(x, http.StatusOK, body)
			x.markCanceled(r.Context(), err)
			return
		}
		f := visible(err)
		x.outcome = string(f.body.Code)
		s.recordFailure(req, err)
		writeError(x, f)
		x.markCanceled(r.Context(), err)
	}
}

// statusCanceled is the status in log and metrics of a request whose client disconnected before the answer. It is never
// sent.
const statusCanceled = 499

// hungUp reports whether the client disconnected before the answer.
func hungUp(ctx context.Context, err error) bool {
	return ctx.Err() != nil &&
		(err == nil || errors.Is(err, context.Canceled))
}

// markCanceled marks a response for log and metrics if the client disconnected.
func (x *response) markCanceled(ctx context.Context, err error) {
	if hungUp(ctx, err) {
		x.status, x.outcome = statusCanceled, "canceled"
	}
}

// recordFailure counts a request that the server could not answer. It logs every cause but overload.
func (s *Server) recordFailure(req *request, err error) {
	cause := causeOf(err)
	switch {
	case hungUp(req.base, err), cause == "":
		return
	case cause != causeBusy:
		s.log.Error("request failed", "request_id", req.id, "path", req.route, "cause", cause, "error", err.Error())
	}
	s.metrics.failures.WithLabelValues(cause).Inc()
}

// admit parses the form, and runs the endpoint if this replica may answer.
func (s *Server) admit(
	r *http.Request, req *request, parse func(parameters) func(context.Context) (any, error),
) (any, error) {
	defer req.settle()
	p, err := readForm(req.response, r)
	if err != nil {
		return nil, s.countRejected(req, err)
	}
	run := parse(p)
	req.at = s.now()
	req.asking = req.at
	if err := s.checkFit(); err != nil {
		s.noteUnserved(req, err)
		return nil, s.countRejected(req, err)
	}
	ctx, cancel := s.databaseTimeout(req.base)
	defer cancel()
	body, err := s.answer(ctx, req, run)
	s.noteUnserved(req, err)
	return body, err
}

// countRejected counts a token request that failed before its grant ran, and returns the error.
func (s *Server) countRejected(req *request, err error) error {
	if strings.HasSuffix(req.route, api.PathToken) {
		return s.countToken(req, grantOther, err)
	}
	return err
}

// noteUnserved records a wait that is the fault of the server: the client disconnected, or the answer was Retry-After.
// The retry window of a refresh token does not run during that time.
func (s *Server) noteUnserved(req *request, err error) {
	switch {
	case hungUp(req.base, err):
		s.noteUnanswered(req, 0)
		return
	case causeOf(err) == "":
		return
	case errors.Is(err, storage.ErrUnavailable) && causeOf(err) != causeBusy:
		s.ring.NoteOutage(req.asking, s.now())
	}
	if retryAfter := visible(err).retryAfter; retryAfter > 0 {
		s.noteUnanswered(req, retryAfter)
	}
}

// databaseTimeout limits the time of the database calls of a request.
func (s *core) databaseTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.db.Patience())
}

// answer authenticates the client and runs the endpoint. An endpoint need not know that it may run twice.
//
// A client from the cache is used first. That run counts if a statement confirmed the client (see [request.caller]), or
// if it failed for a cause that has nothing to do with the client. Otherwise answer discards the run, reads the client
// and runs the endpoint again.
func (s *Server) answer(ctx context.Context, req *request, run func(context.Context) (any, error)) (any, error) {
	if s.authenticateFromCache(req) {
		body, err := run(ctx)
		changed := errors.Is(err, storage.ErrClientChanged)
		if !changed && (req.asked || causeOf(err) != "") {
			return body, err
		}
		req.forget()
	}
	if err := s.authenticate(ctx, req); err != nil {
		return nil, s.countRejected(req, err)
	}
	return run(ctx)
}

// caller returns the client for a statement, which must run next. The statement returns [storage.ErrClientChanged] if
// it does not confirm a client from the cache.
func (req *request) caller() storage.Caller {
	c := storage.Caller{ID: req.client.ID}
	if req.cached {
		req.asked, c.Revision = true, req.client.Revision
	}
	return c
}

// later queues an event or a counter. A run that is discarded leaves none.
func (req *request) later(effect func()) { req.effects = append(req.effects, effect) }

// settle runs the queued effects.
func (req *request) settle() {
	for _, effect := range req.effects {
		effect()
	}
	req.effects = nil
}

// forget discards the results of a run of the endpoint.
func (req *request) forget() {
	req.client, req.known, req.username = storage.Client{}, "", ""
	req.cached, req.asked, req.effects = false, false, nil
}

// throttledEvent counts and logs a request that was refused after too many failures.
func (s *core) throttledEvent(req *request, outcome, what string) {
	req.later(func() { s.metrics.throttled.WithLabelValues(what).Inc() })
	s.event(req, "throttle", outcome)
}

// event logs a security event: one line with client, user, address and outcome.
func (s *core) event(req *request, name, outcome string, more ...slog.Attr) {
	attrs := append([]slog.Attr{
		slog.String("event", name),
		slog.String("outcome", outcome),
		slog.String("request_id", req.id),
		slog.String("client", req.known),
		slog.String("user", req.username),
		slog.String("address", req.from),
	}, more...)
	req.later(func() { s.logInfo(name, attrs...) })
}
