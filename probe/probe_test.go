package probe_test

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/probe"
	"github.com/keyturn/keyturn/probe/probetest"
)

const (
	issuerURL = "https://auth.example.com"
	resource  = "https://api.example.com"
)

var (
	current = issuer{mustKey(), "current"}
	next    = issuer{mustKey(), "next"}
)

var keyPairs = sync.OnceValue(keystest.Generator)

func mustKey() *rsa.PrivateKey {
	key, err := keyPairs()(2048)
	if err != nil {
		panic(err)
	}
	return key
}

// plan is a plan for a verifier at a URL.
func plan(url string) probe.Plan {
	return probe.Plan{
		URL:     url,
		Consent: probe.Consent{ID: "api", Issuer: issuerURL, Resource: resource},
		Endless: true,
		Pause:   time.Nanosecond,

		Generate: func(bits int) (*rsa.PrivateKey, error) { return keyPairs()(bits) },
	}
}

// tokens are what the tokens of a run are made of.
func tokens() probe.Tokens {
	return probe.Tokens{
		Identity: probe.Identity{
			Issuer:   issuerURL,
			Resource: resource,
			Subject:  "usr_probe",
			Client:   "keyturn-probe",
			Alive:    probe.Session{ID: "alive"},
			Ended:    probe.Session{ID: "ended"},
		},
		Signer: current,
		Next:   next,
	}
}

// run prepares a probe and runs it.
func run(p probe.Plan, t probe.Tokens) (probe.Report, error) {
	prepared, err := probe.Prepare(context.Background(), p)
	if err != nil {
		return probe.Report{}, err
	}
	return prepared.Run(context.Background(), t)
}

// newVerifier makes a verifier with one fault; "" for none.
func newVerifier(fault string) *probetest.Verifier {
	keys := map[string]*rsa.PublicKey{"current": current.Public(), "next": next.Public()}
	if fault == "does not know the next key" {
		delete(keys, "next")
	}
	return &probetest.Verifier{
		Issuer:   issuerURL,
		Resource: resource,
		Keys:     func(kid string) *rsa.PublicKey { return keys[kid] },
		Ended:    func(sid string) bool { return sid == "ended" },
		Fault:    fault,
		Now:      time.Now,
	}
}

// reds lists the red cases of a report.
func reds(r probe.Report) (ids []string) {
	for _, result := range r.Results {
		if result.Red {
			ids = append(ids, result.ID)
		}
	}
	return ids
}

// faults are verifiers with one fault each, and the cases that are red. A case that is not red, but not refused either,
// is in also.
var faults = map[string][]string{
	"":                                                {},
	"ignores exp":                                     {"expired-1h", "expired-90s"},
	"allows a leeway of five minutes":                 {"expired-90s"},
	"allows a leeway of a day":                        {"expired-1h", "expired-90s"},
	"accepts what expired long ago":                   {"expired-1h"},
	"accepts tokens without exp":                      {"endless"},
	"ignores nbf":                                     {"nbf-ahead"},
	"ignores the audience":                            {"aud-other", "aud-none", "aud-list-other"},
	"accepts no audience":                             {"aud-none"},
	"accepts any string as audience":                  {"aud-other"},
	"accepts any list of audiences":                   {"aud-list-other"},
	"refuses lists of audiences":                      {},
	"ignores the issuer":                              {"iss-other", "iss-slash"},
	"accepts the issuer with a slash":                 {"iss-slash"},
	"accepts every other host as issuer":              {"iss-other"},
	"ignores typ":                                     {"typ-none", "typ-other"},
	"accepts no typ":                                  {"typ-none"},
	"accepts any typ that ends in +jwt":               {"typ-other"},
	"accepts alg none":                                {"none-alg-1"},
	"accepts alg None":                                {"none-alg-2"},
	"accepts alg NONE":                                {"none-alg-3"},
	"accepts alg nOnE":                                {"none-alg-4"},
	"accepts alg none in any case":                    {"none-alg-1", "none-alg-2", "none-alg-3", "none-alg-4"},
	"takes the PEM for a secret":                      {"hs256-pem"},
	"takes the DER for a secret":                      {"hs256-der"},
	"takes the modulus for a secret":                  {"hs256-modulus"},
	"accepts unknown kids":                            {"unknown-kid"},
	"takes the key from the header":                   {"jwk"},
	"fetches jku":                                     {"jku"},
	"uses jku":                                        {"jku"},
	"fetches x5u":                                     {"x5u"},
	"uses x5u":                                        {"x5u"},
	"ignores crit":                                    {"crit"},
	"accepts an empty signature":                      {"signature-empty"},
	"accepts half a signature":                        {"signature-cut"},
	"does not know the next key":                      {"next"},
	"verifies the claims before a proxy changed them": {"payload"},
	"checks no signature of its own kid":              {"other-key", "payload"},
	"fails at a bad token":                            {},
	"redirects to a login":                            {},
}

