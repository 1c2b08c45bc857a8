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

// statusOf is the HTTP status of each error code (RFC 6749 §5.2).
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
	status     int           // 0: from statusOf
	retryAfter time.Duration // for TemporarilyUnavailable; in whole seconds
}

// Error implements error.
func (f *failure) Error() string { return string(f.body.Code) + ": " + f.body.Description }

func fail(code api.Code, description string) error {
	return &failure{body: api.Error{Code: code, Description: description}}
}

func failWith(status int, code api.Code, description string) *failure {
	return &failure{body: api.Error{Code: code, Description: description}, status: status}
}

// wholeSeconds rounds up to whole seconds, the unit of Retry-After (RFC 9110 §10.2.3).
func wholeSeconds(span time.Duration) time.Duration {
	return (span + time.Second - 1).Truncate(time.Second)
}

// tooMany is the 429 of a caller that has failed too often (RFC 6585 §4).
func tooMany(retryAfter time.Duration) error {
	return &failure{
		body: api.Error{
			Code:        api.TemporarilyUnavailable,
			Description: "too many failed requests: try again later",
		},
		status:     http.StatusTooManyRequests,
		retryAfter: wholeSeconds(retryAfter),
	}
}

// unavailable is the 503 of a request that the client may repeat.
func unavailable(retryAfter time.Duration) *failure {
	return &failure{
		body: api.Error{
			Code:        api.TemporarilyUnavailable,
			Description: "the server cannot answer now: try again later",
		},
		retryAfter: wholeSeconds(retryAfter),
	}
}

// Causes of failures that are the fault of the server, for log and metrics.
const (
	causeBusy     = "busy" // overload
	causeDatabase = "database"
	causeKeys     = "keys"
	causeClock    = "clock"
	causeInternal = "internal"
)

// causeOf returns the cause of an error, or "" if there is no error or the client caused it.
func causeOf(err error) string {
	var f *failure
	var busy *queue.BusyError
	var unsure *clock.UnsureError
	switch {
	case err == nil, errors.As(err, &f):
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

// errInternal is the answer to a fault of the server. The text of the fault stays in the log.
var errInternal = failWith(http.StatusInternalServerError, api.ServerError,
	"internal error: the log of the server has it under the request id")

// visible returns what the client receives for an error.
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
	return errInternal
}

func (f *failure) httpStatus() int {
	if f.status != 0 {
		return f.status
	}
	return statusOf[f.body.Code]
}

// challenge asks for Basic authentication in UTF-8 (RFC 7617 §2.1).
const challenge = `Basic realm="keyturn", charset="UTF-8"`

// writeError writes an error response (RFC 6749 §5.2).
func writeError(w http.ResponseWriter, f *failure) {
	status := f.httpStatus()
	// RFC 6749 §5.2, RFC 9110 §11.6.1: a 401 names the authentication scheme.
	if f.body.Code == api.InvalidClient {
		w.Header().Set("WWW-Authenticate", challenge)
	}
	if f.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.retryAfter/time.Second)))
	}
	writeJSON(w, status, f.body)
}

// encoded is the JSON of a body.
type encoded []byte

func encode(body any) (encoded, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(body)
	return b.Bytes(), err
}

// writeJSON writes a JSON body that no cache may store (RFC 6749 §5.1).
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

// retrySoon is the Retry-After for a wait of unknown length.
const retrySoon = time.Second
