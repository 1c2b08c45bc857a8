//go:build interop

package examples_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// arrives is how long a verifier that polls the status lists may accept a token after its login has ended.
const arrives = 17 * time.Second

// newReplicas starts several servers on one database, behind a balancer that takes a random one for each request.
func newReplicas(t *testing.T, n int, postgres bool) *keyturn {
	t.Helper()
	k := newKeyturn(t, "https://api.example.com", postgres, "--status-list=on", "--password-hash-memory=7MiB",
		"--key-publish-lead=10m")
	k.stop()
	var balancers []*httputil.ReverseProxy
	flags := k.flags
	for range n {
		listen := freeAddress(t)
		k.flags = append([]string{"--listen=" + listen, "--admin-listen=" + freeAddress(t)}, flags[2:]...)
		start(t, k.dir, "exec keyturn serve --config keyturn.yaml "+strings.Join(k.flags, " "))
		await(t, "a replica", time.Minute, func() bool {
			r, err := http.Get("http://" + listen + "/readyz")
			if err == nil {
				r.Body.Close()
			}
			return err == nil && r.StatusCode == 200
		})
		balancers = append(balancers, httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: listen}))
	}
	server := &http.Server{
		Addr: strings.TrimPrefix(k.issuer, "http://"),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			balancers[rand.N(n)].ServeHTTP(w, r)
		}),
	}
	go server.ListenAndServe()
	t.Cleanup(func() { server.Close() })
	await(t, "the balancer", time.Minute, func() bool {
		r, err := http.Get(k.issuer + "/readyz")
		if err == nil {
			r.Body.Close()
		}
		return err == nil && r.StatusCode == 200
	})
	return k
}

// ending is one way to end logins, and how often the test ends some so.
type ending struct {
	name  string
	times int
	end   func(k *keyturn, l endedLogin)
}

// endedLogin is a login that the test ends.
type endedLogin struct {
	tokens
	user, client string
}

func endings() []ending {
	many := func(short, long int) int {
		if os.Getenv("KEYTURN_SOAK") != "" {
			return long
		}
		return short
	}
	return []ending{
		{"a grant", many(30, 800), func(k *keyturn, l endedLogin) {
			status, body := k.post("/revoke", l.client, k.appSecret, url.Values{"token": {l.Refresh}})
			if status != 200 {
				k.t.Errorf("%d %s", status, body)
			}
		}},
		{"a user", many(4, 150), func(k *keyturn, l endedLogin) { k.do("user", "disable", l.user) }},
		{"a client", many(2, 40), func(k *keyturn, l endedLogin) {
			k.do("grant", "revoke", "--client", l.client, "--yes")
		}},
		{"everything", many(1, 10), func(k *keyturn, _ endedLogin) { k.do("grant", "revoke", "--all", "--yes") }},
	}
}

// A verifier that polls the status lists refuses an ended login in time, whatever ended it, at whatever replica, while
// others refresh, and while the keys turn. No good token is refused. KEYTURN_SOAK ends a thousand times.
func TestRevocationArrives(t *testing.T) {
	for name, c := range map[string]struct {
		replicas int
		postgres bool
	}{"sqlite": {2, false}, "postgres": {3, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newReplicas(t, c.replicas, c.postgres)
			s := &asking{
				resourceServer: resourceServer{name: "verify"},
				t:              t,
				keyturn:        k,
				listen:         freeAddress(t),
			}
			s.startServer()
			k.createLogins()
			load := k.load(s)
			for _, e := range endings() {
				took := s.endAll(e)
				slices.Sort(took)
				t.Logf("%s: %s ended %d times: refused after %v (median), %v (maximum)", name, e.name, len(took),
					took[len(took)/2].Round(100*time.Millisecond), took[len(took)-1].Round(100*time.Millisecond))
				if longest := took[len(took)-1]; longest > arrives {
					t.Errorf("%s: accepted for %v", e.name, longest)
				}
				switch e.name {
				case "a user":
					k.rotate("--force")
				case "a client":
					k.do("keys", "revoke", k.current(), "--reason=drill", "--yes")
				}
			}
			load()
		})
	}
}