// mild are faults of weight should: the case is accepted, and not red.
var mild = map[string]string{
	"accepts typ JWT":      "typ-jwt",
	"ignores iat":          "iat-ahead",
	"accepts no sub":       "no-sub",
	"decodes base64 laxly": "base64",
	"accepts ended logins": "ended",
}

// Each of more than 40 verifiers with one fault shows exactly that fault.
func TestWrongVerifiers(t *testing.T) {
	t.Parallel()
	if n := len(faults) + len(mild); n < 41 {
		t.Errorf("%d verifiers", n)
	}
	for fault, want := range faults {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			report := mustRun(t, newVerifier(fault), nil)
			if got := reds(report); !slices.Equal(got, want) && len(got)+len(want) > 0 {
				t.Errorf("red %v, want %v: %+v", got, want, report)
			}
			fine := len(want) == 0 && fault != "fails at a bad token" // a failure is no refusal
			if report.Stopped != "" || report.OK() != fine || report.Requests > probe.MaxRequests {
				t.Errorf("%+v", report)
			}
		})
	}
	for fault, id := range mild {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			report := mustRun(t, newVerifier(fault), nil)
			for _, result := range report.Results {
				right := result.Expected == probe.Either || (result.Got == result.Expected) != (result.ID == id)
				if result.Red || !right {
					t.Errorf("%+v", result)
				}
				if result.ID == id && result.Got != probe.Accepted {
					t.Errorf("%+v", result)
				}
			}
		})
	}
}

// mustRun runs a probe against a verifier on this machine.
func mustRun(t *testing.T, h http.Handler, change func(*probe.Plan, *probe.Tokens)) probe.Report {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	p := plan(server.URL + "/orders?limit=1")
	k := tokens()
	if change != nil {
		change(&p, &k)
	}
	report, err := run(p, k)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// A URL that is not protected, or that refuses everything, ends the run at once.
func TestControlsEndTheRun(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		h       http.Handler
		stopped string
	}{
		"open": {newVerifier("asks for no token"), "not protected"},
		"lax":  {newVerifier("takes any text for a token"), "not protected"},
		"closed": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }), "refuses " +
			"a good token"},
		"broken":  {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }), "no answer"},
		"limited": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }), "too many"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			report := mustRun(t, test.h, nil)
			if !strings.Contains(report.Stopped, test.stopped) || report.OK() || report.Requests > 3 {
				t.Errorf("%+v", report)
			}
		})
	}
	t.Run("limited later", func(t *testing.T) {
		t.Parallel()
		var n atomic.Int64
		v := newVerifier("")
		report := mustRun(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) > 20 {
				w.WriteHeader(401)
				return
			}
			v.ServeHTTP(w, r)
		}), nil)
		if !strings.Contains(report.Stopped, "at the end") || report.OK() {
			t.Errorf("%+v", report)
		}
	})
}

