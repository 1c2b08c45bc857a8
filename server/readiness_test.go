package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// fetchKeys fetches the JWKS with a query, as a program.
func (h *Harness) fetchKeys(query, agent string, header ...string) Reply {
	h.T.Helper()
	r := Must(http.NewRequest(http.MethodGet, h.Base+api.PathJWKS+query, nil))
	r.Header.Set("User-Agent", agent)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return h.Send(r)
}

// register registers a verifier of the resource server rs, and returns the query of its URL.
func (h *Harness) register(name string) string {
	h.T.Helper()
	v := Must(h.Admin.Verifiers().Create(ctx, name, "https://api.example", ""))
	return "?v=" + v.Handle
}

// reading flushes what the replicas have observed, and returns the reading of a verifier.
func (h *Harness) reading(name string, replicas ...*Harness) keys.VerifierReading {
	h.T.Helper()
	for _, r := range append(replicas, h) {
		Must(0, r.Server.observed.flush(ctx))
	}
	all := Must(h.Admin.Keys().Readiness(ctx)).Verifiers
	i := slices.IndexFunc(all, func(v keys.VerifierReading) bool { return v.Name == name })
	if i < 0 {
		h.T.Fatalf("no reading of %s", name)
	}
	return all[i]
}

// A registered verifier is silent, then waits or is ready by what it fetched, and is stuck if it never comes again.
func TestReadiness(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		query := h.register("orders")
		if v := h.reading("orders"); v.Verdict != keys.VerdictSilent {
			t.Errorf("%+v", v)
		}
		if r := h.fetchKeys(query, "orders/1.0"); r.Status != http.StatusOK {
			t.Fatal(r)
		}
		if v := h.reading("orders"); v.Verdict != keys.VerdictReady || v.GotAt == nil || !v.GotAt.Equal(h.Clock.Now()) {
			t.Errorf("%+v", v)
		}
		h.Step(25 * time.Hour)
		Must(h.Admin.Keys().Rotate(ctx, admin.Gate{}))
		h.Step(time.Second)
		if v := h.reading("orders"); v.Verdict != keys.VerdictWaiting || v.By == nil {
			t.Errorf("after a rotation: %+v", v)
		}
		h.Step(3 * 24 * time.Hour)
		v := h.reading("orders")
		if v.Verdict != keys.VerdictStuck || !strings.Contains(v.LastRotation, "never came back: restart it") {
			t.Errorf("never again: %+v", v)
		}
		h.fetchKeys(query, "orders/1.0")
		// It has the key now. Another process behind the address may not have it, until a week after its last fetch.
		if v := h.reading("orders"); v.Verdict != keys.VerdictWaiting || v.GotAt == nil ||
			!v.By.Equal(h.Clock.Now().Add(keys.SeenRecently)) {
			t.Errorf("restarted: %+v", v)
		}
		// The next rotation brings a kid that it does not know, and it comes back.
		h.Step(25 * time.Hour)
		Must(h.Admin.Keys().Rotate(ctx, admin.Gate{}))
		h.Step(3 * time.Second)
		h.fetchKeys(query, "orders/1.0")
		if v := h.reading("orders"); !strings.Contains(v.LastRotation, "came back 3s after") {
			t.Errorf("%+v", v)
		}
	})
}

// Every query gets the same document with the same headers. What is no registered handle counts as unnamed.
func TestEveryQueryGetsTheSameKeys(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		query := h.register("orders")
		plain := h.fetchKeys("", "x")
		plain.Header.Del("X-Request-Id")
		for _, q := range []string{query, "?v=aaaaaaaaaaaaaaaa", "?v=", "?v", "?x=1", query + "&x=1", "?v=%zz",
			"?v=" + strings.Repeat("a", 3000), "?" + strings.ToUpper(query[1:]), query + "%20"} {
			r := h.fetchKeys(q, "x")
			r.Header.Del("X-Request-Id")
			r.Header.Set("Date", plain.Header.Get("Date"))
			if r.Status != 200 || r.Body != plain.Body || fmt.Sprint(r.Header) != fmt.Sprint(plain.Header) {
				t.Errorf("%.40s: %v", q, r)
			}
		}
		if v := h.reading("orders"); len(v.Sources) != 1 || v.Sources[0].Source != "127.0.0.1" {
			t.Errorf("%+v", v)
		}
		all := Must(h.Admin.Keys().Readiness(ctx))
		if len(all.Unnamed) != 1 || all.Unnamed[0].Source != "127.0.0.0/24" || all.Unnamed[0].Count != 10 ||
			!all.Unnamed[0].HasNext {
			t.Errorf("%+v", all.Unnamed)
		}
	})
}

