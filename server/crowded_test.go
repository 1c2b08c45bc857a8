package server

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/passwords"
	"github.com/keyturn/keyturn/queue"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// crowded is a replica that trusts its proxy and has so many hash slots.
func crowded(t *testing.T, slots int, test func(t *testing.T, h *Harness)) {
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		c := HashingConfig(databaseURL)
		c.TrustedProxies = config.List{"127.0.0.0/8"}
		c.PasswordHashSlots = slots
		c.PasswordHashWait = config.MaxHashWait // on a machine that does other things as well
		h := OpenHarness(t, c, nil)
		h.Provision()
		test(t, h)
	})
}

// Thirty right logins of one account come at the same moment, at two replicas. All are let in, though the limit is ten.
func TestRightPasswordsAtOnce(t *testing.T) {
	t.Parallel()
	crowded(t, 16, func(t *testing.T, h *Harness) {
		replicas := []*Harness{h, OpenHarness(t, h.Config, h.Clock)}
		var all sync.WaitGroup
		for i := range 30 {
			all.Go(func() {
				if r := replicas[i%2].LoginFrom("203.0.113.9", "alice", password); r.Status != http.StatusOK {
					t.Errorf("%d %s", r.Status, r.Body)
				}
			})
		}
		all.Wait()
		for _, r := range replicas {
			if n := len(r.Server.throttle.flights); n != 0 {
				t.Errorf("%d buckets are still being judged", n)
			}
		}
	})
}

// An address that is throttled keeps asking. It gets no hash slot, so that others are not kept waiting.
func TestThrottledTakesNoSlot(t *testing.T) {
	crowded(t, 1, func(t *testing.T, h *Harness) {
		Must(h.Admin.Users().Create(ctx, "bob", password, nil))
		for range 11 {
			h.LoginFrom("203.0.113.66", "alice", "wrong")
		}
		var hashed atomic.Int64
		h.Server.hasher.Took = func(time.Duration) { hashed.Add(1) }
		hold := Must(h.Server.hasher.Acquire(ctx, mustAddr("192.0.2.1"), time.Minute))
		if r := h.LoginFrom("203.0.113.66", "alice", "wrong"); r.Code(t) != "invalid_grant" {
			t.Errorf("a throttled login waits for a slot: %d %s", r.Status, r.Body)
		}
		hold()
		var all sync.WaitGroup
		var stopped atomic.Bool
		var refused atomic.Int64
		for range 40 {
			all.Go(func() {
				for !stopped.Load() {
					if r := h.LoginFrom("203.0.113.66", "alice", "wrong"); r.Code(t) == "invalid_grant" {
						refused.Add(1)
					}
				}
			})
		}
		for i := range 10 {
			if r := h.LoginFrom(fmt.Sprintf("198.51.100.%d", i), "bob", password); r.Status != http.StatusOK {
				t.Errorf("bob is kept out: %d %s", r.Status, r.Body)
			}
		}
		stopped.Store(true)
		all.Wait()
		if refused.Load() == 0 || hashed.Load() != 10 { // those of bob
			t.Errorf("%d were refused, %d passwords hashed", refused.Load(), hashed.Load())
		}
		if l := h.Server.hasher.Load(); l.Running != 0 || l.Waiting != 0 {
			t.Errorf("%+v", l)
		}
	})
}

// Many logins come at once to one slot. Each waits for its turn rather than be refused; one that could not be served in
// time is told so at once, and when to come again.
func TestLoginsWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	crowded(t, 1, func(t *testing.T, h *Harness) {
		var all sync.WaitGroup
		for i := range 16 {
			Must(h.Admin.Users().Create(ctx, fmt.Sprintf("user%d", i), password, nil))
		}
		for i := range 16 {
			all.Go(func() {
				if r := h.LoginFrom("203.0.113.7", fmt.Sprintf("user%d", i), password); r.Status != http.StatusOK {
					t.Errorf("%d %s", r.Status, r.Body)
				}
			})
		}
		all.Wait()
		hold := Must(h.Server.hasher.Acquire(ctx, mustAddr("192.0.2.1"), time.Minute))
		h.Server.hasher.Expect(time.Minute)
		r := h.LoginFrom("203.0.113.7", "alice", password)
		if after := Must(strconv.Atoi(r.Header.Get("Retry-After"))); r.Status != 503 || after < 40 || after > 50 {
			t.Errorf("%d %s, after %d s", r.Status, r.Body, after)
		}
		hold()
	})
}

