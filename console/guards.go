package console

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyturn/keyturn/admin"
)

// isAPI reports whether a request is for the API, which answers JSON.
func isAPI(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, apiPrefix) }

// overSocket reports whether a request came over the Unix socket.
func overSocket(r *http.Request) bool {
	address, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && address.Network() == "unix"
}

// overLoopback reports whether a request came over a loopback address of this host.
func overLoopback(r *http.Request) bool {
	address, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	at, err := netip.ParseAddrPort(address.String())
	return err == nil && at.Addr().Unmap().IsLoopback()
}

// checkConnection refuses plaintext that leaves this host, and names of this server that nobody configured: another
// site may let its own name point to a loopback address (DNS rebinding).
func (k *call) checkConnection() error {
	if overSocket(k.r) {
		return nil
	}
	local := overLoopback(k.r)
	if k.r.TLS == nil && !local {
		return refusal(http.StatusForbidden, "no-tls", "console and admin API need TLS on an address that is not "+
			"loopback: set admin_tls_cert_file, or use a tunnel to 127.0.0.1, or the admin_socket")
	}
	host := hostname(k.r.Host)
	known := slices.ContainsFunc(k.c.URLs(), func(text string) bool {
		u, err := url.Parse(text)
		return err == nil && strings.EqualFold(u.Hostname(), host)
	})
	if known || local && isLoopbackName(host) {
		return nil
	}
	return refusal(http.StatusMisdirectedRequest, "unknown-host",
		"this name of the server is not configured: open %s, "+
			"or add its URL to admin_urls", strings.Join(k.c.URLs(), " or "))
}

// hostname returns the name in a Host header, without the port.
func hostname(host string) string {
	u, err := url.Parse("//" + host)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

func isLoopbackName(host string) bool {
	at, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && at.IsLoopback()
}

// origin returns the origin of the console as the browser sees it. A proxy on this host may terminate TLS.
func (k *call) origin() string {
	for _, text := range k.c.URLs() {
		if u, err := url.Parse(text); err == nil && strings.EqualFold(u.Host, k.r.Host) {
			return text
		}
	}
	scheme := "http"
	if k.r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + k.r.Host
}

func isRead(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// checkOrigin refuses requests that another site makes a browser send. It allows links to pages, which change nothing.
func (k *call) checkOrigin() error {
	if overSocket(k.r) {
		return nil
	}
	site, from := k.r.Header.Get("Sec-Fetch-Site"), k.r.Header.Get("Origin")
	foreign := site != "same-origin" && site != "none"
	if site == "" { // an old browser, or no browser
		foreign = from != "" && from != k.origin()
	}
	if foreign && !(isRead(k.r.Method) && k.page) {
		return refusal(http.StatusForbidden, "cross-site", "another site has made your browser send this request")
	}
	return nil
}

// csrfToken is the token that forms of a session carry. Only pages of the session know it.
func csrfToken(session string) string {
	mac := hmac.New(sha256.New, []byte(session))
	mac.Write([]byte("keyturn form"))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// formToken is the field of forms, and tokenHeader the header of scripts, with the CSRF token.
const (
	formToken   = "form_token"
	tokenHeader = "X-Keyturn-Form-Token"
)

// checkToken requires the CSRF token of the session for a change.
func (k *call) checkToken() error {
	switch {
	case isRead(k.r.Method), overSocket(k.r):
		return nil
	case k.who.session == nil:
		return k.checkCertificateForm()
	}
	got := k.r.Header.Get(tokenHeader)
	if got == "" && k.page {
		if err := k.parseForm(); err != nil {
			return err
		}
		got = k.r.PostForm.Get(formToken)
	}
	if !hmac.Equal([]byte(got), []byte(csrfToken(k.who.token))) {
		return refusal(http.StatusForbidden, "no-form-token", "the form is not from this session: open the page again")
	}
	return nil
}

// checkCertificateForm requires that the browser says where a form of somebody with a certificate comes from. The API
// takes no forms.
func (k *call) checkCertificateForm() error {
	if !k.page || k.r.Header.Get("Sec-Fetch-Site") == "same-origin" || k.r.Header.Get("Origin") == k.origin() {
		return nil
	}
	return refusal(http.StatusForbidden, "no-origin", "your browser does not say which site has sent the form: use a "+
		"newer one, or the API")
}

// maxBody is the largest size of a request body in bytes.
const maxBody = 64 << 10

// parseForm reads the form of a page.
func (k *call) parseForm() error {
	k.r.Body = http.MaxBytesReader(k.w, k.r.Body, maxBody)
	if err := k.r.ParseForm(); err != nil {
		return problem(http.StatusBadRequest, "bad-form", "the form could not be read")
	}
	return nil
}

// checkRole requires the role of the route, and for some a recent sign-in.
func (k *call) checkRole() error {
	if !k.who.role.Includes(k.route.role) {
		return refusal(http.StatusForbidden, "role", "this needs the role %s; you are %s", k.route.role, k.who.role)
	}
	if k.route.fresh && !k.fresh() {
		k.passed = true // but for the time of the sign-in: the form may be shown again
		return refusal(http.StatusForbidden, "sign-in-again",
			"this needs a sign-in within the last %d minutes: sign in "+
				"again", int(admin.SessionFresh.Minutes()))
	}
	return nil
}

// fresh reports whether the caller has proved who it is within the last minutes.
func (k *call) fresh() bool {
	return k.who.session == nil || k.reads().SignIns().Fresh(*k.who.session)
}

// errSignIn means that the caller has not said who it is.
func errSignIn() *Problem {
	return problem(http.StatusUnauthorized, "sign-in", "sign in, use a client certificate, or the admin_socket").
		with("WWW-Authenticate", `Keyturn realm="admin"`)
}

// admitted runs the guards, in order, and then the handler.
func (k *call) admitted(run func() error) error {
	if err := k.checkOrigin(); err != nil {
		return err
	}
	if k.route.open {
		return run()
	}
	who, err := k.identify()
	if err != nil {
		return err
	}
	k.who = who
	if err := k.checkToken(); err != nil {
		return err
	}
	if err := k.checkRole(); err != nil {
		return err
	}
	k.seen()
	k.passed = true
	return run()
}

// liveParameter marks requests of scripts that show what is new. They do not keep a session alive.
const liveParameter = "live"

// seen notes that the person is there.
func (k *call) seen() {
	if k.who.session == nil || k.r.URL.Query().Has(liveParameter) {
		return
	}
	if err := k.reads().SignIns().See(k.r.Context(), *k.who.session); err != nil {
		k.c.Log.Warn("a session could not be kept alive", "error", err.Error())
	}
}

// rarely lets something happen once in a while.
type rarely struct {
	mu   sync.Mutex
	last time.Time
}

func (r *rarely) due(now time.Time, every time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.last).Abs() < every {
		return false
	}
	r.last = now
	return true
}

// cleanUp deletes what is over, about once a minute while somebody uses the console.
func (c *Console) cleanUp(ctx context.Context) {
	if !c.cleaned.due(c.Now(), time.Minute) {
		return
	}
	if err := c.Admin(admin.Options{Now: c.Now}).SignIns().Clean(ctx); err != nil {
		c.Log.Warn("old sessions could not be deleted", "error", err.Error())
	}
	for _, r := range c.refusals.over(c.Now()) {
		c.auditRefusal(ctx, r)
	}
}
