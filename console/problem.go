package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/keyturn/keyturn/admin"
)

// Problem is an error of the API, in the form of RFC 9457. Type is a URN with a name that programs may rely on.
type Problem struct {
	Type      string  `json:"type"`
	Title     string  `json:"title"`
	Status    int     `json:"status"`
	Detail    string  `json:"detail"`
	ChangedBy *Change `json:"changed_by,omitempty"` // of a status 412: the last change

	name   string // of the type
	header http.Header
	refuse bool // a guard refused: it is audited
}

// Change says who made a change.
type Change struct {
	Actor  string     `json:"actor"`
	At     admin.Time `json:"at"`
	Type   string     `json:"type"`
	Reason string     `json:"reason"`
	Seq    int64      `json:"seq"` // of the audit record
}

// Error implements error.
func (p *Problem) Error() string { return p.Title + ": " + p.Detail }

// problem makes an error with a status. name is a word for programs.
func problem(status int, name, detail string, args ...any) *Problem {
	return &Problem{
		Type:   "urn:keyturn:problem:" + name,
		Title:  http.StatusText(status),
		Status: status,
		Detail: fmt.Sprintf(detail, args...),
		name:   name,
	}
}

// halfDone is the name of the problem of a revocation that was made, but not everything that belongs to it. It may be
// repeated.
const halfDone = "half-done"

// refusal is a problem that a guard found. It is audited.
func refusal(status int, name, detail string, args ...any) *Problem {
	p := problem(status, name, detail, args...)
	p.refuse = true
	return p
}

// with adds a header to the answer.
func (p *Problem) with(name, value string) *Problem {
	if p.header == nil {
		p.header = http.Header{}
	}
	p.header.Set(name, value)
	return p
}

// problemOf turns an error into what the client sees of it. An unknown error is internal.
func problemOf(err error) (p *Problem, internal bool) {
	switch {
	case errors.As(err, &p):
		return p, false
	case errors.Is(err, admin.ErrChanged):
		return problem(http.StatusPreconditionFailed, "changed",
			"it has changed since you read it, and nothing was done: "+
				"read it again"), false
	case errors.Is(err, admin.ErrNotFound):
		return problem(http.StatusNotFound, "not-found", "%v", err), false
	case errors.Is(err, admin.ErrInvalid):
		return problem(http.StatusUnprocessableEntity, "invalid", "%s",
			strings.TrimPrefix(err.Error(), admin.ErrInvalid.Error()+": ")), false
	case admin.ErrRefused(err):
		return problem(http.StatusConflict, "refused", "%v", err), false
	case errors.Is(err, admin.ErrConflict):
		return problem(http.StatusConflict, "conflict", "%v", err), false
	case admin.Altered(err):
		return problem(http.StatusConflict, "altered", "%v", err), false
	case errors.Is(err, admin.ErrTooSlow):
		return problem(http.StatusServiceUnavailable, "too-slow", "the database took too long: try again").
			with("Retry-After", "5"), false
	case errors.Is(err, admin.ErrUnavailable):
		return problem(http.StatusServiceUnavailable, "unavailable", "the database does not answer: try again").
			with("Retry-After", "1"), false
	}
	return problem(http.StatusInternalServerError, "internal", "the server failed: its log says why"), true
}

// fail answers with an error. It logs an internal one, and audits a refusal.
func (k *call) fail(err error) {
	p, internal := problemOf(err)
	if internal {
		k.c.Log.Error("request failed", "path", k.route.path, "error", err.Error())
	}
	if p.refuse {
		k.c.noteRefusal(k, p)
	}
	for name, values := range p.header {
		k.w.Header()[name] = values
	}
	k.note(p.name)
	if k.page {
		k.failPage(p)
		return
	}
	k.w.Header().Set("Content-Type", "application/problem+json")
	k.w.WriteHeader(p.Status)
	e := json.NewEncoder(k.w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	e.Encode(p)
}

// changedBy adds to an error of a stale precondition who has made the last change.
func (k *call) changedBy(err error, noun, target string) error {
	if !errors.Is(err, admin.ErrChanged) {
		return err
	}
	p, _ := problemOf(err)
	r, e := k.reads().Audit().LastChange(k.r.Context(), noun, target)
	if e != nil {
		return p // the answer is right without it
	}
	p.ChangedBy = &Change{Actor: r.Actor, At: r.Time, Type: r.Type, Reason: r.Reason, Seq: r.Seq}
	p.Detail = fmt.Sprintf("%s changed it at %s (%s), and nothing was done: read it again", r.Actor,
		r.Time.Format("2006-01-02T15:04:05Z07:00"), r.Type)
	return p
}
