package verify_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyturn/keyturn/verify"
)

const listURL = issuerURL + "/status/abc"

// An ended login is refused within 15 seconds of its mark, and no other is. The list is asked for conditionally.
func TestEndedLogin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.iat = time.Now().Unix()
		i.lists["/status/abc"] = make([]byte, 1<<17)
		v := newVerifier(t, i, nil)
		life := func(index int) string {
			return token(map[string]any{"exp": time.Now().Unix() + 3600, "status": map[string]any{
				"status_list": map[string]any{"idx": index, "uri": listURL}}})
		}
		first, second, last := life(0), life(9), life(1<<20-1)
		for _, raw := range []string{first, second, last} {
			wantGood(t, v, "before", raw)
		}
		time.Sleep(time.Minute)
		if n := i.requests("/status"); n < 4 || n > 6 {
			t.Errorf("%d requests in a minute", n)
		}
		i.with(func() { i.lists["/status/abc"][1] |= 1 << 1; i.iat = time.Now().Unix() })
		time.Sleep(15 * time.Second)
		wantReason(t, v, "marked", second, verify.Ended)
		wantGood(t, v, "the place before", first)
		wantGood(t, v, "the last place", last)
		i.with(func() { delete(i.lists, "/status/abc") })
		time.Sleep(15 * time.Second)
		wantReason(t, v, "a list that is over", first, verify.Ended)
		wantReason(t, v, "a place beyond the list", life(1<<20), verify.Ended)
	})
}

// A list that no token names any more is not asked for.
func TestListsAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.lists["/status/abc"] = make([]byte, 1)
		v := newVerifier(t, i, nil)
		wantGood(t, v, "a good token", withStatus(listURL, 1))
		time.Sleep(9 * time.Minute)
		if n := i.requests("/status"); n < 30 {
			t.Errorf("%d requests in nine minutes", n)
		}
		time.Sleep(2 * time.Minute)
		before := i.requests("/status")
		time.Sleep(time.Minute)
		if n := i.requests("/status") - before; n != 0 {
			t.Errorf("%d requests for a list that nobody names", n)
		}
	})
}

// There are never more lists than the bound.
func TestManyLists(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		v := newVerifier(t, i, nil)
		for n := range 1100 {
			path := fmt.Sprint("/status/", n)
			i.with(func() {
				i.tokens[path] = sign(pairs()[0], "k1", "statuslist+jwt", map[string]any{"sub": issuerURL + path,
					"iat": 1, "exp": 1 << 35,
					"status_list": map[string]any{"bits": 1, "lst": deflate(make([]byte, 1))}})
			})
			if _, err := v.Token(ctx, withStatus(issuerURL+fmt.Sprint("/status/", n), 1)); err != nil {
				t.Fatal(err)
			}
		}
		before := i.requests("/status")
		time.Sleep(16 * time.Second)
		if n := i.requests("/status") - before; n < 900 || n > 1000 {
			t.Errorf("%d requests in an interval", n)
		}
	})
}

// A replica that lags behind does not revive a login: an older list is refused, and one of the same second adds marks.
func TestOlderList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		now := time.Now().Unix()
		i.iat, i.lists["/status/abc"] = now, []byte{2}
		v := newVerifier(t, i, nil)
		ended := func() string { return withStatus(listURL, 1) }
		wantReason(t, v, "marked", ended(), verify.Ended)
		for _, step := range []struct {
			iat    int64
			places byte
			want   verify.Reason
		}{{now - 60, 0, verify.Ended}, {now, 4, verify.Ended}} {
			i.with(func() { i.iat, i.lists["/status/abc"] = step.iat, []byte{step.places} })
			time.Sleep(15 * time.Second)
			wantReason(t, v, "after an older list", ended(), step.want)
		}
		wantReason(t, v, "marked by the other replica", withStatus(listURL, 2), verify.Ended)
		places := i.lists["/status/abc"]
		i.with(func() { delete(i.lists, "/status/abc") })
		time.Sleep(15 * time.Second)
		wantReason(t, v, "not there for a moment", ended(), verify.Ended)
		i.with(func() { i.iat, i.lists["/status/abc"] = now-60, []byte{0} })
		time.Sleep(16 * time.Second)
		wantReason(t, v, "there again, and older", ended(), verify.Ended)
		i.with(func() { i.iat, i.lists["/status/abc"] = now, []byte{0, 0} })
		time.Sleep(61 * time.Second)
		wantReason(t, v, "of the same second, and longer", ended(), verify.Ended)
		i.with(func() { i.iat, i.lists["/status/abc"] = now, places })
		i.with(func() { i.iat, i.lists["/status/abc"] = now+60, []byte{0} })
		time.Sleep(2 * time.Minute)
		wantGood(t, v, "the mark was dropped by a newer list", ended())
	})
}