// A conditional request that is answered with 304 counts; HEAD, which brings no keys, does not.
func TestWhatCountsAsAFetch(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		query := h.register("orders")
		r := Must(http.NewRequest(http.MethodHead, h.Base+api.PathJWKS+query, nil))
		etag := h.Send(r).Header.Get("ETag")
		if v := h.reading("orders"); v.Verdict != keys.VerdictSilent {
			t.Errorf("HEAD: %+v", v)
		}
		if r := h.fetchKeys(query, "x", "If-None-Match", etag); r.Status != http.StatusNotModified {
			t.Fatal(r)
		}
		if v := h.reading("orders"); v.Verdict != keys.VerdictReady {
			t.Errorf("304: %+v", v)
		}
	})
}

// What two replicas have seen adds up, as if one had seen it, also when they write in another order.
func TestTwoReplicasAddUp(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		twin := OpenHarness(t, h.Config, h.Clock)
		query := h.register("orders")
		for i := range 6 {
			[]*Harness{h, twin}[i%2].fetchKeys(query, "orders")
			if i%3 == 0 {
				Must(0, twin.Server.observed.flush(ctx))
			}
			h.Step(time.Minute)
			Must(0, twin.Server.ring.Poll(ctx))
		}
		h.reading("orders", twin)
		rows := Must(h.Server.db.Fetches().Named(ctx))
		if len(rows) != 1 || rows[0].Count != 6 || rows[0].GotCount != 6 || !rows[0].GotAt.Equal(noon) ||
			!rows[0].FirstAt.Equal(noon) || !rows[0].LastAt.Equal(noon.Add(5*time.Minute)) {
			t.Errorf("%+v", rows)
		}
		for i, at := range rows[0].Times {
			if !at.Equal(noon.Add(time.Duration(5-i) * time.Minute)) {
				t.Errorf("%v", rows[0].Times)
			}
		}
	})
}

// A resource server that only introspects needs no key. Audiences that nobody has registered are listed.
func TestWhoNeedsNoKey(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		h.register("orders")
		token := h.Login("app").AccessToken
		h.Post("/token", "app", "grant_type", "password", "username", "alice", "password", password, "resource",
			"https://mail.example")
		if !h.Active("rs", token) {
			t.Fatal("not active")
		}
		v := h.reading("orders")
		if v.Verdict != keys.VerdictReady || !strings.Contains(v.Evidence, "only introspects") {
			t.Errorf("%+v", v)
		}
		h.register("twin") // of the same resource: one of the two may need keys
		if v := h.reading("orders"); v.Verdict != keys.VerdictSilent {
			t.Errorf("with a twin: %+v", v)
		}
		Must(0, h.Admin.Verifiers().Delete(ctx, "twin"))
		all := Must(h.Admin.Keys().Readiness(ctx))
		if !slices.Equal(all.UnnamedAudiences, []string{"https://mail.example"}) {
			t.Errorf("%v", all.UnnamedAudiences)
		}
		h.Step(8 * 24 * time.Hour)
		if v := h.reading("orders"); v.Verdict != keys.VerdictSilent {
			t.Errorf("a week later: %+v", v)
		}
	})
}

// jwks_observe says what is counted.
func TestObserve(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		mode           string
		named, unnamed int
	}{{config.ObserveAll, 1, 1}, {config.ObserveNamed, 1, 0}, {config.ObserveOff, 0, 0}} {
		t.Run(test.mode, func(t *testing.T) {
			Each(t, func(t *testing.T, h *Harness) {
				query := h.register("orders")
				h.Server.Follow(func() config.Config { c := h.Config; c.JWKSObserve = test.mode; return c }())
				h.fetchKeys(query, "x")
				h.fetchKeys("", "x")
				h.fetchKeys("?v=aaaaaaaaaaaaaaaa", "x")
				v := h.reading("orders")
				all := Must(h.Admin.Keys().Readiness(ctx))
				if len(v.Sources) != test.named || len(all.Unnamed) != test.unnamed {
					t.Errorf("%+v %+v", v, all.Unnamed)
				}
			})
		})
	}
}

// A cache in front hides the verifiers: nothing is concluded.
func TestNothingIsConcludedFromACache(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		query := h.register("orders")
		h.fetchKeys(query, "cdn", "Via", "1.1 cdn.example")
		v := h.reading("orders")
		if v.Verdict != keys.VerdictSilent || !strings.Contains(v.Evidence, "cache") {
			t.Errorf("%+v", v)
		}
		notes := strings.Join(Must(h.Admin.Keys().Readiness(ctx)).Notes, "\n")
		if !strings.Contains(notes, "nothing is concluded") || !strings.Contains(notes, "fetched is not used") ||
			!strings.Contains(notes, "an address is not a process") {
			t.Error(notes)
		}
	})
}

