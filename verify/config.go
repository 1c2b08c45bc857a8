package verify

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Config says whose tokens a Verifier accepts. Issuer and Resource are required.
type Config struct {
	// Issuer is the issuer of the server, byte for byte: an https URL, or http for a loopback host.
	Issuer string
	// Resource is the URI of this resource server, as in the claim aud (RFC 8707).
	Resource string
	// JWKSURL is where the keys are; "": Issuer with /.well-known/jwks.json. A query is sent as it is, so that a server
	// knows this verifier by ?v=HANDLE.
	JWKSURL string
	// Stale says what happens to tokens while the server has been away for longer than ten minutes.
	Stale Stale
	// Sample introspects some of the accepted tokens; nil: none.
	Sample *Sample
	// Counters count what happens; nil: nothing is counted.
	Counters Counters
	// Problem is called when something could not be fetched, with an error that names it; from several goroutines at
	// once. nil: nothing is called.
	Problem func(error)
	// Transport sends the requests; nil: [http.DefaultTransport]. Redirects are never followed.
	Transport http.RoundTripper
	// Now is the clock; nil: [time.Now].
	Now func() time.Time
}

// Stale is a policy for keys and status lists that are older than ten minutes.
type Stale int

const (
	// Refuse refuses tokens with [ErrUnavailable]: the default.
	Refuse Stale = iota
	// Allow goes on with the keys and lists that the Verifier has. A key or login that was revoked meanwhile passes.
	Allow
)

// Times and sizes.
const (
	pollInterval  = 15 * time.Second // between two polls of the keys, and of a status list
	leastInterval = time.Second      // whatever max-age or ttl say
	staleAfter    = 10 * time.Minute
	unknownKeys   = time.Minute // between two fetches because of an unknown kid
	fetchTimeout  = 5 * time.Second
	clockSkew     = time.Minute // how far iat and nbf may be ahead
	idleList      = 10 * time.Minute

	maxToken    = 8 << 10 // keyturn issues none that is larger
	maxDocument = 1 << 20
	maxPlaces   = 1 << 20 // of a status list
	maxKeys     = 64
	maxLists    = 1000
	minRSABits  = 2048
	maxRSABits  = 8192
)

// fill checks a configuration and sets its defaults.
func (c Config) fill() (Config, error) {
	if err := checkURL("Issuer", c.Issuer, false); err != nil {
		return c, err
	}
	if c.Resource == "" {
		return c, errors.New("verify: Resource is required: the URI of this resource server")
	}
	if c.JWKSURL == "" {
		c.JWKSURL = c.Issuer + "/.well-known/jwks.json"
	}
	if err := checkURL("JWKSURL", c.JWKSURL, true); err != nil {
		return c, err
	}
	if c.Stale != Refuse && c.Stale != Allow {
		return c, fmt.Errorf("verify: Stale is neither Refuse nor Allow: %d", c.Stale)
	}
	if c.Sample != nil {
		if err := c.Sample.check(); err != nil {
			return c, err
		}
		sample := *c.Sample // the caller may change its own
		c.Sample = &sample
	}
	if c.Counters == nil {
		c.Counters = uncounted{}
	}
	if c.Problem == nil {
		c.Problem = func(error) {}
	}
	if c.Transport == nil {
		c.Transport = http.DefaultTransport
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, nil
}

// checkURL refuses a URL that does not protect what is fetched from it.
func checkURL(name, text string, query bool) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || strings.HasSuffix(text, "#") {
		return fmt.Errorf("verify: %s is not a URL of a server: %q", name, text)
	}
	if !query && (u.RawQuery != "" || u.ForceQuery || strings.HasSuffix(u.Path, "/")) {
		return fmt.Errorf("verify: %s has a query, or ends with a slash: %q", name, text)
	}
	loopback := u.Hostname() == "localhost"
	if ip := net.ParseIP(u.Hostname()); ip != nil {
		loopback = ip.IsLoopback()
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && loopback) {
		return fmt.Errorf("verify: %s must be an https URL, or http for a loopback host: %q", name, text)
	}
	return nil
}
