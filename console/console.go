// Package console is the admin API and the pages over it, for the admin listener. It does what the command line does,
// with package admin, for people and programs that have a role.
//
// A route says which role it needs. Every request passes the same guards: the connection, the Host, the origin, the
// identity, the role, and for changes the CSRF token and a recent sign-in. The API answers JSON, and errors as RFC 9457
// describes. The pages are HTML that works without scripts.
package console

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/keyturn/keyturn/admin"
)

// Options are the dependencies of a console.
type Options struct {
	// Admin returns an Admin on the open store, with the settings in force.
	Admin func(admin.Options) *admin.Admin
	// Peer returns the user id at the other end of the Unix socket, or an error for a request that came another way.
	Peer func(*http.Request) (uid uint32, err error)
	// URLs returns the configured URLs of the console.
	URLs func() []string
	Log  *slog.Logger
	Now  func() time.Time // nil: time.Now
}

// Console is the handler of the admin API and the pages. It is safe for concurrent use.
type Console struct {
	Options
	router   http.Handler
	refusals refusals
	tokens   tokenCounts
	cleaned  rarely

	verifying sync.Mutex // held while the audit trail is verified
}

// New returns a console.
func New(o Options) *Console {
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Console{Options: o}
	c.router = c.routes()
	return c
}

// noted is the ResponseWriter of the server, which logs and counts requests.
type noted interface {
	Address() string // of the client
	Note(route, who, outcome string)
}

// ServeHTTP implements [http.Handler].
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range securityHeaders {
		w.Header()[name] = value
	}
	k := &call{c: c, w: w, r: r, route: route{path: "console"}, page: !isAPI(r)}
	if err := k.checkConnection(); err != nil {
		k.fail(err)
		return
	}
	c.router.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, k)))
}

// callKey is the context key of the *call of a request.
type callKey struct{}

func callOf(r *http.Request) *call { return r.Context().Value(callKey{}).(*call) }

// policy is the Content-Security-Policy of every response.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'"

var securityHeaders = http.Header{
	"Content-Security-Policy":      {policy},
	"Cache-Control":                {"no-store"},
	"Cross-Origin-Opener-Policy":   {"same-origin"},
	"Cross-Origin-Resource-Policy": {"same-origin"},
	"Referrer-Policy":              {"same-origin"}, // with no-referrer, a form would not say its origin
	"X-Content-Type-Options":       {"nosniff"},
	"X-Frame-Options":              {"DENY"},
}

// call is one request.
type call struct {
	c     *Console
	w     http.ResponseWriter
	r     *http.Request
	route route
	who   identity
	page  bool // answers HTML
	// of a page that shows a list: the query without empty fields; nil: as it is
	filter  url.Values
	passed  bool     // the guards let the caller see the page of the route
	refused *Problem // why the form was refused that the page shows again
	read    []byte   // the body; nil: not read
	said    []string
}

// vars of the path, decoded.
func (k *call) vars(name string) string { return k.route.vars[name] }

// admin returns the operations of whoever calls. saw is what a change was decided on; 0: whatever it is.
func (k *call) admin(reason string, saw int64) (*admin.Admin, error) {
	a := k.c.Admin(admin.Options{
		Actor:   k.who.actor,
		Way:     k.who.way,
		Address: k.address(),
		Saw:     saw,
		Now:     k.c.Now,
		Say:     k.say,
	})
	return a, a.Because(reason)
}

// say keeps a message for the person who calls.
func (k *call) say(format string, args ...any) {
	k.said = append(k.said, strings.TrimPrefix(fmt.Sprintf(format, args...), "keyturn: "))
}

// reads returns the operations of a caller who only reads.
func (k *call) reads() *admin.Admin {
	a, _ := k.admin("", 0)
	return a
}

// address of the client.
func (k *call) address() string {
	if n, ok := k.w.(noted); ok {
		return n.Address()
	}
	return k.r.RemoteAddr
}

// note sets what the log says of the request.
func (k *call) note(outcome string) {
	if n, ok := k.w.(noted); ok {
		n.Note(k.route.path, k.who.actor, outcome)
	}
}
