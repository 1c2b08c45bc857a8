package server

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/server/servertest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// judgedIn is how many guesses were compared with a password, by the log.
func judgedIn(h *Harness) int { return strings.Count(h.Log.String(), `"reason":"wrong password"`) }

// Credential stuffing and password spraying, from one address and from two thousand. Each account and each address has
// a limit. A guess beyond it looks the same and is not judged. Neither another replica nor a restart gives a new limit.
func TestGuessing(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		c := ConfigFor(databaseURL)
		c.TrustedProxies = config.List{"127.0.0.0/8"}
		if strings.HasPrefix(databaseURL, "postgres") {
			c.MasterKeyFile = MasterFile(t)
		}
		h := OpenHarness(t, c, nil)
		h.Provision()
		for i := range 20 {
			Must(h.Admin.Users().Create(ctx, fmt.Sprintf("user%d", i), password, nil))
		}
		h.LoginFrom("192.0.2.1", "alice", password).Tokens(t)

		// One account, from 2 000 addresses, in many spellings.
		spellings := []string{"alice", "Alice", "ALICE", "aLiCe", "ａｌｉｃｅ"}
		for i := range servertest.Times(200, 2000) {
			h.loginFromEach(i, spellings[i%len(spellings)])
		}
		if n := judgedIn(h); n != 10 {
			t.Errorf("%d guesses at one account were judged, not 10", n)
		}
		// Many accounts, from one address.
		for i := range 200 {
			h.LoginFrom("203.0.113.77", fmt.Sprintf("user%d", i%20), "wrong")
		}
		if n := judgedIn(h) - 10; n != 100 {
			t.Errorf("%d guesses from one address were judged, not 100", n)
		}
		// Elsewhere, and after a restart, the counts are the same.
		again := OpenHarness(t, c, h.Clock)
		for i := range 20 {
			again.LoginFrom("203.0.113.77", fmt.Sprintf("user%d", i), "wrong")
			again.loginFromEach(5000+i, "alice")
		}
		if n := judgedIn(again); n != 0 {
			t.Errorf("%d guesses were judged by another replica", n)
		}
		// The owner, from where she has logged in before, is not locked out, whatever strangers do.
		k := storage.NewLoginKey("alice", "app", subscriber(peerAddress(&http.Request{RemoteAddr: "203.0.113.1:1"})))
		for range 200 {
			h.fails(k)
		}
		failed := 0
		for i := range 50 {
			h.loginFromEach(i, "alice")
			if h.LoginFrom("192.0.2.1", "alice", password).Status != http.StatusOK {
				failed++
			}
		}
		if failed > 0 {
			t.Errorf("the owner was refused %d times in 50", failed)
		}
	})
}

// loginFromEach guesses from the i-th of many addresses.
func (h *Harness) loginFromEach(i int, name string) {
	r := h.LoginFrom(fmt.Sprintf("2001:db8:%x:%x::1", i/100, i), url.QueryEscape(name), "wrong")
	if r.Code(h.T) != "invalid_grant" {
		h.T.Fatal(r.Status, r.Body)
	}
}

// Whether the account is throttled, unknown, disabled, without a password or another's: the answer is the same, and so
// is the work.
func TestFailedLoginsAreAlike(t *testing.T) {
	eachThrottled(t, func(t *testing.T, h *Harness) {
		Must(h.Admin.Users().Create(ctx, "gone", password, nil))
		Must(0, h.Admin.Users().Disable(ctx, "gone"))
		Must(h.Admin.Users().Create(ctx, "throttled", password, nil))
		for i := range 11 {
			h.LoginFrom(fmt.Sprintf("203.0.113.%d", i), "throttled", "wrong")
		}
		took := map[string][]time.Duration{}
		for range 5 { // on a busy machine it takes more samples
			h.failLogins(took)
			if alike(took) {
				return
			}
		}
		for name := range took {
			t.Errorf("%s takes %v", name, median(took[name]))
		}
	})
}

// failLogins lets logins fail for each reason, holds their answers to be the same, and takes their time.
func (h *Harness) failLogins(took map[string][]time.Duration) {
	h.T.Helper()
	var first Reply
	for i := range 15 {
		for _, name := range []string{"alice", "nobody", "gone", "throttled"} {
			began := time.Now()
			r := h.LoginFrom(fmt.Sprintf("2001:db8:%x::1", 100+i), name, "wrong"+name)
			took[name] = append(took[name], time.Since(began))
			r.Header.Del("Date")
			r.Header.Del("X-Request-Id")
			if first.Body == "" {
				first = r
			}
			if r.Status != first.Status || r.Body != first.Body || fmt.Sprint(r.Header) != fmt.Sprint(first.Header) {
				h.T.Fatalf("%s: %d %s %v", name, r.Status, r.Body, r.Header)
			}
		}
		Must(0, h.Admin.Users().SetPassword(ctx, "alice", password)) // she is not to be throttled
	}
}

// alike reports whether the medians are within a factor of two of the one of a wrong password.
func alike(took map[string][]time.Duration) bool {
	for name := range took {
		if ratio := float64(median(took[name])) / float64(median(took["alice"])); ratio < 0.5 || ratio > 2 {
			return false
		}
	}
	return true
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// What replicas remember of clients and addresses is bounded, however many there are.
func TestBudgetsAreBounded(t *testing.T) {
	t.Parallel()
	b := newRateLimits(30, time.Minute)
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			for i := range 30_000 {
				b.spend(fmt.Sprint(w, "-", i), noon)
			}
		})
	}
	all.Wait()
	if n := len(b.young) + len(b.old); n > 2*maxRateLimits {
		t.Errorf("%d rate limits", n)
	}
	if key := pairKey(strings.Repeat("x", 60_000), "192.0.2.1"); len(key) > 256 {
		t.Errorf("a key of %d bytes", len(key))
	}
}