// A million invented handles, addresses and agents take bounded memory and rows, and push out no registered verifier,
// not even if half of them name one. It runs alone, since it measures the memory of the process.
func TestInventedHandles(t *testing.T) {
	Each(t, func(t *testing.T, h *Harness) {
		query, other := h.register("orders"), h.register("billing")
		h.Server.lookForNews(ctx)
		h.fetchKeys(query, "orders")
		h.fetchKeys(other, "billing")
		o, set := h.Server.observed, h.Server.ring.JWKS().Published
		before := heapInUse()
		for i := range flood {
			x := &response{address: netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 1})}
			r := &http.Request{Method: http.MethodGet, URL: &url.URL{RawQuery: query[1:]}, Header: http.Header{}}
			if i%2 == 0 {
				r.URL.RawQuery = "v=" + inventedHandle(i)
			}
			r.Header.Set("User-Agent", strings.Repeat("agent ", 100)+strconv.Itoa(i%3))
			o.fetched(x, r, set)
		}
		if grown := heapInUse() - before; grown > 20<<20 {
			t.Errorf("%d bytes more", grown)
		}
		if n := len(o.fetches); n > maxObserved || o.named.Len() > maxObservedHandle+1 {
			t.Errorf("%d entries, %d of them named", n, o.named.Len())
		}
		for flushed, tries := 0, 0; flushed < 20; tries++ {
			switch err := o.flush(ctx); {
			case err == nil:
				flushed++
			case !errors.Is(err, storage.ErrUnavailable) || tries > 100: // a busy machine: it has kept the rest
				t.Fatal(err)
			}
		}
		for more := true; more; {
			more = Must(h.Server.db.Fetches().Clean(ctx, noon.Add(-storage.FetchAge), cleanUpBatch))
		}
		byHandle := map[string]int{}
		for _, f := range Must(h.Server.db.Fetches().Named(ctx)) {
			byHandle["?v="+f.Handle]++
			if len(f.Agent) > maxAgent {
				t.Errorf("agent of %d characters", len(f.Agent))
			}
		}
		if byHandle[query] > storage.MaxNamedFetches || byHandle[other] != 1 {
			t.Errorf("%v", byHandle)
		}
		if n := len(Must(h.Server.db.Fetches().Unnamed(ctx, noon))); n > storage.MaxUnnamedFetches {
			t.Errorf("%d rows", n)
		}
		for _, name := range []string{"orders", "billing"} {
			v := h.reading(name)
			if !slices.ContainsFunc(v.Sources, func(s keys.SourceReading) bool { return s.Agent == name }) {
				t.Errorf("%s was pushed out", name)
			}
		}
	})
}

// inventedHandle makes a handle of a number.
func inventedHandle(n int) string {
	return strings.Map(func(digit rune) rune { return 'a' + digit - '0' }, fmt.Sprintf("%016d", n))
}

func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse)
}

