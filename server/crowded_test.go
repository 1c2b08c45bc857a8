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

	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// crowded is a replica that trusts its proxy and has so many hash slots.
func crowded(t *testing.T, slots int, test func(t *testing.T, h *harness)) {
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		c := testConfig(databaseURL)
		c.TrustedProxy = List{"127.0.0.0/8"}
		c.PasswordHashSlots = slots
		c.PasswordHashWait = Duration(maxHashWait) // on a machine that does other things as well
		h := open(t, c, nil)
		h.provision()
		test(t, h)
	})
}

// Thirty right logins of one account come at the same moment, at two replicas. All are let in, though the limit is ten.
func TestRightPasswordsAtOnce(t *testing.T) {
	crowded(t, 16, func(t *testing.T, h *harness) {
		replicas := []*harness{h, open(t, h.config, h.clock)}
		var all sync.WaitGroup
		for i := range 30 {
			all.Go(func() {
				if r := replicas[i%2].loginFrom("203.0.113.9", "alice", password); r.status != http.StatusOK {
					t.Errorf("%d %s", r.status, r.body)
				}
			})
		}
		all.Wait()
		for _, r := range replicas {
			if n := len(r.server.throttle.flights); n != 0 {
				t.Errorf("%d buckets are still being judged", n)
			}
		}
	})
}

// An address that is throttled keeps asking. It gets no hash slot, so that others are not kept waiting.
func TestThrottledTakesNoSlot(t *testing.T) {
	crowded(t, 1, func(t *testing.T, h *harness) {
		must(h.admin.CreateUser(ctx, "bob", password, nil))
		for range 11 {
			h.loginFrom("203.0.113.66", "alice", "wrong")
		}
		judged := judgedIn(h)
		var all sync.WaitGroup
		var stopped atomic.Bool
		var refused atomic.Int64
		for range 40 {
			all.Go(func() {
				for !stopped.Load() {
					if r := h.loginFrom("203.0.113.66", "alice", "wrong"); r.code(t) == "invalid_grant" {
						refused.Add(1)
					}
				}
			})
		}
		for i := range 10 {
			if r := h.loginFrom(fmt.Sprintf("198.51.100.%d", i), "bob", password); r.status != http.StatusOK {
				t.Errorf("bob is kept out: %d %s", r.status, r.body)
			}
		}
		stopped.Store(true)
		all.Wait()
		if refused.Load() == 0 || judgedIn(h) != judged {
			t.Errorf("%d were refused, %d judged", refused.Load(), judgedIn(h)-judged)
		}
		if l := h.server.hasher.queue.Load(); l.Running != 0 || l.Waiting != 0 {
			t.Errorf("%+v", l)
		}
	})
}

// Many logins come at once to one slot. Each waits for its turn rather than be refused; one that could not be served in
// time is told so at once, and when to come again.
func TestLoginsWaitForTheirTurn(t *testing.T) {
	crowded(t, 1, func(t *testing.T, h *harness) {
		var all sync.WaitGroup
		for i := range 16 {
			must(h.admin.CreateUser(ctx, fmt.Sprintf("user%d", i), password, nil))
		}
		for i := range 16 {
			all.Go(func() {
				if r := h.loginFrom("203.0.113.7", fmt.Sprintf("user%d", i), password); r.status != http.StatusOK {
					t.Errorf("%d %s", r.status, r.body)
				}
			})
		}
		all.Wait()
		hold := must(h.server.hasher.acquire(ctx, mustAddr("192.0.2.1"), time.Minute))
		h.server.hasher.queue.Expect(time.Minute)
		if r := h.loginFrom("203.0.113.7", "alice", password); r.status != 503 || r.header.Get("Retry-After") != "41" {
			t.Errorf("%d %s, after %s s", r.status, r.body, r.header.Get("Retry-After"))
		}
		hold()
	})
}

// An address that is used every day stays familiar, however long ago it was first seen; it costs one write a day.
func TestFamiliarityIsRenewed(t *testing.T) {
	crowded(t, 1, func(t *testing.T, h *harness) {
		k := loginKey("alice", "app", mustAddr("192.0.2.1"))
		seen := func() storage.LoginView { return must(h.server.db.LoginView(ctx, k)) }
		h.loginFrom("192.0.2.1", "alice", password).tokens(t)
		first := seen().SeenAt
		h.step(time.Hour)
		h.loginFrom("192.0.2.1", "alice", password).tokens(t)
		if at := seen().SeenAt; !at.Equal(first) {
			t.Errorf("written again after an hour: %v", at)
		}
		for range 13 { // weeks
			h.step(7 * 24 * time.Hour)
			must(0, h.server.cleanUpOnce(ctx))
			h.loginFrom("192.0.2.1", "alice", password).tokens(t)
		}
		must(0, h.server.cleanUpOnce(ctx))
		if !seen().Familiar {
			t.Error("an address that is used every week is forgotten")
		}
	})
}

// A client that went away before its login was judged gets no grant, and one that guessed is counted all the same.
func TestNoGrantForTheGone(t *testing.T) {
	crowded(t, 1, func(t *testing.T, h *harness) {
		hold := must(h.server.hasher.acquire(ctx, mustAddr("192.0.2.1"), time.Minute))
		r := must(http.NewRequest(http.MethodPost, h.base+"/token", strings.NewReader(
			"grant_type=password&username=alice&password="+strings.ReplaceAll(password, " ", "+"))))
		r.Header.Set("Content-Type", formMediaType)
		r.Header.Set("Authorization", basic("app", secret))
		client := &http.Client{Timeout: 50 * time.Millisecond}
		if _, err := client.Do(r); err == nil {
			t.Fatal("answered without a slot")
		}
		waitFor(t, time.Now(), func() bool { return h.server.hasher.queue.Load().Waiting == 0 })
		hold()
		waitFor(t, time.Now(), func() bool { return strings.Contains(h.log.String(), `"outcome":"canceled"`) })
		if grants := must(h.admin.Grants(ctx, "", "")); len(grants) != 0 {
			t.Errorf("%d grants", len(grants))
		}
		if strings.Contains(h.log.String(), `"level":"ERROR"`) {
			t.Error("a client that went away is an error")
		}
	})
}

func mustAddr(text string) netip.Addr { return netip.MustParseAddr(text) }
