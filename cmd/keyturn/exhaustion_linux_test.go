package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/server/servertest"
)

// peakMemory is the peak memory of a process in MiB.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	return procNumber(t, pid, "status", "VmHWM:") / 1024
}

// procNumber is the first number in the line of a file of /proc with a prefix.
func procNumber(t *testing.T, pid int, file, prefix string) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), prefix); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("/proc/%d/%s has no %s", pid, file, prefix)
	return 0
}

// outcome is the result of one request.
type outcome struct {
	status     int // 0: no answer
	took       time.Duration
	retryAfter string
}

// ask sends a form.
func (p *process) ask(ctx context.Context, path, client, secret string, form url.Values) (o outcome) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.base()+path, strings.NewReader(form.Encode()))
	if err != nil {
		p.t.Error(err)
		return o
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(url.QueryEscape(client), url.QueryEscape(secret))
	began := time.Now()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return o
	}
	defer res.Body.Close()
	return outcome{res.StatusCode, time.Since(began), res.Header.Get("Retry-After")}
}

// appSession is a login of the app that refreshes, and introspects its first access token.
type appSession struct {
	p           *process
	app, server servertest.Party
	access      string
	refreshing  string // the newest refresh token
	unavailable []string
}

func (p *process) login(crowd *servertest.Crowd, form url.Values) *appSession {
	p.t.Helper()
	s := &appSession{p: p, app: crowd.App, server: crowd.Server}
	answer := p.post("/token", s.app.ID, url.QueryEscape(s.app.Secret), form)
	s.access, s.refreshing = field(answer, "access_token"), field(answer, "refresh_token")
	if s.access == "" || s.refreshing == "" {
		p.t.Fatalf("the login is answered with %s", answer)
	}
	return s
}

// field is a field of a JSON answer, or "".
func field(answer, name string) string {
	found := regexp.MustCompile(`"` + name + `":"([^"]*)"`).FindStringSubmatch(answer)
	return append(found, "", "")[1]
}

// refresh refreshes once. After 503 with Retry-After, which a stalled disk can cause, the next call repeats the
// request.
func (s *appSession) refresh() time.Duration {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {s.refreshing}}
	began := time.Now()
	answer := s.p.post("/token", s.app.ID, url.QueryEscape(s.app.Secret), form)
	took := time.Since(began)
	next := field(answer, "refresh_token")
	switch {
	case next != "":
		s.refreshing = next
	case strings.HasPrefix(answer, "503 ") && strings.Contains(answer, "Retry-After"):
		s.unavailable = append(s.unavailable, fmt.Sprintf("after %v: %s", took, answer))
	default:
		s.p.t.Errorf("a refresh is answered after %v with %s", took, answer)
	}
	return took
}

func (s *appSession) introspect() time.Duration {
	form := url.Values{"token": {s.access}}
	return s.p.ask(context.Background(), "/introspect", s.server.ID, s.server.Secret, form).took
}

// durations are the times of refreshes and introspections.
type durations struct{ refresh, introspection []time.Duration }

func (d *durations) measure(s *appSession) {
	d.introspection = append(d.introspection, s.introspect())
	d.refresh = append(d.refresh, s.refresh())
}

func (d *durations) String() string {
	return fmt.Sprintf("introspection %s; refresh %s", spread(d.introspection), spread(d.refresh))
}

// During five hundred logins at once, the slots serve logins at their pace, the other logins get 503 with Retry-After,
// memory stays bounded, and refreshes and introspections go on. Clients that hang up leave nothing behind.
func TestHashExhaustion(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "sqlite:"+t.TempDir()+"/keyturn.db")
	p.environ = []string{"KEYTURN_PASSWORD_HASH_SLOTS=2"}
	p.hashMemory = "32MiB" // more hashes at once than slots are visible, also under the race detector
	p.must("", "migrate", "up")
	crowd := p.crowd()
	p.start()
	pid := p.running.Process.Pid
	if limit := procNumber(t, pid, "limits", "Max core file size"); limit != 0 {
		t.Errorf("core dumps of %d bytes are allowed", limit)
	}
	login := url.Values{"grant_type": {"password"}, "username": {"user1"}, "password": {crowd.Users[1].Secret}}
	session := p.login(crowd, login)
	var warm, normal, busy durations
	for range 50 {
		warm.measure(session)
	}
	before, peak := p.footprint(), peakMemory(t, pid)
	for range 200 {
		normal.measure(session)
	}
	served, refused := p.flood(t, login, crowd.App.Secret, 500, func() { busy.measure(session) })
	if served == 0 ||
		refused == 0 ||
		served+refused != 500 {
		t.Errorf("%d served, %d refused", served, refused)
	}
	grown := peakMemory(t, pid) - peak
	t.Logf("%d served, %d refused; before: %v; in the flood: %v; memory grown by %d MiB",
		served, refused, &normal, &busy, grown)
	if bound := (2*32 + 64) * memoryFactor; grown > bound {
		t.Errorf("memory has grown by %d MiB, the bound is %d", grown, bound)
	}
	refreshes := len(warm.refresh) + len(normal.refresh) + len(busy.refresh)
	if n := len(session.unavailable); n > 0 {
		t.Logf("%d of %d refreshes got 503 first: %s", n, refreshes, session.unavailable[0])
	}
	if len(session.unavailable) > refreshes/20 {
		t.Error("too many refreshes got 503")
	}
	hangUp(p, login, crowd.App.Secret)
	p.returnsTo(before)
}

// spread is the median and the 99th percentile.
func spread(all []time.Duration) string {
	slices.Sort(all)
	return fmt.Sprintf(
		"p50 %v, p99 %v",
		all[len(all)/2].Round(10*time.Microsecond),
		all[len(all)*99/100].Round(10*time.Microsecond),
	)
}

// flood logs in n times at once, and repeats something else meanwhile.
func (p *process) flood(t *testing.T, login url.Values, secret string, n int, meanwhile func()) (served, refused int) {
	t.Helper()
	outcomes, slowest := make(chan outcome, n), time.Duration(0)
	for range n {
		go func() { outcomes <- p.ask(context.Background(), "/token", "app", secret, login) }()
	}
	done := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				meanwhile()
			}
		}
	})
	for range n {
		switch o := <-outcomes; {
		case o.status == http.StatusOK:
			served++
		case o.status == http.StatusServiceUnavailable && o.retryAfter != "":
			refused++
			slowest = max(slowest, o.took)
		default:
			t.Errorf("%+v", o)
		}
	}
	close(done)
	asking.Wait()
	// The promise is 1 s.
	if t.Logf("the slowest refusal came after %v", slowest.Round(time.Millisecond)); slowest > 8*time.Second {
		t.Errorf("a refusal came after %v", slowest)
	}
	return served, refused
}

// hangUp logs in many times and hangs up before the answer.
func hangUp(p *process, login url.Values, secret string) {
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
			defer cancel()
			p.ask(ctx, "/token", "app", secret, login)
		})
	}
	all.Wait()
}