// A scheduled rotation waits for registered verifiers, says so, and is made after the patience all the same.
func TestScheduleWaitsForVerifiers(t *testing.T) {
	t.Parallel()
	waiting := func(h *Harness) {
		h.Config.KeyRotationWaitsFor = config.WaitsForNamed
		h.Server.Follow(h.Config)
		h.Admin = admin.New(h.Server.store, h.Config, h.Server.place, admin.Options{Actor: "os:test", Now: h.Clock.Now})
	}
	due := func(h *Harness, past time.Duration) {
		h.Step(h.Server.ring.RotatesAt().Sub(h.Clock.Now()) + past)
	}
	status := func(h *Harness) keys.Status { return Must(h.Admin.Keys().Status(ctx)) }
	t.Run("patience", func(t *testing.T) {
		Each(t, func(t *testing.T, h *Harness) {
			waiting(h)
			h.register("orders")
			next := status(h).Next
			due(h, time.Minute)
			s := status(h)
			if s.Next != next || s.Level != keys.LevelWarning ||
				!strings.Contains(s.Sentence, "waits for orders (silent), until 2026-04-08") {
				t.Errorf("%+v", s)
			}
			if due := h.Server.ring.RotatesAt(); s.NextRotationAt == nil || !due.Equal(*s.NextRotationAt) ||
				!due.After(h.Clock.Now().Add(6*24*time.Hour)) {
				t.Errorf("due at %v: the alert of an overdue rotation would fire", due)
			}
			if age := h.Server.ring.JWKS().MaxAge; age != h.Config.JWKSMaxAge {
				t.Errorf("max-age %v while the rotation waits", age)
			}
			h.Step(7*24*time.Hour - 2*time.Minute)
			if s := status(h); s.Next != next {
				t.Error("rotated before the patience was over")
			}
			h.Step(2 * time.Minute)
			if s := status(h); s.Current != next {
				t.Errorf("not rotated after the patience: %+v", s)
			}
			records := Must(AllAudit(h.Admin, time.Time{}, "key.rotate"))
			if len(records) != 1 || !strings.Contains(string(records[0].Details), `"not_ready":"orders (silent)"`) {
				t.Errorf("%v", records)
			}
		})
	})
	t.Run("ready", func(t *testing.T) {
		Each(t, func(t *testing.T, h *Harness) {
			waiting(h)
			query := h.register("orders")
			next := status(h).Next
			due(h, time.Minute)
			h.fetchKeys(query, "orders")
			h.reading("orders")
			h.Step(askedAgain)
			if s := status(h); s.Current != next || !s.Healthy {
				t.Errorf("not rotated although ready: %+v", s)
			}
		})
	})
	t.Run("nothing", func(t *testing.T) {
		Each(t, func(t *testing.T, h *Harness) {
			h.register("orders")
			next := status(h).Next
			due(h, 0)
			if s := status(h); s.Current != next {
				t.Errorf("waited for nothing: %+v", s)
			}
		})
	})
	t.Run("leak", func(t *testing.T) { // the second rotation does not wait
		Each(t, func(t *testing.T, h *Harness) {
			waiting(h)
			h.register("orders")
			h.Step(time.Hour)
			done := Must(h.Admin.Keys().Revoke(ctx, status(h).Current, false, ""))
			h.Step(done.SecondRotation.Sub(h.Clock.Now()))
			if s := status(h); s.Current != done.Next {
				t.Errorf("the second rotation waited: %+v", s)
			}
		})
	})
}

// askedAgain is after how long a server looks again whether the rotation still waits.
const askedAgain = 11 * time.Second

// The gate names who is not ready, and the audit trail who did not count.
func TestRotateWhenReady(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		query := h.register("orders")
		h.register("billing")
		h.Step(25 * time.Hour)
		var unready *keys.NotReadyError
		_, err := h.Admin.Keys().Rotate(ctx, admin.Gate{WhenReady: true})
		if !errors.As(err, &unready) || !admin.ErrRefused(err) || !strings.Contains(err.Error(), "billing (silent)") {
			t.Errorf("%v", err)
		}
		h.fetchKeys(query, "orders")
		h.reading("orders")
		if _, err := h.Admin.Keys().Rotate(ctx, admin.Gate{WhenReady: true}); !errors.As(err, &unready) ||
			strings.Contains(err.Error(), "orders (") {
			t.Errorf("%v", err)
		}
		_, err = h.Admin.Keys().Rotate(ctx, admin.Gate{WhenReady: true, Except: []string{"biling"}})
		if !errors.Is(err, admin.ErrNotFound) || !strings.Contains(err.Error(), `did you mean "billing"`) {
			t.Errorf("%v", err)
		}
		Must(h.Admin.Keys().Rotate(ctx, admin.Gate{WhenReady: true, Except: []string{"billing"}}))
		records := Must(AllAudit(h.Admin, time.Time{}, "key.rotate"))
		if len(records) != 1 || !strings.Contains(string(records[0].Details), `"except":["billing"]`) {
			t.Errorf("%v", records)
		}
		h.Config.JWKSObserve = config.ObserveOff
		blind := admin.New(h.Server.store, h.Config, h.Server.place, admin.Options{Actor: "os:test", Now: h.Clock.Now})
		_, err = blind.Keys().Rotate(ctx, admin.Gate{WhenReady: true, Except: []string{"billing", "orders"}})
		if !admin.ErrRefused(err) || !strings.Contains(err.Error(), "jwks_observe is off") {
			t.Errorf("without observation: %v", err)
		}
	})
}

// A database that is away loses nothing of what was observed, and requests do not notice.
func TestObservationsOutliveAnOutage(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		query := h.register("orders")
		h.Server.lookForNews(ctx)
		h.fetchKeys(query, "orders")
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if err := h.Server.observed.flush(gone); err == nil {
			t.Error("written without a database")
		}
		h.fetchKeys(query, "orders")
		if v := h.reading("orders"); v.Verdict != keys.VerdictReady {
			t.Errorf("%+v", v)
		}
		h.reading("orders")
		if rows := Must(h.Server.db.Fetches().Named(ctx)); len(rows) != 1 || rows[0].Count != 2 {
			t.Errorf("%+v", rows)
		}
	})
}

