package server

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// LoginFrom logs in as a request from the address given would, through a trusted proxy.
func (h *Harness) LoginFrom(address, username, password string) Reply {
	h.T.Helper()
	body := "grant_type=password&username=" + username + "&password=" + strings.ReplaceAll(password, " ", "+")
	r := Must(http.NewRequest(http.MethodPost, h.Base+"/token", strings.NewReader(body)))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Authorization", Basic("app", secret))
	r.Header.Set("X-Forwarded-For", "198.51.100.9, "+address)
	return h.Send(r)
}

// eachThrottled runs a test on a replica that trusts its proxy.
func eachThrottled(t *testing.T, test func(t *testing.T, h *Harness)) {
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		c := HashingConfig(databaseURL)
		c.TrustedProxies = config.List{"127.0.0.0/8"}
		c.PasswordHashSlots = 4
		h := OpenHarness(t, c, nil)
		h.Provision()
		test(t, h)
	})
}

// Strangers who guess are throttled; the owner, from where she has logged in before, is not.
func TestThrottleSparesTheOwner(t *testing.T) {
	t.Parallel()
	eachThrottled(t, func(t *testing.T, h *Harness) {
		h.LoginFrom("192.0.2.1", "alice", password).Tokens(t)
		for i := range 30 {
			if r := h.LoginFrom(fmt.Sprintf("203.0.113.%d", i), "Alice", "wrong"); r.Code(t) != "invalid_grant" {
				t.Fatal(r.Body)
			}
		}
		throttled := h.LoginFrom("203.0.113.200", "alice", password)
		wrong := h.LoginFrom("203.0.113.200", "alice", "wrong")
		if throttled.Body != wrong.Body || throttled.Status != wrong.Status {
			t.Errorf("throttled: %d %s, wrong: %d %s", throttled.Status, throttled.Body, wrong.Status, wrong.Body)
		}
		h.LoginFrom("192.0.2.1", "alice", password).Tokens(t)
		h.LoginFrom("203.0.113.201", "alice", password).Tokens(t) // her login has lifted the throttle
	})
}

// A limit of ten is ten, however many guesses arrive at once over two replicas.
func TestParallelGuesses(t *testing.T) {
	t.Parallel()
	eachThrottled(t, func(t *testing.T, h *Harness) {
		replica := OpenHarness(t, h.Config, h.Clock)
		before := strings.Count(h.Log.String()+replica.Log.String(), `"reason":"wrong password"`)
		var guesses sync.WaitGroup
		var busy atomic.Int64
		for i := range 200 {
			guesses.Go(func() {
				r := []*Harness{h, replica}[i%2].LoginFrom("203.0.113.1", "alice", "wrong")
				if r.Status == http.StatusServiceUnavailable {
					busy.Add(1)
				} else if r.Status != http.StatusBadRequest {
					t.Errorf("%d %s", r.Status, r.Body)
				}
			})
		}
		guesses.Wait()
		judged := strings.Count(h.Log.String()+replica.Log.String(), `"reason":"wrong password"`) - before
		// One replica may judge one guess before it knows of the other's.
		if judged > 11 || judged == 0 {
			t.Errorf("%d guesses were judged, %d were refused as busy", judged, busy.Load())
		}
		h.Step(time.Minute)
		if r := h.LoginFrom("203.0.113.2", "alice", password); busy.Load() < 180 && r.Status != 400 {
			t.Errorf("not throttled: %d", r.Status)
		}
		h.Step(3 * time.Hour)
		h.LoginFrom("203.0.113.2", "alice", password).Tokens(t)
	})
}