// Slots go to the addresses in turn. An IPv6 network of /56 is one.
func TestAddressesTakeTurns(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, HashingConfig(SQLiteURL(t)), nil)
	hashing := passwords.NewHasher(passwords.NewPolicy(int64(h.Config.PasswordHashMemory)), 1)
	hold := Must(hashing.Acquire(ctx, mustAddr("192.0.2.1"), time.Minute))
	order := make(chan string, 4)
	var all sync.WaitGroup
	for i, from := range []string{"2001:db8:0:100::1", "2001:db8:0:1ff::2", "2001:db8:0:1aa::3", "2001:db8:0:200::4"} {
		all.Go(func() {
			release := Must(hashing.Acquire(ctx, mustAddr(from), time.Minute))
			order <- from
			release()
		})
		waitFor(t, time.Now(), func() bool { return hashing.Load().Waiting == i+1 })
	}
	hold()
	all.Wait()
	<-order
	if second := <-order; second != "2001:db8:0:200::4" {
		t.Errorf("one network has the slot twice while another waits: %s", second)
	}
}

// An address that is used every day stays familiar, however long ago it was first seen; it costs one write a day.
func TestFamiliarityIsRenewed(t *testing.T) {
	t.Parallel()
	crowded(t, 1, func(t *testing.T, h *Harness) {
		k := storage.NewLoginKey("alice", "app", mustAddr("192.0.2.1"))
		seen := func() storage.LoginView { return Must(h.Server.db.Users().LoginView(ctx, k)) }
		h.LoginFrom("192.0.2.1", "alice", password).Tokens(t)
		first := seen().SeenAt
		h.Step(time.Hour)
		h.LoginFrom("192.0.2.1", "alice", password).Tokens(t)
		if at := seen().SeenAt; !at.Equal(first) {
			t.Errorf("written again after an hour: %v", at)
		}
		for range 13 { // weeks
			h.Step(7 * 24 * time.Hour)
			Must(0, h.Server.cleanUpOnce(ctx))
			h.LoginFrom("192.0.2.1", "alice", password).Tokens(t)
		}
		Must(0, h.Server.cleanUpOnce(ctx))
		if !seen().Familiar {
			t.Error("an address that is used every week is forgotten")
		}
	})
}

// gone sends a login and gives up when the server has come to a moment.
func (h *Harness) gone(password string, when func() bool) {
	h.T.Helper()
	form := url.Values{"grant_type": {"password"}, "username": {"alice"}, "password": {password}}
	leaving, leave := context.WithCancel(ctx)
	r := Must(http.NewRequestWithContext(leaving, http.MethodPost, h.Base+"/token", strings.NewReader(form.Encode())))
	r.Header.Set("Content-Type", formMediaType)
	r.Header.Set("Authorization", Basic("app", secret))
	ended := make(chan error)
	go func() {
		_, err := noRedirect.Do(r)
		ended <- err
	}()
	waitFor(h.T, time.Now(), when)
	leave()
	if err := <-ended; err == nil {
		h.T.Fatal("answered")
	}
}