// The metrics count the verdicts.
func TestReadinessMetrics(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		h.fetchKeys(h.register("orders"), "orders")
		h.register("billing")
		h.reading("orders")
		Must(0, h.Server.observed.judge(ctx))
		for name, want := range map[string]int{"ready": 1, "waiting": 1, "stuck": 0} {
			line := fmt.Sprintf("\nkeyturn_verifiers_%s %d\n", name, want)
			if !strings.Contains(h.metricsText(), line) {
				t.Errorf("no %q", line)
			}
		}
	})
}

// What a User-Agent holds does no harm.
func TestAgents(t *testing.T) {
	t.Parallel()
	for agent, want := range map[string]string{
		"":                            "",
		"Go-http-client/2.0":          "Go-http-client/2.0",
		"a\x1b[31m\n\xff\u00e9\u202e": "a?[31m??\u00e9?",
		strings.Repeat("é", 1000):     strings.Repeat("é", 64),
		strings.Repeat("x", 1000):     strings.Repeat("x", 64),
	} {
		if got := agentOf(agent); got != want {
			t.Errorf("%q: %q, want %q", agent, got, want)
		}
	}
}

// After a revocation, verifiers that fetched once trust the leaked key, until the second rotation if they came back at
// the last one. Those on a long timer refuse good tokens after the second rotation. Those that obey max-age are not
// named.
func TestAftermath(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		once, back := h.register("once"), h.register("back")
		hourly, prompt := h.register("hourly"), h.register("prompt")
		for _, query := range []string{once, back, hourly, prompt} {
			h.fetchKeys(query, "v")
		}
		h.Step(25 * time.Hour)
		Must(h.Admin.Keys().Rotate(ctx, admin.Gate{}))
		h.Step(3 * time.Second)
		h.fetchKeys(back, "v")
		for i := range 48 {
			if i%12 == 0 {
				h.fetchKeys(hourly, "v")
			}
			h.fetchKeys(prompt, "v")
			h.reading("once")
			h.Step(5 * time.Minute)
		}
		h.fetchKeys(prompt, "v")
		h.fetchKeys(hourly, "v")
		h.reading("once")
		h.Step(time.Minute)
		status := Must(h.Admin.Keys().Status(ctx))
		done := Must(h.Admin.Keys().Revoke(ctx, status.Current, false, ""))
		all := Must(h.Admin.Keys().Aftermaths(ctx, done))
		byName := map[string]keys.Aftermath{}
		for _, a := range all {
			byName[a.Verifier] = a
		}
		if a := byName["once"]; !a.Trusts || !a.Stuck || a.TrustsUntil != nil || a.RefusesFrom == nil ||
			!a.RefusesFrom.Equal(h.Clock.Now()) || a.RefusesUntil != nil {
			t.Errorf("once: %+v", a)
		}
		if a := byName["back"]; !a.Trusts || a.TrustsUntil == nil || !a.TrustsUntil.Equal(*done.SecondRotation) ||
			a.RefusesFrom != nil {
			t.Errorf("back: %+v", a)
		}
		a := byName["hourly"]
		if a.Stuck || a.RefusesFrom == nil || !a.RefusesFrom.Equal(*done.SecondRotation) || a.RefusesUntil == nil ||
			a.RefusesUntil.Sub(h.Clock.Now()) < 50*time.Minute || a.RefusesUntil.Sub(h.Clock.Now()) > 70*time.Minute {
			t.Errorf("hourly: %+v", a)
		}
		if a, named := byName["prompt"]; named {
			t.Errorf("prompt: %+v", a)
		}
	})
}

// A fetch that is noted late, since its handle was not known yet, does not undo a later one.
func TestFetchThatIsNotedLate(t *testing.T) {
	t.Parallel()
	old := &keys.Published{Version: 1, KIDs: []string{"current"}, Signer: "current"}
	fresh := &keys.Published{Version: 2, KIDs: []string{"next", "current"}, Signer: "current"}
	var f storage.Fetch
	addFetch(&f, observedFetch{set: fresh, at: noon})
	addFetch(&f, observedFetch{set: old, at: noon.Add(-time.Minute)})
	if f.Version != 2 || f.Newest != "next" || !f.LastAt.Equal(noon) || f.Count != 2 || f.GotCount != 1 ||
		len(f.Times) != 2 || !f.Times[1].Equal(noon.Add(-time.Minute)) {
		t.Errorf("%+v", f)
	}
}