// A list that has expired is not kept alive by 304, as of a broken proxy.
func TestExpiredListIsNotConfirmed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		i.iat = time.Now().Unix()
		i.lists["/status/abc"] = make([]byte, 8)
		v := newVerifier(t, i, nil)
		raw := token(map[string]any{"exp": time.Now().Unix() + 3600, "status": map[string]any{
			"status_list": map[string]any{"idx": 1, "uri": listURL}}})
		for range 14 {
			wantGood(t, v, "while the list is valid, and ten minutes longer", raw)
			time.Sleep(time.Minute)
		}
		for range 2 {
			time.Sleep(time.Minute)
			_, _ = v.Token(ctx, raw)
		}
		wantUnavailable(t, v, "long after the list has expired", raw)
	})
}

// While a server hangs, requests wait for one fetch at most, together, and those that need no fetch do not wait.
func TestServerHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		done, cancel := context.WithCancel(ctx)
		i := newIssuer()
		i.lists["/status/abc"] = make([]byte, 16)
		var hangs atomic.Bool
		slow := roundTrip(func(r *http.Request) (*http.Response, error) {
			if hangs.Load() {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return i.RoundTrip(r)
		})
		v, err := verify.New(done, verify.Config{Issuer: issuerURL, Resource: resource, Transport: slow})
		if err != nil {
			t.Fatal(err)
		}
		good := withStatus(listURL, 1)
		wantGood(t, v, "before", good)
		hangs.Store(true)
		begun := time.Now()
		var all sync.WaitGroup
		for n := range 50 {
			all.Go(func() {
				if _, err := v.Token(ctx, withStatus(issuerURL+"/status/unseen", n)); err == nil {
					t.Error("accepted")
				}
				if took := time.Since(begun); took > 6*time.Second {
					t.Errorf("waited for %v", took)
				}
			})
		}
		for range 30 {
			before := time.Now()
			wantGood(t, v, "that needs no fetch", good)
			if took := time.Since(before); took > 0 {
				t.Errorf("waited for %v", took)
			}
			time.Sleep(time.Second)
		}
		all.Wait()
		cancel()
		time.Sleep(10 * time.Second)
	})
}

// After its context has ended, a verifier asks for nothing.
func TestVerifierEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		done, cancel := context.WithCancel(ctx)
		i := newIssuer()
		i.lists["/status/abc"] = make([]byte, 16)
		v, err := verify.New(done, verify.Config{Issuer: issuerURL, Resource: resource, Transport: i})
		if err != nil {
			t.Fatal(err)
		}
		wantGood(t, v, "before", withStatus(listURL, 1))
		cancel()
		time.Sleep(time.Second)
		before := i.requests("/")
		time.Sleep(5 * time.Minute)
		if n := i.requests("/") - before; n != 0 {
			t.Errorf("%d requests", n)
		}
	})
}

// Lists that are not as they should be are refused; a token that names one cannot be checked.
func TestBadLists(t *testing.T) {
	t.Parallel()
	i := newIssuer()
	now := time.Now().Unix()
	good := map[string]any{"bits": 1, "lst": deflate(make([]byte, 8))}
	list := func(changes map[string]any) string {
		c := map[string]any{"sub": listURL, "iat": now, "exp": now + 300, "ttl": 15, "status_list": good}
		for name, v := range changes {
			if c[name] = v; v == nil {
				delete(c, name)
			}
		}
		return sign(pairs()[0], "k1", "statuslist+jwt", c)
	}
	lst := func(bits any, text string) string {
		return list(map[string]any{"status_list": map[string]any{"bits": bits, "lst": text}})
	}
	for what, body := range map[string]string{
		"no token":            "x",
		"another URI":         list(map[string]any{"sub": listURL + "x"}),
		"expired":             list(map[string]any{"exp": now}),
		"without an end":      list(map[string]any{"exp": nil}),
		"a huge iat":          list(map[string]any{"iat": int64(1<<63 - 1)}),
		"a huge exp":          list(map[string]any{"exp": int64(1<<63 - 1)}),
		"issued ahead":        list(map[string]any{"iat": now + 600}),
		"issued at no time":   list(map[string]any{"iat": 0}),
		"by a stranger":       sign(pairs()[1], "k1", "statuslist+jwt", map[string]any{"sub": listURL, "iat": now}),
		"an access token":     token(map[string]any{"sub": listURL, "status_list": good}),
		"no list":             list(map[string]any{"status_list": nil}),
		"3 bits":              lst(3, deflate(make([]byte, 8))),
		"bits of another":     lst("1", deflate(make([]byte, 8))),
		"no base64":           lst(1, "*"),
		"no zlib":             lst(1, base64.RawURLEncoding.EncodeToString([]byte("xxxxxxxx"))),
		"cut off":             lst(1, deflate([]byte(strings.Repeat("some bytes", 50)))[:20]),
		"too large when open": lst(1, deflate(make([]byte, 1<<17+1))),
		"too large":           strings.Repeat("A", 2<<20),
	} {
		i.with(func() { i.tokens["/status/abc"] = body })
		v := newVerifier(t, i, nil)
		wantUnavailable(t, v, what, withStatus(listURL, 1))
		wantGood(t, v, what+": a token without a status", token(nil))
	}
	i.with(func() { i.tokens["/status/abc"] = list(nil) })
	v := newVerifier(t, i, nil)
	wantGood(t, v, "a good list", withStatus(listURL, 63))
	for _, index := range []any{64, -1} {
		wantReason(t, v, fmt.Sprint("place ", index), withStatus(listURL, index), verify.Status)
	}
}