// A client that goes away before its grant is made gets none, wherever it waits; one that has guessed is counted all
// the same.
func TestNoGrantForTheGone(t *testing.T) {
	t.Parallel()
	crowded(t, 1, func(t *testing.T, h *Harness) {
		canceled := func() int { return strings.Count(h.Log.String(), `"outcome":"canceled"`) }
		settled := func(n int) { waitFor(t, time.Now(), func() bool { return canceled() == n }) }

		hold := Must(h.Server.hasher.Acquire(ctx, mustAddr("192.0.2.1"), time.Minute)) // it waits for a slot
		h.gone(password, func() bool { return h.Server.hasher.Load().Waiting == 1 })
		settled(1)
		hold()

		var hashing, proceed = make(chan struct{}), make(chan struct{}) // it goes while its password is hashed
		h.Server.hasher.Took = func(time.Duration) { close(hashing); <-proceed }
		reached := func() bool {
			select {
			case <-hashing:
				return true
			default:
				return false
			}
		}
		h.gone(password, reached)
		time.Sleep(20 * time.Millisecond) // net/http learns that it has gone
		close(proceed)
		settled(2)

		hashing, proceed = make(chan struct{}), make(chan struct{}) // the same with a wrong password
		h.gone("wrong", reached)
		close(proceed)
		waitFor(t, time.Now(), func() bool { return judgedIn(h) == 1 })
		h.Server.hasher.Took = nil

		var releases []func() // it waits to be admitted to sign
		for range h.Server.ring.Admissions() {
			releases = append(releases, Must(h.Server.ring.Admit(ctx)))
		}
		h.gone(password, func() bool { return h.Server.ring.Admitted().Waiting == 1 })
		settled(3)
		for _, release := range releases {
			release()
		}

		if grants := Must(AllGrants(h.Admin, "", "")); len(grants) != 0 {
			t.Errorf("%d grants", len(grants))
		}
		if strings.Contains(h.Log.String(), `"level":"ERROR"`) {
			t.Error("a client that went away is an error")
		}
		h.Login("app") // nobody holds anything
	})
}

// However often a client tries while its refreshes wait in vain, the first is not forgotten; after a pause longer than
// the window it is.
func TestUnansweredChain(t *testing.T) {
	t.Parallel()
	u, window := newUnanswered(), 10*time.Second
	rotated := noon.Add(time.Second)
	epoch, ends := int64(0), storage.At(noon.Add(time.Hour))
	state := storage.GrantState{UserEpochNow: &epoch, ClientEpochNow: &epoch, Grant: storage.Grant{
		ClientID:      "app",
		FamilyHash:    "f",
		Generation:    1,
		RotatedAt:     storage.At(rotated),
		ExpiresAt:     ends,
		IdleExpiresAt: ends,
	}}
	judge := func(at time.Time) storage.RefreshOutcome {
		r := storage.Refresh{
			Caller:      storage.Caller{ID: "app"},
			FamilyHash:  "f",
			RetryWindow: window,
			Outages:     u.of(7),
			Arrived:     at,
		}
		return r.Classify(state, at)
	}
	at := rotated
	for i := range 50 {
		at = at.Add(time.Second)
		u.note(7, at, at.Add(4*time.Second), window)
		at = at.Add(4 * time.Second)
		if got := judge(at.Add(window - time.Second)); got != storage.RefreshRetry {
			t.Fatalf("after %d waits: %s", i+1, got)
		}
	}
	if got := judge(at.Add(window + time.Second)); got != storage.RefreshReuse {
		t.Errorf("after a pause: %s", got)
	}
	u, at = newUnanswered(), rotated
	for ; at.Before(rotated.Add(maxUnansweredFor)); at = at.Add(window) {
		u.note(7, at, at.Add(time.Second), window)
	}
	u.note(7, at, at.Add(time.Hour), window)
	if got := judge(at.Add(2 * window)); got != storage.RefreshReuse {
		t.Errorf("kept open for ever: %s", got)
	}
	late := newUnanswered()
	late.note(7, rotated.Add(window+time.Second), rotated.Add(window+5*time.Second), window)
	u = late
	if got := judge(rotated.Add(window + 6*time.Second)); got != storage.RefreshReuse {
		t.Errorf("a wait that began after the window opens it again: %s", got)
	}
}

// A client that obeys Retry-After still gets the answer that it lost before.
func TestToldToComeAgain(t *testing.T) {
	t.Parallel()
	refusals := map[string]error{
		"a queue":      &queue.BusyError{RetryAfter: 25 * time.Second},
		"a short one":  &queue.BusyError{RetryAfter: 5 * time.Millisecond},
		"the database": fmt.Errorf("refresh: %w", storage.ErrUnavailable),
		"the keys":     fmt.Errorf("%w: read long ago", keys.ErrStale),
	}
	for name, refusal := range refusals {
		t.Run(name, func(t *testing.T) {
			crowded(t, 1, func(t *testing.T, h *Harness) { h.comesAgain(refusal) })
		})
	}
}