// createLogins makes the users and clients of the test: those of the load are not ended.
func (k *keyturn) createLogins() {
	k.t.Helper()
	var lines strings.Builder
	for i := range endings()[1].times {
		fmt.Fprintf(&lines, "u%d\n", i)
	}
	for name := range strings.FieldsSeq(lines.String()) {
		k.doWith(k.password, "user", "create", name, "--password-stdin")
	}
	for _, name := range []string{"gone", "busy"} {
		k.doWith(k.appSecret, "client", "create", name, "--access-ttl=1h", "--audience="+k.audience, "--grant=password",
			"--grant=refresh_token", "--scope=read write", "--secret-stdin")
	}
}

// loginAs logs a user in at a client.
func (k *keyturn) loginAs(client, user string) (got tokens) {
	k.t.Helper()
	form := url.Values{"grant_type": {"password"}, "username": {user}, "password": {k.password}}
	for range 100 {
		status, body := k.post("/token", client, k.appSecret, form)
		if status == 200 && json.Unmarshal(body, &got) == nil {
			return got
		}
		time.Sleep(100 * time.Millisecond) // the replica is busy
	}
	k.t.Errorf("%s cannot log in at %s", user, client)
	return got
}

// load refreshes and verifies good tokens until the result is called, which fails the test if one was refused.
func (k *keyturn) load(s *asking) (stop func()) {
	var done atomic.Bool
	var asked, refused atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			held := k.loginAs("busy", k.username)
			for !done.Load() {
				form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {held.Refresh}}
				var next tokens
				status, body := k.post("/token", "busy", k.appSecret, form)
				switch {
				case status == 200 && json.Unmarshal(body, &next) == nil:
					held = next
				case status == 400: // everything was ended
					held = k.loginAs("busy", k.username)
				}
				if status, _, _ := s.ask(held.Access); status != 200 && k.active(held.Access) {
					refused.Add(1)
				}
				asked.Add(1)
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	return func() {
		done.Store(true)
		all.Wait()
		k.t.Logf("%d good tokens were verified meanwhile, %d refused", asked.Load(), refused.Load())
		if asked.Load() < 100 || refused.Load() > 0 {
			k.t.Errorf("of %d good tokens %d were refused", asked.Load(), refused.Load())
		}
	}
}

// active reports what introspection says of a token.
func (k *keyturn) active(token string) bool {
	_, body := k.post("/introspect", "api", k.apiSecret, url.Values{"token": {token}})
	return strings.Contains(string(body), `"active":true`)
}

// endAll ends logins one after the other, and returns how long the verifier accepted each.
func (s *asking) endAll(e ending) (took []time.Duration) {
	s.t.Helper()
	var mu sync.Mutex
	var waiting sync.WaitGroup
	var ended []string
	for i := range e.times {
		l := endedLogin{user: s.username, client: "gone"}
		if e.name == "a user" {
			l.user = fmt.Sprint("u", i)
		}
		l.tokens = s.loginAs(l.client, l.user)
		if status, body, _ := s.ask(l.Access); status != 200 {
			s.t.Errorf("%s: before its end: %d %s", e.name, status, body)
		}
		e.end(s.keyturn, l)
		begun := time.Now()
		ended = append(ended, l.Access)
		wait := func() {
			for {
				if status, _, _ := s.ask(l.Access); status == 401 {
					break
				}
				if time.Since(begun) > 2*arrives {
					s.t.Errorf("%s: still accepted after %v", e.name, time.Since(begun))
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(begun))
		}
		if e.name == "a client" || e.name == "everything" {
			wait() // the next end would end this one again
		} else {
			waiting.Go(wait)
		}
	}
	waiting.Wait()
	for range 3 { // a list of a replica that lags behind must not revive a login
		for _, token := range ended {
			if status, _, _ := s.ask(token); status != 401 {
				s.t.Errorf("%s: an ended login is accepted again", e.name)
			}
		}
		time.Sleep(time.Second)
	}
	return took
}
