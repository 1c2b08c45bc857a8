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

// request is one request to /token, /revoke or /introspect, parsed once.
type request struct {
	*exchange
	header   http.Header
	base     context.Context // ends when the client goes away
	form     form
	client   storage.Client // authenticated
	known    string         // id of a client that exists, authenticated or not
	at       time.Time      // when it came: what is done twice for one request is judged by one moment
	asking   time.Time      // since when it has been asking the database: what a hash takes is no outage
	username string         // of a user that exists: people type passwords into the field for the name

	// The client was not read for this request, and nothing has said since that it is still what it was. An endpoint then
	// does and tells nothing, but for a statement that asks for the revision of the client as well.
	remembered bool
	counted    bool // among the token requests
}

// beginsAgain reports whether the endpoint must run again, once the client has been read.
func (q *request) beginsAgain(err error) bool {
	return q.remembered && !errors.Is(err, storage.ErrUnavailable)
}

// revision is what a statement has to ask of the client: 0 for nothing, if the client was read for this request.
func (q *request) revision() int64 {
	if q.remembered {
		return q.client.Revision
	}
	return 0
}

// post adapts an endpoint: it parses the form, authenticates the client, and writes the value or the error.
func (s *Server) post(endpoint func(context.Context, *request) (any, error)) handler {
	return func(x *exchange, r *http.Request) {
		q := &request{exchange: x, header: r.Header}
		body, err := s.answer(r, q, endpoint)
		x.clientID = q.client.ID
		if err == nil {
			x.outcome = "ok"
			writeJSON(x, http.StatusOK, body)
			x.tellHungUp(r.Context(), err)
			return
		}
		f := visible(err)
		x.outcome = string(f.body.Code)
		s.tellFailure(q, err)
		if !q.counted && strings.HasSuffix(x.route, api.PathToken) { // it did not get as far as its grant
			s.metrics.tokens.WithLabelValues("other", x.outcome).Inc()
		}
		writeError(x, f)
		x.tellHungUp(r.Context(), err)
	}
}

// statusCanceled is what log and metrics tell of a request whose client went away before its answer. Nobody is sent it.
const statusCanceled = 499

// hungUp reports whether the client of a request went away before its answer.
func hungUp(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled))
}

// tellHungUp makes log and metrics tell of a client that went away.
func (x *exchange) tellHungUp(ctx context.Context, err error) {
	if hungUp(ctx, err) {
		x.status, x.outcome = statusCanceled, "canceled"
	}
}

// tellFailure counts a request that the server could not answer, and tells the log if that is for somebody to look at.
func (s *Server) tellFailure(q *request, err error) {
	cause := causeOf(err)
	switch {
	case hungUp(q.base, err), cause == "":
		return
	case cause != causeBusy:
		s.log.Error("request failed", "request_id", q.id, "path", q.route, "cause", cause, "error", err.Error())
	}
	s.metrics.failures.WithLabelValues(cause).Inc()
}

// answer answers a request. By a client that was remembered alone nothing is answered: either a statement of the
// endpoint has found that it still is what it was, or the client is read here, and the endpoint begins again.
func (s *Server) answer(
	r *http.Request,
	q *request,
	endpoint func(context.Context, *request) (any, error),
) (any, error) {
	var err error
	q.base = r.Context()
	if q.form, err = readForm(q.exchange, r); err != nil {
		return nil, err
	}
	q.at = s.now()
	q.asking = q.at
	if err := s.unfit(); err != nil {
		s.noteInVain(q, err)
		return nil, err
	}
	ctx, cancel := s.patience(q.base)
	defer cancel()
	body, err := s.answerAs(ctx, q, endpoint)
	s.noteInVain(q, err)
	return body, err
}

// noteInVain notes that a client waited in vain, or was told to come again later, for a cause that is ours: it comes
// later than it would have, and that must not count against it.
func (s *Server) noteInVain(q *request, err error) {
	switch {
	case hungUp(q.base, err):
		s.noteUnanswered(q, 0)
		return
	case causeOf(err) == "":
		return
	case errors.Is(err, storage.ErrUnavailable) && causeOf(err) != causeBusy:
		s.ring.Away(q.asking, s.now())
	}
	if told := visible(err).retryAfter; told > 0 {
		s.noteUnanswered(q, told)
	}
}

// patience bounds what a request asks of the database.
func (s *Server) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.db.Patience())
}

// answerAs answers the client that sent the request.
func (s *Server) answerAs(
	ctx context.Context,
	q *request,
	endpoint func(context.Context, *request) (any, error),
) (any, error) {
	if err := s.authenticate(ctx, q); err != nil {
		return nil, err
	}
	body, err := endpoint(ctx, q)
	if !q.beginsAgain(err) {
		return body, err
	}
	if err := s.authenticateAnew(ctx, q); err != nil {
		return nil, err
	}
	return endpoint(ctx, q)
}

// throttledEvent tells log and metrics of a request that was refused because somebody has failed too often.
func (s *Server) throttledEvent(q *request, outcome, what string) {
	s.metrics.throttled.WithLabelValues(what).Inc()
	s.event(q, "throttle", outcome)
}

// event tells the log of something that security teams look for: one line with who, what and the outcome. What a
// remembered client does is told once that client has been asked about.
func (s *Server) event(q *request, name, outcome string, more ...slog.Attr) {
	if q.remembered {
		return
	}
	s.tell(
		name,
		append([]slog.Attr{slog.String("event", name), slog.String("outcome", outcome), slog.String("request_id", q.id),
			slog.String("client", q.known), slog.String("user", q.username), slog.String("address", q.from)}, more...)...)
}
