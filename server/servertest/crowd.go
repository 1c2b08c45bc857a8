// Package servertest simulates clients that record the answers of a server, and checks that the server keeps its
// promises.
//
// A [Crowd] logs in, refreshes, introspects and revokes while a test injects faults. Afterwards [Crowd.Check] reports
// every broken promise: a complete token response that the server does not honour (I1), a revocation without effect
// (I2), two usable refresh tokens of one grant, or a second successor (I3), a failed retry (I4), a live token whose key
// is gone (I5).
package servertest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	_ "modernc.org/sqlite" // to look at a database file
)

// Soak reports whether tests should run long, as for `make soak`.
func Soak() bool { return os.Getenv("KEYTURN_SOAK") != "" }

// Times returns how often to repeat something: short, or long with Soak.
func Times(short, long int) int {
	if Soak() {
		return long
	}
	return short
}

// Party is a client or a user, with its secret.
type Party struct{ ID, Secret string }

// Crowd simulates clients of one or more replicas.
type Crowd struct {
	Bases  []string // URLs of the replicas
	App    Party    // a client with both grants
	Server Party    // the resource server of the app's audience
	Users  []Party
	HTTP   *http.Client // nil: a client with a timeout of ten seconds

	Lossy bool          // the database may lose its last commits: logins and revocations may be gone
	Slow  time.Duration // limit of the duration of an answer; 0: no limit
	Pause time.Duration // between two requests of a worker

	slowest  atomic.Int64
	mu       sync.Mutex
	sessions []*session
	broken   []string
	Answers  atomic.Int64 // number of 200
	Refusals atomic.Int64 // number of 503
	Losses   atomic.Int64 // number of requests without an answer
	lost     atomic.Int64 // number of promises that only a loss of commits explains
}

// session is the journal of one login.
type session struct {
	refresh string   // the newest refresh token
	used    []string // the replaced refresh tokens, oldest first
	access  []access
	pending bool // a refresh had no answer
	ending  bool // a revocation was sent
	ended   bool // the revocation was answered
}

// inDoubt reports whether a request of the session had no answer.
func (s *session) inDoubt() bool {
	if s.ending {
		return !s.ended
	}
	return s.pending
}

type access struct {
	text    string
	expires time.Time
}

// report records a broken promise. It keeps the first 20.
func (c *Crowd) report(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.broken) < 20 {
		c.broken = append(c.broken, fmt.Sprintf(format, args...))
	}
}

// gone records a broken promise that the loss of commits would explain.
func (c *Crowd) gone(format string, args ...any) {
	if c.Lossy {
		c.lost.Add(1)
	} else {
		c.report(format, args...)
	}
}

// answer is a response. Its status is 0 if no complete response arrived.
type answer struct {
	status int
	body   []byte
}

// unknown reports whether the client cannot know if the server acted.
func (a answer) unknown() bool { return a.status == 0 || a.status == http.StatusServiceUnavailable }

func (c *Crowd) client() *http.Client {
	if c.HTTP == nil {
		return patient
	}
	return c.HTTP
}

// patient is the default client.
var patient = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}

// post sends a form to a random replica, and checks the response against the contract.
func (c *Crowd) post(path string, as Party, form url.Values) answer {
	base := c.Bases[rand.IntN(len(c.Bases))]
	r, err := http.NewRequest(http.MethodPost, base+path, strings.NewReader(form.Encode()))
	if err != nil {
		c.report("%v", err)
		return answer{}
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(url.QueryEscape(as.ID), url.QueryEscape(as.Secret))
	began := time.Now()
	res, err := c.client().Do(r)
	if err != nil {
		c.Losses.Add(1)
		if took := time.Since(began); c.Slow > 0 && took > c.Slow {
			c.report("%s had no answer after %v", path, took)
		}
		return answer{}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.Losses.Add(1)
		return answer{}
	}
	took := time.Since(began)
	c.noteSlowest(took)
	if c.Slow > 0 && took > c.Slow {
		c.report("%s took %v", path, took)
	}
	switch res.StatusCode {
	case http.StatusOK:
		c.Answers.Add(1)
	case http.StatusServiceUnavailable:
		c.Refusals.Add(1)
		if res.Header.Get("Retry-After") == "" || !strings.Contains(string(body), `"temporarily_unavailable"`) {
			c.report("%s: 503 without Retry-After or code: %s", path, body)
		}
	case http.StatusBadRequest:
	default:
		c.report("%s: %d %s", path, res.StatusCode, body)
	}
	return answer{res.StatusCode, body}
}

// noteSlowest keeps the longest duration of an answer.
func (c *Crowd) noteSlowest(took time.Duration) {
	for {
		slowest := c.slowest.Load()
		if int64(took) <= slowest || c.slowest.CompareAndSwap(slowest, int64(took)) {
			return
		}
	}
}

// roundTrip sends a request and reads the response. The status is 0 if no complete response arrived.
func roundTrip(client *http.Client, request *http.Request) (status int, header http.Header, body []byte) {
	res, err := client.Do(request)
	if err != nil {
		return 0, nil, nil
	}
	defer res.Body.Close()
	if body, err = io.ReadAll(res.Body); err != nil {
		return 0, nil, nil
	}
	return res.StatusCode, res.Header, body
}

// Well waits until a login and a refresh succeed, and returns how long that took.
func (c *Crowd) Well(within time.Duration) time.Duration {
	began := time.Now()
	for time.Since(began) < within {
		if s := c.login(c.Users[0]); s != nil {
			if c.renew(s); !s.pending {
				return time.Since(began)
			}
		}
	}
	c.report("no login and refresh succeeded within %v", within)
	return within
}

// Run runs workers until the context ends.
func (c *Crowd) Run(ctx context.Context, workers int) {
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() { c.work(ctx, c.Users[i%len(c.Users)]) })
	}
	all.Wait()
}

