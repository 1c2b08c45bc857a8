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
	base     context.Context // ends when the client goes away
	sender   sender          // what the form says of the client
	repeats  string          // a refresh token: see tokenForm.repeats
	client   storage.Client  // authenticated
	known    string          // id of a client that exists, authenticated or not
	at       time.Time       // when it came: all statements for one request go by one moment
	asking   time.Time       // since when it has been asking the database: what a hash takes is no outage
	username string          // of a user that exists: people type passwords into the field for the name

	confirmed bool     // the database has confirmed the client, which may have come from the cache
	effects   []func() // events and counters of the endpoint, which count if its answer does
}

// form is the parsed form of an endpoint.
type form interface {
	client() sender
	repeats() string
}

// endpoint answers a form with a value to be written as JSON, or an error.
type endpoint[F form] func(context.Context, *request, F) (any, error)

// post adapts an endpoint: it parses the form, authenticates the client, and writes the value or the error.
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
			x.tellHungUp(r.Context(), err)
			return
		}
		f := visible(err)
		x.outcome = string(f.body.Code)
		s.tellFailure(req, err)
		writeError(x, f)
		x.tellHungUp(r.Context(), err)
	}
}

// statusCanceled is the status in log and metrics of a request whose client went away before its answer. Nobody is sent
// it.
const statusCanceled = 499

// hungUp reports whether the client of a request went away before its answer.
func hungUp(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled))
}

// tellHungUp marks a response whose client went away, for log and metrics.
func (x *response) tellHungUp(ctx context.Context, err error) {
	if hungUp(ctx, err) {
		x.status, x.outcome = statusCanceled, "canceled"
	}
}

// tellFailure counts a request that the server could not answer, and logs it if somebody should look at it.
func (s *Server) tellFailure(req *request, err error) {
	cause := causeOf(err)
	switch {
	case hungUp(req.base, err), cause == "":
		return
	case cause != causeBusy:
		s.log.Error("request failed", "request_id", req.id, "path", req.route, "cause", cause, "error", err.Error())
	}
	s.metrics.failures.WithLabelValues(cause).Inc()
}

// admit parses the form, and runs the endpoint if this server may answer at all.
func (s *Server) admit(
	r *http.Request, req *request, parse func(parameters) func(context.Context) (any, error),
) (any, error) {
	p, err := readForm(req.response, r)
	if err != nil {
		return nil, s.countRejected(req, err)
	}
	run := parse(p)
	req.at = s.now()
	req.asking = req.at
	if err := s.unfit(); err != nil {
		s.noteInVain(req, err)
		return nil, s.countRejected(req, err)
	}
	ctx, cancel := s.patience(req.base)
	defer cancel()
	body, err := s.answer(ctx, req, run)
	s.noteInVain(req, err)
	return body, err
}

// countRejected counts a token request that did not get as far as its grant, and returns its error.
func (s *Server) countRejected(req *request, err error) error {
	if strings.HasSuffix(req.route, api.PathToken) {
		s.metrics.tokens.WithLabelValues(grantOther, outcomeOf(err)).Inc()
	}
	return err
}

// noteInVain notes that a client waited in vain, or was told to come again later, for a cause that is ours. It comes
// later than it would have, and that must not count against it.
func (s *Server) noteInVain(req *request, err error) {
	switch {
	case hungUp(req.base, err):
		s.noteUnanswered(req, 0)
		return
	case causeOf(err) == "":
		return
	case errors.Is(err, storage.ErrUnavailable) && causeOf(err) != causeBusy:
		s.ring.Away(req.asking, s.now())
	}
	if told := visible(err).retryAfter; told > 0 {
		s.noteUnanswered(req, told)
	}
}

// patience bounds what a request asks of the database.
func (s *core) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.db.Patience())
}

// answer authenticates the client and runs the endpoint, which need not know that it may run twice. A client from the
// cache is good enough for an introspection if the statement that asks about the token confirms it. Otherwise, and if
// the client was changed meanwhile, nothing of that run counts: the client is read and the endpoint runs again.
func (s *Server) answer(ctx context.Context, req *request, run func(context.Context) (any, error)) (any, error) {
	defer req.settle()
	if s.authenticateFromCache(req) {
		body, err := run(ctx)
		if req.confirmed || errors.Is(err, storage.ErrUnavailable) {
			return body, err
		}
		req.forget()
	}
	for again := false; ; again = true {
		if err := s.authenticate(ctx, req); err != nil {
			return nil, s.countRejected(req, err)
		}
		body, err := run(ctx)
		if again || !errors.Is(err, storage.ErrClientChanged) {
			return body, err
		}
		req.forget()
	}
}

// later queues an effect of the endpoint beside its answer: an event or a counter.
func (req *request) later(effect func()) { req.effects = append(req.effects, effect) }

// settle lets the queued effects happen.
func (req *request) settle() {
	for _, effect := range req.effects {
		effect()
	}
	req.effects = nil
}

// forget drops what a run of the endpoint left.
func (req *request) forget() {
	req.client, req.known, req.username, req.confirmed, req.effects = storage.Client{}, "", "", false, nil
}

// throttledEvent counts and logs a request that was refused because somebody has failed too often.
func (s *core) throttledEvent(req *request, outcome, what string) {
	req.later(func() { s.metrics.throttled.WithLabelValues(what).Inc() })
	s.event(req, "throttle", outcome)
}

// event logs something that security teams look for: one line with who, what and the outcome.
func (s *core) event(req *request, name, outcome string, more ...slog.Attr) {
	attrs := append([]slog.Attr{
		slog.String("event", name),
		slog.String("outcome", outcome),
		slog.String("request_id", req.id),
		slog.String("client", req.known),
		slog.String("user", req.username),
		slog.String("address", req.from),
	}, more...)
	req.later(func() { s.tell(name, attrs...) })
}