// The delay grows. After a hundred failures in a row, logins from new addresses are refused until the password changes.
func TestThrottleGrowsAndEnds(t *testing.T) {
	t.Parallel()
	eachThrottled(t, func(t *testing.T, h *Harness) {
		k := storage.NewLoginKey("alice", "app", netip.MustParseAddr("203.0.113.1"))
		for range 10 {
			h.LoginFrom("203.0.113.1", "alice", "wrong")
		}
		h.Step(15*time.Minute - time.Second)
		if h.LoginFrom("203.0.113.1", "alice", password).Status != 400 {
			t.Error("judged within the window")
		}
		h.Step(time.Second)
		h.LoginFrom("203.0.113.1", "alice", "wrong") // the one guess of this window
		h.Step(29 * time.Minute)
		if h.LoginFrom("203.0.113.1", "alice", password).Status != 400 {
			t.Error("the delay does not grow")
		}
		for range storage.MaxConsecutive {
			h.fails(k)
		}
		h.Step(24 * time.Hour)
		if h.LoginFrom("203.0.113.1", "alice", password).Status != 400 {
			t.Error("judged after a hundred failures in a row")
		}
		Must(0, h.Admin.Users().SetPassword(ctx, "alice", password))
		h.LoginFrom("203.0.113.1", "alice", password).Tokens(t)
	})
}

func TestForgedForwardedForDoesNotCount(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) { // no proxy is trusted here
		for i := range 12 {
			h.LoginFrom(fmt.Sprintf("203.0.113.%d", i), "alice", "wrong")
		}
		if h.LoginFrom("203.0.113.99", "alice", password).Status != 400 {
			t.Error("a forged address gives a new rate limit")
		}
	})
}

// Whoever keeps failing is told to wait, as a client at an address and as an address. Right credentials are never
// refused for it.
func TestClientsThatKeepFailing(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		try := func(id, secret string) Reply {
			r := Must(http.NewRequest(http.MethodPost, h.Base+"/introspect", strings.NewReader("token=x")))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Authorization", Basic(id, secret))
			return h.Send(r)
		}
		for range 30 {
			if r := try("app", "wrong"); r.Status != 401 {
				t.Fatal(r.Status, r.Body)
			}
		}
		if r := try("app", "wrong"); r.Status != 429 || r.Header.Get("Retry-After") == "" {
			t.Errorf("%d %s", r.Status, r.Body)
		}
		for i := range 300 { // of clients that there are not, from the same address
			try(fmt.Sprintf("invented%d", i), "wrong")
		}
		if r := try("rs2", "wrong"); r.Status != 429 {
			t.Errorf("the address goes on: %d %s", r.Status, r.Body)
		}
		for _, id := range []string{"app", "rs"} {
			if r := try(id, secret); r.Status != 200 {
				t.Errorf("%s is refused for what others did: %d %s", id, r.Status, r.Body)
			}
		}
		h.Step(20 * time.Minute)
		if r := try("app", "wrong"); r.Status != 401 {
			t.Errorf("the rate limit does not recover: %d %s", r.Status, r.Body)
		}
	})
}

func TestScanOfIntrospection(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		tokens := h.Login("app")
		refused := 0
		for i := range 300 {
			switch r := h.Post("/introspect", "rs", "token", fmt.Sprintf("guess%d", i)); r.Status {
			case 429:
				refused++
			case 200:
			default:
				t.Fatal(r.Status, r.Body)
			}
		}
		if refused != 300-unknownTokens {
			t.Errorf("%d refused", refused)
		}
		if !h.Active("rs", tokens.AccessToken) || h.Post("/introspect", "rs2", "token", "guess").Status != 200 {
			t.Error("others, or honest questions, suffer")
		}
	})
}