// work logs in and then chooses random requests for a few sessions.
func (c *Crowd) work(ctx context.Context, u Party) {
	var mine []*session
	for ; ctx.Err() == nil; time.Sleep(c.Pause) {
		if len(mine) < 3 {
			if s := c.login(u); s != nil {
				mine = append(mine, s)
			}
			continue
		}
		i := rand.IntN(len(mine))
		s := mine[i]
		switch n := rand.IntN(20); {
		case s.ending:
			if c.revoke(s); s.ended {
				mine = slices.Delete(mine, i, i+1)
			}
		case s.pending, n < 10:
			c.renew(s)
		case n < 12:
			c.renewTwice(s)
		case n < 19:
			c.introspect(s)
		default:
			c.revoke(s)
		}
	}
}

func (c *Crowd) login(u Party) *session {
	a := c.post("/token", c.App, url.Values{"grant_type": {"password"}, "username": {u.ID}, "password": {u.Secret}})
	if a.status != http.StatusOK {
		if !a.unknown() {
			c.report("login of %s: %d %s", u.ID, a.status, a.body)
		}
		time.Sleep(5 * time.Millisecond)
		return nil
	}
	s := &session{}
	if !c.take(s, a) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions = append(c.sessions, s)
	return s
}

// take records a token response.
func (c *Crowd) take(s *session, a answer) bool {
	var t struct {
		AccessToken  string `json:"access_token"`
		RefreshToken string `json:"refresh_token"`
		ExpiresIn    int    `json:"expires_in"`
	}
	err := json.Unmarshal(a.body, &t)
	if err != nil ||
		t.AccessToken == "" ||
		t.RefreshToken == "" {
		c.report("a token answer without tokens: %s", a.body)
		return false
	}
	if s.refresh != "" && s.refresh != t.RefreshToken {
		s.used = append(s.used, s.refresh)
	}
	s.refresh, s.pending = t.RefreshToken, false
	s.access = append(s.access, access{t.AccessToken, time.Now().Add(time.Duration(t.ExpiresIn-2) * time.Second)})
	if len(s.access) > 3 {
		s.access = s.access[1:]
	}
	return true
}

func (c *Crowd) send(token string) answer {
	return c.post("/token", c.App, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}})
}

// renew refreshes a session. Without an answer, the session is pending, and the next renew is a retry.
func (c *Crowd) renew(s *session) {
	retry := s.pending
	switch a := c.send(s.refresh); {
	case a.status == http.StatusOK:
		c.take(s, a)
	case a.unknown():
		s.pending = true
		time.Sleep(20 * time.Millisecond)
	default:
		c.gone("a valid refresh is refused (retry: %v): %d %s", retry, a.status, a.body)
		s.ending, s.ended = true, true
	}
}

// renewTwice sends the same refresh token twice at the same time, as two tabs of a browser would. Both responses have
// the same successor.
func (c *Crowd) renewTwice(s *session) {
	answers := make(chan answer)
	for range 2 {
		go func() { answers <- c.send(s.refresh) }()
	}
	a, b := <-answers, <-answers
	if a.status == http.StatusOK &&
		b.status == http.StatusOK &&
		successor(a) != successor(b) {
		c.report("one refresh token has two successors")
	}
	for _, x := range []answer{a, b} {
		switch {
		case x.status == http.StatusOK:
			c.take(s, x)
		case x.unknown():
			s.pending = true
		default:
			c.gone("one of two simultaneous refreshes is refused: %d %s", x.status, x.body)
			s.ending, s.ended = true, true
		}
	}
}

func successor(a answer) string {
	var t struct {
		RefreshToken string `json:"refresh_token"`
	}
	json.Unmarshal(a.body, &t) // take reports an error
	return t.RefreshToken
}

// introspect checks that the newest access token is active exactly while its login lives.
func (c *Crowd) introspect(s *session) {
	t := s.access[len(s.access)-1]
	began := time.Now()
	a := c.post("/introspect", c.Server, url.Values{"token": {t.text}})
	switch active := strings.Contains(string(a.body), `"active":true`); {
	case a.unknown():
	case a.status != http.StatusOK:
		c.report("introspection: %d %s", a.status, a.body)
	case !active &&
		!s.ending &&
		began.Before(t.expires):
		c.gone("introspection: a live token is inactive")
	case active && s.ended:
		c.gone("introspection: a revoked token is active")
	}
}

func (c *Crowd) revoke(s *session) {
	s.ending = true
	switch a := c.post("/revoke", c.App, url.Values{"token": {s.refresh}}); {
	case a.status == http.StatusOK:
		s.ended = true
	case !a.unknown():
		c.report("revocation: %d %s", a.status, a.body)
	default:
		time.Sleep(20 * time.Millisecond)
	}
}

// CloseIdle closes idle connections of the default client.
func CloseIdle() { patient.CloseIdleConnections() }
