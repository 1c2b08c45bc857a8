package probe

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// GuardError refuses a probe before any token is sent, or ends it.
type GuardError struct{ Reason string }

// Error implements error.
func (e *GuardError) Error() string { return "probe: " + e.Reason }

func refuse(format string, args ...any) error { return &GuardError{fmt.Sprintf(format, args...)} }

const (
	// MaxRequests is how many requests one run sends to the origin of the API.
	MaxRequests = 80
	// Pause is the shortest time between two of them.
	Pause = 500 * time.Millisecond

	requestTimeout = 10 * time.Second
	maxBody        = 64 << 10
)

// Consent is what must agree to a probe.
type Consent struct {
	Origin   string // recorded for the resource server; "": none
	ID       string // of the resource server
	Issuer   string
	Resource string
}

// target is the API. Its name is resolved once, and all requests go to that address.
type target struct {
	url      *url.URL
	address  netip.Addr
	loopback bool
	client   *http.Client
	connect  Dialer
	pause    time.Duration
	sent     int
	last     time.Time
	local    atomic.Pointer[net.IP] // the address of this host by which the API is reached
}

// Resolver finds the addresses of a name.
type Resolver func(ctx context.Context, host string) ([]netip.Addr, error)

// Dialer connects to an address and a port.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// Origin returns scheme, host and port of a URL, in lower case and without a default port (RFC 6454 §4).
func Origin(text string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Host == "", u.User != nil, u.Opaque != "", u.Scheme != "https" && u.Scheme != "http":
		return "", fmt.Errorf("%q is no https URL with a host and without a user", text)
	}
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if host == "" {
		return "", fmt.Errorf("%q has no host", text)
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port == "" || u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80" {
		return u.Scheme + "://" + host, nil
	}
	return u.Scheme + "://" + host + ":" + port, nil
}

// isLoopbackName reports whether a host is this machine whatever a name server says.
func isLoopbackName(host string) bool {
	ip, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && ip.Unmap().IsLoopback()
}

// newTarget checks the URL and resolves its name.
func newTarget(ctx context.Context, p Plan) (*target, error) {
	text := p.URL
	origin, err := Origin(text)
	if err != nil {
		return nil, refuse("--url: %v", err)
	}
	u, _ := url.Parse(text) // Origin has parsed it
	if u.Fragment != "" || strings.HasSuffix(text, "#") {
		return nil, refuse("--url: %q has a fragment", text)
	}
	t := &target{url: u, loopback: isLoopbackName(u.Hostname()), connect: p.Dial, pause: p.Pause}
	if u.Scheme != "https" && !t.loopback {
		return nil, refuse("%s is not https: tokens would travel in the clear", origin)
	}
	if t.address, err = t.resolve(ctx, p.Resolve); err != nil {
		return nil, err
	}
	transport := p.Transport()
	transport.Proxy = nil
	transport.DialContext = t.dial
	transport.DisableCompression = true
	transport.DisableKeepAlives = true // a request on a dead connection would be sent again, and not be counted
	t.client = &http.Client{
		Transport:     transport,
		Timeout:       requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return t, nil
}

// resolve returns the one address that is checked, and that all requests go to.
func (t *target) resolve(ctx context.Context, resolve Resolver) (netip.Addr, error) {
	host := t.url.Hostname()
	all, err := resolve(ctx, host)
	if err != nil || len(all) == 0 {
		return netip.Addr{}, refuse("%s has no address", host)
	}
	address := all[0].Unmap()
	switch {
	case t.loopback && !address.IsLoopback():
		return address, refuse("%s is not this machine but %s", host, address)
	case !t.loopback && address.IsLoopback():
		return address, refuse("the name %s leads to this machine (%s): name it as localhost or by its address", host,
			address)
	case address.IsUnspecified(), address.IsMulticast(), address.IsLinkLocalUnicast(),
		address == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return address, refuse("%s leads to %s, where no API is", host, address)
	}
	return address, nil
}

// dial connects to the address that was checked, whatever the name leads to now.
func (t *target) dial(ctx context.Context, network, hostPort string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	conn, err := t.connect(ctx, network, net.JoinHostPort(t.address.String(), port))
	if err != nil {
		return nil, err
	}
	if local, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		t.local.Store(&local.IP)
	}
	return conn, nil
}

