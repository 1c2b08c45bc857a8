package console

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/keyturn/keyturn/admin"
)

// retryable lets a POST with an Idempotency-Key be repeated: the same request gets the same answer for a day.
func (k *call) retryable(run func(*call) (any, error)) error {
	key := k.r.Header.Get("Idempotency-Key")
	if key == "" {
		return k.serveAPI(run)
	}
	body, err := k.body()
	if err != nil {
		return err
	}
	request := strings.Join([]string{k.r.Method, k.r.URL.RequestURI(), k.r.Header.Get("If-Match"), string(body)}, "\n")
	requests, ctx := k.reads().Requests(), k.r.Context()
	before, err := requests.Begin(ctx, key, request)
	switch {
	case errors.Is(err, admin.ErrRunning):
		return problem(http.StatusConflict, "running",
			"a request with this Idempotency-Key runs, or was cut off: read "+
				"what it has changed before you use another key").with("Retry-After", "1")
	case errors.Is(err, admin.ErrOtherRequest):
		return problem(http.StatusUnprocessableEntity, "other-request", "this Idempotency-Key was used for another "+
			"request")
	case err != nil:
		return err
	case before != nil:
		k.w.Header().Set("Idempotency-Replayed", "true")
		if before.Tag != "" {
			k.w.Header().Set("ETag", before.Tag)
		}
		k.writeJSON(before.Status, before.Body)
		return nil
	}
	recorded := &recorder{ResponseWriter: k.w}
	k.w = recorded
	err = k.serveAPI(run)
	k.w = recorded.ResponseWriter
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditTimeout)
	defer cancel()
	if err != nil {
		p, internal := problemOf(err)
		if !internal && (p.Status < http.StatusInternalServerError || p.name == halfDone) {
			err = errors.Join(err, requests.Forget(ctx, key, request))
		}
		return err
	}
	err = requests.Finish(ctx, key, request, admin.Answer{
		Status: recorded.status,
		Tag:    recorded.Header().Get("ETag"),
		Body:   recorded.body,
	})
	if err != nil {
		k.c.Log.Error("the answer to an Idempotency-Key could not be kept", "error", err.Error())
	}
	return nil
}

// recorder keeps a copy of the answer.
type recorder struct {
	http.ResponseWriter
	status int
	body   []byte
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.body = append(r.body, b...)
	return r.ResponseWriter.Write(b)
}

// Address and Note pass on what the server logs.
func (r *recorder) Address() string {
	if n, ok := r.ResponseWriter.(noted); ok {
		return n.Address()
	}
	return ""
}

func (r *recorder) Note(route, who, outcome string) {
	if n, ok := r.ResponseWriter.(noted); ok {
		n.Note(route, who, outcome)
	}
}