// With a scope, a token without it must be refused. A URL that needs a scope answers a good token without it by 403,
// which tells it from a bad one.
func TestScope(t *testing.T) {
	t.Parallel()
	scoped := func(fault string) *probetest.Verifier {
		v := newVerifier(fault)
		v.Scope = "read"
		return v
	}
	with := func(p *probe.Plan, _ *probe.Tokens) { p.Scope = "read" }
	if report := mustRun(t, scoped(""), with); !report.OK() {
		t.Errorf("%+v", report)
	}
	if report := mustRun(t, scoped("ignores the scope"), with); !slices.Equal(reds(report), []string{"no-scope"}) {
		t.Errorf("%v", reds(report))
	}
	if report := mustRun(t, scoped(""), nil); !report.OK() {
		t.Errorf("without --scope: %+v", report)
	}
}

// The fetches of the JWKS that unknown kids cause are counted.
func TestFetchesForUnknownKIDs(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	v := newVerifier("")
	counting := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		head, _, _ := strings.Cut(token, ".")
		if text, err := base64.RawURLEncoding.DecodeString(head); err == nil && strings.Contains(string(text),
			`"kid":"keyturn-probe-`) {
			n.Add(1)
		}
		v.ServeHTTP(w, r)
	})
	report := mustRun(t, counting, func(p *probe.Plan, k *probe.Tokens) {
		k.Fetched = func(context.Context) (int64, error) { return 7 + n.Load(), nil }
		p.Endless = false
	})
	if report.JWKSFetches == nil || *report.JWKSFetches != 5 {
		t.Errorf("%v", report.JWKSFetches)
	}
}

// The time from the end of a login to the first refusal is measured.
func TestRevocation(t *testing.T) {
	t.Parallel()
	v := newVerifier("")
	var mu sync.Mutex
	calls := 0
	v.Ended = func(sid string) bool {
		mu.Lock()
		defer mu.Unlock()
		return sid == "ended" || sid == "short" && calls > 0
	}
	report := mustRun(t, v, func(p *probe.Plan, k *probe.Tokens) {
		p.Revocation, p.Pause = true, time.Millisecond
		k.Login = func(context.Context) (probe.Session, error) { return probe.Session{ID: "short"}, nil }
		k.End = func(context.Context, probe.Session) error {
			mu.Lock()
			defer mu.Unlock()
			calls++
			return nil
		}
	})
	if r := report.Revocation; r == nil || !r.Refused || r.Seconds > 10 || calls != 1 {
		t.Errorf("%+v", report.Revocation)
	}
}

// at is the address of a server on the net.
var at = netip.MustParseAddr("192.0.2.1")

// remote makes a server that stands for one on the net: it has a certificate, and whoever connects to its address
// reaches it.
func remote(t *testing.T, h http.Handler) probe.Plan {
	t.Helper()
	server := httptest.NewTLSServer(h)
	t.Cleanup(server.Close)
	p := plan("https://example.com/orders") // the certificate of httptest is for example.com
	p.Resolve = func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{at}, nil }
	p.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != "192.0.2.1:443" {
			t.Errorf("connected to %s", address)
		}
		return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
	}
	p.Transport = func() *http.Transport {
		return &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs},
			Proxy: func(*http.Request) (*url.URL, error) {
				t.Error("a proxy was asked for")
				return nil, nil
			},
		}
	}
	return p
}

// agreeing is an API that agrees to be probed, in one of the two ways, or in none.
func agreeing(way string, api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/.well-known/keyturn-probe" && way == "file":
			w.Write([]byte("api\n"))
		case r.URL.Path == "/.well-known/keyturn-probe" && way == "file of another":
			w.Write([]byte("other\n"))
		case r.URL.Path == "/.well-known/oauth-protected-resource/orders" && way == "metadata":
			w.Write([]byte(`{"resource":"` + resource + `","authorization_servers":["` + issuerURL + `"]}`))
		case r.URL.Path == "/.well-known/oauth-protected-resource" && way == "metadata of the host":
			w.Write([]byte(`{"resource":"` + resource +
				`","authorization_servers":["https://x.example","` + issuerURL + `"]}`))
		case r.URL.Path == "/.well-known/oauth-protected-resource" && way == "metadata of another issuer":
			w.Write([]byte(`{"resource":"` + resource + `","authorization_servers":["https://x.example"]}`))
		case r.URL.Path == "/.well-known/oauth-protected-resource" && way == "metadata of another resource":
			w.Write([]byte(`{"resource":"https://x.example","authorization_servers":["` + issuerURL + `"]}`))
		case r.URL.Path == "/.well-known/keyturn-probe" && way == "file behind a redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case r.URL.Path == "/elsewhere":
			w.Write([]byte("api\n"))
		case strings.HasPrefix(r.URL.Path, "/.well-known/"):
			http.NotFound(w, r)
		default:
			api.ServeHTTP(w, r)
		}
	})
}

