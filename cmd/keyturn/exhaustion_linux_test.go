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
)

// peakMemory is the most that a process has ever held, in MiB.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	return procNumber(t, pid, "status", "VmHWM:") / 1024
}

// procNumber is the first number in the line of a file of /proc that begins with a word.
func procNumber(t *testing.T, pid int, file, begins string) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), begins); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("/proc/%d/%s has no %s", pid, file, begins)
	return 0
}

// outcome is how one request went.
type outcome struct {
	status     int
	took       time.Duration
	retryAfter string
}

// ask sends a form and tells how that went; status 0 for no answer.
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

// Five hundred logins at once: they are served at the pace of the slots, the rest is told soon to come back, memory
// stays within the slots, and introspection goes on. Clients that hang up leave nothing behind.
func TestHashExhaustion(t *testing.T) {
	p := newProcess(t, "sqlite:"+t.TempDir()+"/keyturn.db")
	t.Setenv("KEYTURN_PASSWORD_HASH_SLOTS", "2")
	p.hashMemory = "32MiB" // so much that more hashes than slots at once would be seen, also under the race detector
	p.must("", "migrate", "up")
	crowd := p.crowd()
	p.start()
	if limit := procNumber(t, p.running.Process.Pid, "limits", "Max core file size"); limit != 0 {
		t.Errorf("core dumps of %d bytes are allowed", limit)
	}
	login := url.Values{"grant_type": {"password"}, "username": {"user1"}, "password": {crowd.Users[1].Secret}}
	answer := p.post("/token", "app", url.QueryEscape(crowd.App.Secret), login)
	field := func(name string) string {
		found := regexp.MustCompile(`"` + name + `":"([^"]*)"`).FindStringSubmatch(answer)
		if found == nil {
			t.Errorf("no %s in %q", name, answer)
			return ""
		}
		return found[1]
	}
	token := field("access_token")
	refresh := func() time.Duration {
		began := time.Now()
		answer = p.post(
			"/token",
			"app",
			url.QueryEscape(crowd.App.Secret),
			url.Values{"grant_type": {"refresh_token"}, "refresh_token": {field("refresh_token")}},
		)
		return time.Since(began)
	}
	introspect := func() outcome {
		return p.ask(context.Background(), "/introspect", "api", crowd.Server.Secret, url.Values{"token": {token}})
	}
	for range 50 {
		introspect()
		refresh()
	}
	before, peak := p.footprint(), peakMemory(t, p.running.Process.Pid)
	var normal, busy, normalRefresh, busyRefresh []time.Duration
	for range 200 {
		normal, normalRefresh = append(normal, introspect().took), append(normalRefresh, refresh())
	}
	served, refused := p.flood(t, login, crowd.App.Secret, 500, func() {
		busy, busyRefresh = append(busy, introspect().took), append(busyRefresh, refresh())
	})
	if served == 0 ||
		refused == 0 ||
		served+refused != 500 {
		t.Errorf("%d served, %d refused", served, refused)
	}
	grown := peakMemory(t, p.running.Process.Pid) - peak
	t.Logf(
		"%d served, %d refused; introspection %s, in the flood %s; refresh %s, in the flood %s; memory grown by %d MiB",
		served,
		refused,
		spread(normal),
		spread(busy),
		spread(normalRefresh),
		spread(busyRefresh),
		grown,
	)
	if bound := (2*32 + 64) * memoryFactor; grown > bound {
		t.Errorf("memory has grown by %d MiB, the bound is %d", grown, bound)
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

// flood logs in n times at once, and does something else meanwhile, again and again.
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
	// 1 s is promised
	if t.Logf("the slowest refusal came after %v", slowest.Round(time.Millisecond)); slowest > 8*time.Second {
		t.Errorf("a refusal came after %v", slowest)
	}
	return served, refused
}

// hangUp logs in many times and goes away before the answer.
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