// comesAgain refreshes and repeats that, as it is told, until it is answered.
func (h *Harness) comesAgain(refusal error) {
	refused := post(
		h.Server,
		readTokenForm,
		func(context.Context, *request, tokenForm) (any, error) { return nil, refusal },
	)
	first := h.Login("app")
	lost := h.Refresh("app", first.RefreshToken).Tokens(h.T)
	for range 4 {
		h.Step(9*time.Second + 990*time.Millisecond)
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.RefreshToken}}
		r := httptest.NewRequest(http.MethodPost, "/token", strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", formMediaType)
		r.Header.Set("Authorization", Basic("app", secret))
		w := httptest.NewRecorder()
		refused(newResponse(w, r, "again"), r)
		if w.Code != http.StatusServiceUnavailable {
			h.T.Fatalf("%d %s", w.Code, w.Body)
		}
		after := time.Duration(Must(strconv.Atoi(w.Header().Get("Retry-After")))) * time.Second
		h.Step(after)
	}
	if again := h.Refresh("app", first.RefreshToken).Tokens(h.T); again.RefreshToken != lost.RefreshToken {
		h.T.Error("another successor")
	}
}

// Whoever is refused for its own failures does not keep the window of a token open that it holds.
func TestRefusedForItsFailures(t *testing.T) {
	t.Parallel()
	crowded(t, 1, func(t *testing.T, h *Harness) {
		first := h.Login("app")
		wrong := func() Reply {
			form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.RefreshToken}}
			r := Must(http.NewRequest(http.MethodPost, h.Base+"/token", strings.NewReader(form.Encode())))
			r.Header.Set("Content-Type", formMediaType)
			r.Header.Set("Authorization", Basic("app", "wrong"))
			r.Header.Set("X-Forwarded-For", "203.0.113.9")
			return h.Send(r)
		}
		for wrong().Status != http.StatusTooManyRequests {
		}
		h.Refresh("app", first.RefreshToken).Tokens(t)
		for range 10 {
			h.Step(9 * time.Second)
			r := wrong()
			for ; r.Status != http.StatusTooManyRequests; r = wrong() {
			}
			h.Step(time.Duration(Must(strconv.Atoi(r.Header.Get("Retry-After")))-1) * time.Second)
		}
		if r := h.Refresh("app", first.RefreshToken); r.Status != http.StatusBadRequest {
			t.Errorf("the window was still open: %d", r.Status)
		}
	})
}

func mustAddr(text string) netip.Addr { return netip.MustParseAddr(text) }

// A login that waits no longer, or does not take the place that it was given, leaves it to the next.
func TestPlacesArePassedOn(t *testing.T) {
	t.Parallel()
	c := ConfigFor("sqlite:none")
	throttle := newThrottle(nil, func() *config.Config { return &c })
	key := storage.NewLoginKey("alice", "app", mustAddr("192.0.2.1"))
	full := storage.LoginView{Account: storage.Failures{Count: throttle.policy().Limit - 1, LastAt: noon}} // one place
	enter := func() (*attempt, verdict, *place) { return throttle.look(key).enter(full, noon) }
	first, _, _ := enter()
	var waiting []*place
	for range 4 {
		_, verdict, p := enter()
		if verdict != verdictWait {
			t.Fatal(verdict)
		}
		waiting = append(waiting, p)
	}
	isFree := func(p *place) bool {
		select {
		case <-p.free:
			return true
		default:
			return false
		}
	}
	throttle.passOn(waiting[0]) // it has waited for too long
	other := throttle.look(key) // somebody is always looking, so that not all are woken
	throttle.flights[key.AccountBucket].wake(1)
	if !isFree(waiting[1]) || isFree(waiting[2]) {
		t.Error("the turn is not that of the first who still waits")
	}
	throttle.passOn(waiting[1]) // it could not be read
	if !isFree(waiting[2]) || isFree(waiting[3]) {
		t.Error("a place that was not taken is lost")
	}
	other.end()
	first.leave(ctx, noon)
	if !isFree(waiting[3]) || len(throttle.flights) != 0 {
		t.Errorf("%d buckets are still being judged", len(throttle.flights))
	}
}