func TestHeaderAndBodyBounds(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	head := "POST /token HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" +
		"Content-Type: application/x-www-form-urlencoded\r\n"
	large := h.RawExchange(head + "X-Large: " + strings.Repeat("x", maxHeader) + "\r\nContent-Length: 0\r\n\r\n")
	if !strings.HasPrefix(large, "HTTP/1.1 431 ") {
		t.Errorf("%.40q", large)
	}
	if fits := h.RawExchange(head + "X-Large: " + strings.Repeat("x", maxHeader-1024) +
		"\r\nContent-Length: 0\r\n\r\n"); !strings.HasPrefix(
		fits,
		"HTTP/1.1 401 ",
	) {
		t.Errorf("%.40q", fits)
	}
	// The announced body never comes: the answer must not wait for it.
	if early := h.RawExchange(head + "Content-Length: 100000000\r\n\r\n"); !strings.HasPrefix(early, "HTTP/1.1 413 ") {
		t.Errorf("%.40q", early)
	}
	chunk := fmt.Sprintf("%x\r\n%s\r\n", 32<<10, strings.Repeat("x", 32<<10))
	if chunked := h.RawExchange(head + "Transfer-Encoding: chunked\r\n\r\n" + chunk + chunk + chunk +
		"0\r\n\r\n"); !strings.HasPrefix(
		chunked,
		"HTTP/1.1 413 ",
	) {
		t.Errorf("%.40q", chunked)
	}
}

func TestCORS(t *testing.T) {
	t.Parallel()
	c := ConfigFor(SQLiteURL(t))
	c.CORSOrigins = config.List{"https://app.example"}
	h := OpenHarness(t, c, nil)
	call := func(method, path, origin string) http.Header {
		r := Must(http.NewRequest(method, h.Base+path, nil))
		r.Header.Set("Origin", origin)
		if method == http.MethodOptions {
			r.Header.Set("Access-Control-Request-Method", "POST")
		}
		return h.Send(r).Header
	}
	for _, path := range []string{"/token", "/revoke"} {
		for _, method := range []string{http.MethodPost, http.MethodOptions} {
			got := call(method, path, "https://app.example").Get("Access-Control-Allow-Origin")
			if got != "https://app.example" {
				t.Errorf("%s %s: %q", method, path, got)
			}
			for _, origin := range []string{
				"https://app.example.evil", "https://APP.example", "null", "http://app.example",
			} {
				if got := call(method, path, origin).Get("Access-Control-Allow-Origin"); got != "" {
					t.Errorf("%s %s from %s: %q", method, path, origin, got)
				}
			}
		}
		if call(http.MethodPost, path, "https://x.example").Get("Vary") != "Origin" {
			t.Error("no Vary")
		}
	}
	if h := call(http.MethodPost, "/introspect", "https://app.example"); h.Get("Access-Control-Allow-Origin") != "" {
		t.Error("/introspect allows an origin")
	}
	for _, path := range []string{"/.well-known/jwks.json", "/.well-known/oauth-authorization-server"} {
		if h := call(http.MethodGet, path, "https://x.example"); h.Get("Access-Control-Allow-Origin") != "*" ||
			h.Get("Access-Control-Allow-Credentials") != "" {
			t.Error(path, h)
		}
	}
}

func TestJWKSCaching(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	first := h.Get("/.well-known/jwks.json")
	if first.Header.Get("Cache-Control") != "public, max-age=300" ||
		first.Header.Get("Content-Type") != "application/jwk-set+json" {
		t.Error(first.Header)
	}
	r := Must(http.NewRequest(http.MethodGet, h.Base+"/.well-known/jwks.json", nil))
	r.Header.Set("If-None-Match", `"else", W/`+first.Header.Get("ETag"))
	if again := h.Send(r); again.Status != http.StatusNotModified || again.Body != "" {
		t.Error(again.Status)
	}
	head := h.Send(Must(http.NewRequest(http.MethodHead, h.Base+"/.well-known/jwks.json", nil)))
	if head.Status != 200 || head.Body != "" || head.Header.Get("ETag") != first.Header.Get("ETag") ||
		head.Header.Get("Content-Length") == "" {
		t.Error(head)
	}
}

// fails counts a failed login of an account at an unfamiliar address.
func (h *Harness) fails(k storage.LoginKey) {
	h.T.Helper()
	account := storage.Bucket{Name: k.AccountBucket, Account: k.AccountBucket}
	Must(0, h.Server.db.Throttle().AddFailures(ctx, []storage.Bucket{account}, h.Clock.Now()))
}