// The lists of the draft (§4.1 and Appendix C) with 1 and 2 bits.
func TestVectorsOfTheDraft(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		bits   int
		lst    string
		places map[int]int
	}{
		{1, "eNrbuRgAAhcBXQ", map[int]int{0: 1, 1: 0, 2: 0, 3: 1, 4: 1, 5: 1, 6: 0, 7: 1, 8: 1, 9: 1, 10: 0, 11: 0,
			12: 0, 13: 1, 14: 0, 15: 1}},
		{2, "eNo76fITAAPfAgc", map[int]int{0: 1, 1: 2, 2: 0, 3: 3, 4: 0, 5: 1, 6: 0, 7: 1, 8: 1, 9: 2, 10: 3, 11: 3}},
		{1, "eNrt3AENwCAMAEGogklACtKQPg9LugC9k_ACvreiogEAAKkeCQAAAAAAAAAAAAAAAAAAAIBylgQAAAAAAAAAAAAAAAAAAAAAAAAA" +
			"AAAAAAAAAAAAAAAAAAAAAAAAAAAAXG9IAAAAAAAAAPwsJAAAAAAAAAAAAAAAvhsSAAAAAAAAAAAA7KpLAAAAAAAAAAAAAAAAAAAA" +
			"AJsLCQAAAAAAAAAAADjelAAAAAAAAAAAKjDMAQAAAACAZC8L2AEb",
			map[int]int{0: 1, 1: 0, 1992: 0, 1993: 1, 25460: 1, 159495: 1, 495669: 1, 554353: 1, 645645: 1, 723232: 1,
				854545: 1, 934534: 1, 1000345: 1, 1000344: 0, 1048575: 0}},
		{2, "eNrt2zENACEQAEEuoaBABP5VIO01fCjIHTMStt9ovGVIAAAAAABAbiEBAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEB5" +
			"WwIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" +
			"AAAAAAAAAID0ugQAAAAAAAAAAAAAAAAAQG12SgAAAAAAAAAAAAAAAAAAAAAAAAAAAOCSIQEAAAAAAAAAAAAAAAAAAAAAAAD8ExIA" +
			"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAwJEuAQAAAAAAAAAAAAAAAAAAAAAAAMB9SwIAAAAAAAAAAAAAAAAAAACoYUoA" +
			"AAAAAAAAAAAAAEBqH81gAQw",
			map[int]int{0: 1, 1993: 2, 25460: 1, 159495: 3, 495669: 1, 554353: 1, 645645: 2, 723232: 1, 854545: 1,
				934534: 2, 1000345: 3, 2: 0}},
	} {
		i := newIssuer()
		now := time.Now().Unix()
		i.tokens["/status/abc"] = sign(pairs()[0], "k1", "statuslist+jwt", map[string]any{"sub": listURL, "iat": now,
			"exp": now + 300, "status_list": map[string]any{"bits": c.bits, "lst": c.lst}})
		v := newVerifier(t, i, nil)
		for place, value := range c.places {
			if raw := withStatus(listURL, place); value == 0 {
				wantGood(t, v, fmt.Sprint(c.bits, " bits, place ", place), raw)
			} else {
				wantReason(t, v, fmt.Sprint(c.bits, " bits, place ", place), raw, verify.Ended)
			}
		}
	}
}

// counted counts what a verifier reports.
type counted struct {
	accepted, refused, changed, unchanged, failed, sampled, inactive, dropped atomic.Int64
}