// Without the recorded origin and the agreement of the API, no token is sent.
func TestConsent(t *testing.T) {
	t.Parallel()
	for way, agrees := range map[string]bool{
		"file":                         true,
		"metadata":                     true,
		"metadata of the host":         true,
		"":                             false,
		"file of another":              false,
		"file behind a redirect":       false,
		"metadata of another issuer":   false,
		"metadata of another resource": false,
	} {
		for _, recorded := range []bool{true, false} {
			var sent atomic.Int64
			v := newVerifier("")
			p := remote(t, agreeing(way, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				sent.Add(1)
				v.ServeHTTP(w, r)
			})))
			p.Consent.Origin = "https://other.example"
			if recorded {
				p.Consent.Origin = "https://EXAMPLE.com:443/"
			}
			report, err := run(p, tokens())
			var guard *probe.GuardError
			want := agrees && recorded
			if want != (err == nil) || want != (sent.Load() > 0) || !want && !errors.As(err, &guard) {
				t.Errorf("%q, recorded %v: %v, %d requests, %+v", way, recorded, err, sent.Load(), report)
			}
		}
	}
}

// Names that lead elsewhere, URLs in the clear and strange URLs are refused before the first request.
func TestGuards(t *testing.T) {
	t.Parallel()
	for text, address := range map[string]string{
		"http://api.example.com/":          "192.0.2.1",
		"https://api.example.com/":         "127.0.0.1",
		"https://api.example.com/1":        "::1",
		"https://api.example.com/2":        "169.254.169.254",
		"https://api.example.com/3":        "0.0.0.0",
		"https://api.example.com/4":        "224.0.0.1",
		"https://api.example.com/5":        "fe80::1",
		"https://api.example.com/6":        "::ffff:127.0.0.1",
		"http://localhost/":                "192.0.2.1",
		"https://user@api.example.com/":    "192.0.2.1",
		"https://api.example.com/#x":       "192.0.2.1",
		"https:///path":                    "192.0.2.1",
		"ftp://api.example.com/":           "192.0.2.1",
		"api.example.com":                  "192.0.2.1",
		"https://unrecorded.example.com/":  "192.0.2.1",
		"https://nowhere.example.com/":     "",
		"http://127.0.0.1.example.com/":    "192.0.2.1",
		"https://[::ffff:169.254.0.1]/":    "::ffff:169.254.0.1",
		"http://localhost.example.com:80/": "127.0.0.1",
	} {
		p := plan(text)
		p.Consent.Origin = text // it is not the missing record that refuses
		if text == "https://unrecorded.example.com/" {
			p.Consent.Origin = ""
		}
		p.Resolve = func(context.Context, string) ([]netip.Addr, error) {
			if address == "" {
				return nil, errors.New("no such host")
			}
			return []netip.Addr{netip.MustParseAddr(address)}, nil
		}
		p.Dial = func(_ context.Context, _, to string) (net.Conn, error) {
			t.Errorf("%s: connected to %s", text, to)
			return nil, errors.New("refused")
		}
		report, err := run(p, tokens())
		var guard *probe.GuardError
		if !errors.As(err, &guard) || report.Requests != 0 {
			t.Errorf("%s at %s: %v %+v", text, address, err, report)
		}
	}
}

