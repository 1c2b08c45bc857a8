package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/clock"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/queue"
	"github.com/keyturn/keyturn/storage"
)

// statusOf tells the status of each error code.
var statusOf = map[api.Code]int{
	api.InvalidRequest:         http.StatusBadRequest,
	api.InvalidClient:          http.StatusUnauthorized,
	api.InvalidGrant:           http.StatusBadRequest,
	api.UnauthorizedClient:     http.StatusBadRequest,
	api.UnsupportedGrantType:   http.StatusBadRequest,
	api.InvalidScope:           http.StatusBadRequest,
	api.InvalidTarget:          http.StatusBadRequest,
	api.TemporarilyUnavailable: http.StatusServiceUnavailable,
	api.ServerError:            http.StatusInternalServerError,
}

// failure is an error that a client may see.
type failure struct {
	body       api.Error
	status     int           // 0: that of the code
	retryAfter time.Duration // for TemporarilyUnavailable; whole seconds
}

func (f *failure) Error() string { return string(f.body.Code) + ": " + f.body.Description }

func fail(code api.Code, description string) error {
	return &failure{body: api.Error{Code: code, Description: description}}
}

func failWith(status int, code api.Code, description string) *failure {
	return &failure{body: api.Error{Code: code, Description: description}, status: status}
}

// wholeSeconds rounds up to what Retry-After can say.
func wholeSeconds(span time.Duration) time.Duration {
	return (span + time.Second - 1).Truncate(time.Second)
}

// tooMany is 429 for a caller that has used up its own budget.
func tooMany(retryAfter time.Duration) error {
	return &failure{
		body:       api.Error{Code: api.TemporarilyUnavailable, Description: "too many failed requests: try again later"},
		status:     http.StatusTooManyRequests,
		retryAfter: wholeSeconds(retryAfter),
	}
}

// unavailable is 503 for work that cannot be done now and may be tried again.
func unavailable(retryAfter time.Duration) *failure {
	return &failure{
		body:       api.Error{Code: api.TemporarilyUnavailable, Description: "the server cannot answer now: try again later"},
		retryAfter: wholeSeconds(retryAfter),
	}
}

// Causes of a request that the server could not answer.
const (
	causeBusy     = "busy" // more was asked at once than it can do
	causeDatabase = "database"
	causeKeys     = "keys"
	causeClock    = "clock"
	causeInternal = "internal"
)

// causeOf is why the server could not answer; "" for an error that is the client's.
func causeOf(err error) string {
	var f *failure
	var busy *queue.BusyError
	var unsure *clock.UnsureError
	switch {
	case errors.As(err, &f):
		return ""
	case errors.As(err, &busy), errors.Is(err, storage.ErrBusy):
		return causeBusy
	case errors.Is(err, storage.ErrUnavailable), errors.Is(err, context.Canceled):
		return causeDatabase
	case errors.Is(err, keys.ErrStale):
		return causeKeys
	case errors.As(err, &unsure):
		return causeClock
	}
	return causeInternal
}

// visible is what a client sees of an error: itself if it is meant for clients, else a fixed text.
func visible(err error) *failure {
	var f *failure
	var busy *queue.BusyError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &busy):
		return unavailable(busy.RetryAfter)
	case causeOf(err) != causeInternal:
		return unavailable(retrySoon)
	}
	return &failure{body: api.Error{
		Code:        api.ServerError,
		Description: "internal error: the log of the server has it under the request id",
	}}
}

func (f *failure) httpStatus() int {
	if f.status != 0 {
		return f.status
	}
	return statusOf[f.body.Code]
}

const challenge = `Basic realm="keyturn", charset="UTF-8"`

// writeError answers with an error body, RFC 6749 §5.2.
func writeError(w http.ResponseWriter, f *failure) {
	status := f.httpStatus()
	if f.body.Code == api.InvalidClient {
		w.Header().Set("WWW-Authenticate", challenge)
	}
	if f.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.retryAfter/time.Second)))
	}
	writeJSON(w, status, f.body)
}

// encoded is a body in the form in which it is sent.
type encoded []byte

func encode(body any) (encoded, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(body)
	return b.Bytes(), err
}

// writeJSON answers with a body that nobody may store, RFC 6749 §5.1.
func writeJSON(w http.ResponseWriter, status int, body any) {
	b, ok := body.(encoded)
	if !ok {
		var err error
		if b, err = encode(body); err != nil {
			status, b = http.StatusInternalServerError, encoded(`{"error":"server_error"}`+"\n")
		}
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	w.Write(b)
}

// retrySoon is what a client is told to wait where nobody knows how long it will take.
const retrySoon = time.Second