func (c *counted) SampleDropped() { c.dropped.Add(1) }

func (c *counted) Accepted()             { c.accepted.Add(1) }
func (c *counted) Refused(verify.Reason) { c.refused.Add(1) }
func (c *counted) Fetched(_ verify.Document, o verify.Outcome) {
	map[verify.Outcome]*atomic.Int64{verify.Changed: &c.changed, verify.Unchanged: &c.unchanged,
		verify.Failed: &c.failed}[o].Add(1)
}
func (c *counted) Sampled(active bool) {
	if c.sampled.Add(1); !active {
		c.inactive.Add(1)
	}
}

// Of a hundred accepted tokens about one is introspected. A forged token that is used 300 times is found almost always.
func TestSample(t *testing.T) {
	t.Parallel()
	const verifiers, uses = 60, 300
	found := 0
	for range verifiers {
		synctest.Test(t, func(t *testing.T) {
			i := newIssuer()
			i.inactive = true
			var c counted
			var alarms atomic.Int64
			v := newVerifier(t, i, func(conf *verify.Config) {
				conf.Counters = &c
				refused := func(t *verify.Token) {
					if t.Subject == "usr_1" {
						alarms.Add(1)
					}
				}
				conf.Sample = &verify.Sample{Every: 100, ClientID: "a:b", ClientSecret: "s e", Refused: refused}
			})
			raw := token(nil)
			for range uses {
				if _, err := v.Token(ctx, raw); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			if alarms.Load() > 0 {
				found++
			}
			if c.accepted.Load() != uses || c.sampled.Load() != alarms.Load() || c.inactive.Load() != alarms.Load() {
				t.Errorf("%+v, %d alarms", &c, alarms.Load())
			}
			for _, r := range i.asked {
				id, secret, ok := r.BasicAuth()
				if r.URL.Path == "/introspect" && (id != "a%3Ab" || secret != "s+e" || !ok) {
					t.Errorf("%q %q", id, secret)
				}
			}
		})
	}
	if found < 50 { // 57 are expected: four standard deviations less
		t.Errorf("found by %d of %d", found, verifiers)
	}
	t.Logf("found by %d of %d verifiers", found, verifiers)
}

// A sample that the server calls active, or cannot answer, is no alarm, and no request waits for it.
func TestSampleWithoutAlarm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer()
		var c counted
		v := newVerifier(t, i, func(conf *verify.Config) {
			conf.Counters = &c
			conf.Sample = &verify.Sample{Every: 1, ClientID: "api", ClientSecret: "x", Refused: func(*verify.Token) {
				t.Error("an alarm")
			}}
		})
		for range 500 {
			wantGood(t, v, "a good token", token(nil))
		}
		i.with(func() { i.away = true })
		wantGood(t, v, "while it is away", token(nil))
		time.Sleep(time.Second)
		if c.sampled.Load() == 0 {
			t.Error("nothing was sampled")
		}
	})
}

// Many requests at once share what is fetched, and see one verifier.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	i := newIssuer()
	i.lists["/status/abc"] = make([]byte, 16)
	v := newVerifier(t, i, nil)
	good, bad := withStatus(listURL, 7), token(map[string]any{"aud": "x"})
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 20 {
				if _, err := v.Token(ctx, good); err != nil {
					t.Error(err)
				}
				if _, err := v.Token(ctx, bad); err == nil {
					t.Error("accepted")
				}
			}
		})
	}
	all.Wait()
	if n := i.requests("/status"); n != 1 {
		t.Errorf("%d requests for one list", n)
	}
}

// A caller who gives up does not wait for the server.
func TestCallerGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		done, cancel := context.WithCancel(ctx)
		i := newIssuer()
		slow := roundTrip(func(r *http.Request) (*http.Response, error) {
			select {
			case <-time.After(4 * time.Second):
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
			return i.RoundTrip(r)
		})
		v, err := verify.New(done, verify.Config{Issuer: issuerURL, Resource: resource, Transport: slow})
		if err != nil {
			t.Fatal(err)
		}
		i.lists["/status/abc"] = make([]byte, 16)
		go v.Token(ctx, withStatus(listURL, 1)) // fetches the list
		time.Sleep(time.Millisecond)
		short, stop := context.WithTimeout(ctx, time.Second)
		defer stop()
		begun := time.Now()
		if _, err := v.Token(short, withStatus(listURL, 2)); err == nil || time.Since(begun) > 1100*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		time.Sleep(4 * time.Second)
		if _, err := v.Token(ctx, withStatus(listURL, 2)); err != nil {
			t.Errorf("the list was not fetched: %v", err)
		}
		cancel()
	})
}