// The address that was checked is the one that is connected to, whatever the name leads to afterwards.
func TestNameThatChanges(t *testing.T) {
	t.Parallel()
	v := newVerifier("")
	p := remote(t, agreeing("file", v))
	p.Consent.Origin = "https://example.com"
	asked := 0
	p.Resolve = func(context.Context, string) ([]netip.Addr, error) {
		if asked++; asked > 1 {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		}
		return []netip.Addr{at}, nil
	}
	report, err := run(p, tokens())
	if err != nil || !report.OK() || asked != 1 {
		t.Errorf("%v %+v, asked %d times", err, report, asked)
	}
}

// Redirects are not followed: a token goes nowhere else.
func TestRedirects(t *testing.T) {
	t.Parallel()
	var stolen atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { stolen.Add(1) }))
	t.Cleanup(elsewhere.Close)
	report := mustRun(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.WriteHeader(401)
			return
		}
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	}), nil)
	if stolen.Load() != 0 || report.OK() {
		t.Errorf("%d requests elsewhere: %+v", stolen.Load(), report)
	}
}

// At most 80 requests are sent, at most two a second, without a body.
func TestTraffic(t *testing.T) {
	t.Parallel()
	if probe.Pause != 500*time.Millisecond || probe.MaxRequests != 80 {
		t.Error("the limits have changed")
	}
	var mu sync.Mutex
	var times []time.Time
	v := newVerifier("")
	report := mustRun(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		times = append(times, time.Now())
		mu.Unlock()
		if r.Method != http.MethodGet || r.ContentLength != 0 {
			t.Errorf("%s with %d bytes", r.Method, r.ContentLength)
		}
		v.ServeHTTP(w, r)
	}), func(p *probe.Plan, k *probe.Tokens) {
		p.Pause = 5 * time.Millisecond
		p.Revocation = true
		p.Limit = 500 * time.Millisecond // of the wait for a refusal: it uses up all requests
		k.Login = func(context.Context) (probe.Session, error) { return probe.Session{ID: "alive"}, nil }
		k.End = func(context.Context, probe.Session) error { return nil }
	})
	if len(times) > probe.MaxRequests || len(times) < 45 || report.Requests != len(times) {
		t.Errorf("%d requests, %d reported", len(times), report.Requests)
	}
	for i := 1; i < len(times); i++ {
		if gap := times[i].Sub(times[i-1]); gap < time.Millisecond { // the server sees them later, by turns
			t.Errorf("request %d came %v after the one before", i, gap)
		}
	}
	if r := report.Revocation; r == nil || r.Refused {
		t.Errorf("%+v", r)
	}
}

// What an API answers that is not HTTP gets into no report, and neither does a token.
func TestAnswersThatAreNotHTTP(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				text := make([]byte, 4096)
				n, _ := conn.Read(text)
				conn.Write(append([]byte("HTTP/1.1 401 no\r\n\x1b[2J "), text[:n]...))
			}()
		}
	}()
	report, err := run(plan("http://"+listener.Addr().String()), tokens())
	if err != nil || report.Stopped != "the API gives no answer: no answer that is HTTP" {
		t.Errorf("%v %q", err, report.Stopped)
	}
}

// A refusal shortly before the token expires is not taken for one of the ended login.
func TestExpiryIsNoRevocation(t *testing.T) {
	t.Parallel()
	v := newVerifier("")
	begun := time.Now()
	report := mustRun(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if time.Since(begun) > 2*time.Second { // as if the token had expired
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		v.ServeHTTP(w, r)
	}), func(p *probe.Plan, k *probe.Tokens) {
		p.Revocation, p.Limit = true, time.Millisecond
		k.Login = func(context.Context) (probe.Session, error) { return probe.Session{ID: "alive"}, nil }
		k.End = func(context.Context, probe.Session) error { return nil }
	})
	if r := report.Revocation; r == nil || r.Refused {
		t.Errorf("%+v", r)
	}
}