// answer is what the API said.
type answer struct {
	status int // 0: nothing
	body   []byte
	err    error
}

// ask sends a request, not before its turn.
func (t *target) ask(ctx context.Context, text, token string) (answer, error) {
	if t.sent >= MaxRequests {
		return answer{}, refuse("%d requests were sent: more are not allowed in one run", t.sent)
	}
	if wait := t.pause - time.Since(t.last); t.sent > 0 && wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return answer{}, ctx.Err()
		}
	}
	t.sent++
	t.last = time.Now()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, text, nil)
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("User-Agent", "keyturn-probe")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := t.client.Do(r)
	if err != nil {
		return answer{err: err}, ctx.Err()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	return answer{response.StatusCode, body, err}, ctx.Err()
}

// present sends a token to the API.
func (t *target) present(ctx context.Context, token string) (answer, error) {
	return t.ask(ctx, t.url.String(), token)
}

// checkConsent returns a *GuardError unless the origin was recorded and the API agrees. This machine needs neither.
func (t *target) checkConsent(ctx context.Context, c Consent) error {
	if t.loopback {
		return nil
	}
	origin, err := Origin(t.url.String())
	if err != nil {
		return err
	}
	if recorded, err := Origin(c.Origin); c.Origin == "" || err != nil || recorded != origin {
		return refuse("the origin %s is not recorded for %s: `keyturn client update %s --probe-origin %s`",
			origin, c.ID, c.ID, origin)
	}
	file, err := t.ask(ctx, origin+"/.well-known/keyturn-probe", "")
	if err != nil {
		return err
	}
	if file.status == http.StatusOK && strings.TrimSpace(string(file.body)) == c.ID {
		return nil
	}
	path := strings.TrimSuffix(t.url.EscapedPath(), "/")
	for _, suffix := range slices.Compact([]string{path, ""}) { // RFC 9728 §3.1
		metadata, err := t.ask(ctx, origin+"/.well-known/oauth-protected-resource"+suffix, "")
		if err != nil {
			return err
		}
		if metadata.status == http.StatusOK && names(metadata.body, c) {
			return nil
		}
	}
	return refuse("%s does not agree: neither does its metadata (/.well-known/oauth-protected-resource, RFC 9728) "+
		"name "+
		"the issuer %s for the resource %s, nor does /.well-known/keyturn-probe hold the id %s", origin, c.Issuer,
		c.Resource, c.ID)
}

// names reports whether the metadata of a protected resource (RFC 9728 §2) names the issuer.
func names(body []byte, c Consent) bool {
	var metadata struct {
		Resource string   `json:"resource"`
		Servers  []string `json:"authorization_servers"`
	}
	err := json.Unmarshal(body, &metadata)
	return err == nil && metadata.Resource == c.Resource && slices.Contains(metadata.Servers, c.Issuer)
}

// failed says why there was no answer to use; "" if there was one.
func (a answer) failed() string {
	var timeout interface{ Timeout() bool }
	switch {
	case a.err != nil && errors.As(a.err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("no answer within %v", requestTimeout)
	case a.err != nil && errors.As(a.err, new(*tls.CertificateVerificationError)):
		return "no answer: its certificate does not verify"
	case a.err != nil && errors.As(a.err, new(*net.OpError)):
		return "no answer: the connection failed"
	case a.err != nil: // its text may quote what was sent
		return "no answer that is HTTP"
	case a.status == http.StatusTooManyRequests:
		return "too many requests (429)"
	case a.status >= 500:
		return fmt.Sprintf("the API failed (%d)", a.status)
	}
	return ""
}
