package server

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// tenNet trusts proxies in 10.0.0.0/8 and in fd00::/8.
var tenNet = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}

// forwarded is a request from a peer with some X-Forwarded-For.
func forwarded(peer string, values ...string) *http.Request {
	r := &http.Request{RemoteAddr: peer, Header: http.Header{}}
	for _, v := range values {
		r.Header.Add("X-Forwarded-For", v)
	}
	return r
}

// Every form that proxies write gives the client's address. What cannot be read ends the walk at the last trusted
// proxy.
func TestClientAddress(t *testing.T) {
	t.Parallel()
	const peer = "10.0.0.1:1"
	for _, c := range []struct {
		peer, forwarded, want string
		unreadable            bool
	}{
		{peer: "192.0.2.1:1", forwarded: "203.0.113.1", want: "192.0.2.1"},
		{peer: "192.0.2.1:1", forwarded: "garbage", want: "192.0.2.1"},
		{peer: peer, want: "10.0.0.1"},
		{peer: peer, forwarded: "203.0.113.1", want: "203.0.113.1"},
		{peer: peer, forwarded: "198.51.100.1, 203.0.113.1, 10.0.0.2", want: "203.0.113.1"},
		{peer: peer, forwarded: "garbage, 203.0.113.1", want: "203.0.113.1"},
		{peer: "[::ffff:10.0.0.1]:1", forwarded: "203.0.113.1", want: "203.0.113.1"},
		{peer: "[fd00::1]:1", forwarded: "203.0.113.1", want: "203.0.113.1"},
		{peer: peer, forwarded: "198.51.100.66:41234", want: "198.51.100.66"},
		{peer: peer, forwarded: "198.51.100.66:41234, 10.0.0.2:443", want: "198.51.100.66"},
		{peer: peer, forwarded: "2001:db8:1:2:3:4:5:6", want: "2001:db8:1:2:3:4:5:6"},
		{peer: peer, forwarded: "[2001:db8::1]", want: "2001:db8::1"},
		{peer: peer, forwarded: "[2001:db8::1]:41234", want: "2001:db8::1"},
		{peer: peer, forwarded: `"[2001:db8::1]:41234"`, want: "2001:db8::1"},
		{peer: peer, forwarded: `"198.51.100.66"`, want: "198.51.100.66"},
		{peer: peer, forwarded: "fe80::1%eth0", want: "fe80::1"},
		{peer: peer, forwarded: "[fe80::1%eth0]", want: "fe80::1"},
		{peer: peer, forwarded: "[fe80::1%eth0]:80", want: "fe80::1"},
		{peer: peer, forwarded: "[fd00::2]:80 , \t", want: "fd00::2"},
		{peer: peer, forwarded: "203.0.113.1,\t198.51.100.66 ,,, 10.0.0.2,", want: "198.51.100.66"},
		{peer: peer, forwarded: "::ffff:198.51.100.66", want: "198.51.100.66"},
		{peer: peer, forwarded: "[::ffff:198.51.100.66]:80", want: "198.51.100.66"},
		{peer: peer, forwarded: "203.0.113.1, ::ffff:10.0.0.2", want: "203.0.113.1"},
		{peer: peer, forwarded: "garbage, 10.0.0.2", want: "10.0.0.2", unreadable: true},
		{peer: peer, forwarded: "203.0.113.1, unknown", want: "10.0.0.1", unreadable: true},
		{peer: peer, forwarded: "_hidden", want: "10.0.0.1", unreadable: true},
		{peer: peer, forwarded: "203.0.113.1:", want: "10.0.0.1", unreadable: true},
		{peer: peer, forwarded: "203.0.113.1:http", want: "10.0.0.1", unreadable: true},
		{peer: peer, forwarded: "203.0.113.1:70000", want: "10.0.0.1", unreadable: true},
		{peer: peer, forwarded: "[203.0.113.1]", want: "10.0.0.1", unreadable: true},
		{peer: peer, forwarded: "[2001:db8::1", want: "10.0.0.1", unreadable: true},
		{peer: peer, forwarded: "203.0.113.1 10.0.0.2", want: "10.0.0.1", unreadable: true},
		{peer: peer, forwarded: "010.1.2.3", want: "10.0.0.1", unreadable: true},
	} {
		r := forwarded(c.peer)
		if c.forwarded != "" {
			r = forwarded(c.peer, c.forwarded)
		}
		if got, readable := clientAddress(r, tenNet); got.String() != c.want || readable == c.unreadable {
			t.Errorf("%+v: %s, readable %v", c, got, readable)
		}
	}
	several := forwarded(peer, "198.51.100.1", "203.0.113.1:80, 10.0.0.3", "", "10.0.0.2")
	if got, readable := clientAddress(several, tenNet); got.String() != "203.0.113.1" || !readable {
		t.Errorf("several headers: %s", got)
	}
	if got, _ := clientAddress(forwarded(peer, "203.0.113.1"), nil); got.String() != "10.0.0.1" {
		t.Errorf("without trusted proxies: %s", got)
	}
	if got := subscriber(netip.MustParseAddr("2001:db8:1:2:3:4:5:6")).String(); got != "2001:db8:1:2::" {
		t.Errorf("an IPv6 subscriber is %s", got)
	}
}

// Users behind a proxy that writes ports do not share a throttle.
func TestPortsInForwardedForDoNotMakeUsersOne(t *testing.T) {
	t.Parallel()
	eachThrottled(t, func(t *testing.T, h *Harness) {
		h.LoginFrom("192.0.2.1:1000", "alice", password).Tokens(t)
		for range 12 {
			h.LoginFrom("203.0.113.1:1000", "alice", "wrong")
		}
		h.LoginFrom("192.0.2.1:2000", "alice", password).Tokens(t)
	})
}

// The log names the proxy that writes what cannot be read, at most once a minute and without what it wrote. The
// metric counts each.
func TestUnreadableForwardedForIsTold(t *testing.T) {
	t.Parallel()
	eachThrottled(t, func(t *testing.T, h *Harness) {
		send := func(value string) {
			r := Must(http.NewRequest(http.MethodGet, h.Base+"/livez", nil))
			r.Header.Set("X-Forwarded-For", value)
			h.Send(r)
		}
		warnings := func() int { return strings.Count(h.Log.String(), `"event":"forwarded"`) }
		for range 3 {
			send("_hidden")
		}
		if warnings() != 1 || !strings.Contains(h.Log.String(), `"proxy":"127.0.0.1"`) {
			t.Errorf("%d warnings", warnings())
		}
		h.Step(time.Minute - time.Second)
		send("unknown, 127.0.0.9")
		if warnings() != 1 {
			t.Errorf("%d warnings within a minute", warnings())
		}
		h.Step(time.Second)
		send("unknown, 127.0.0.9")
		send("203.0.113.1:80")
		if warnings() != 2 || !strings.Contains(h.Log.String(), `"proxy":"127.0.0.9"`) {
			t.Errorf("%d warnings after a minute", warnings())
		}
		if strings.Contains(h.Log.String(), "_hidden") {
			t.Error("what was sent is in the log")
		}
		if !strings.Contains(h.metricsText(), "\nkeyturn_forwarded_unreadable_total 5\n") {
			t.Error("the metric does not count five")
		}
	})
}

// Whatever a proxy sends on: the address is a plain one, it is that of the peer or of an element, and only a trusted
// proxy's word counts.
func FuzzForwardedFor(f *testing.F) {
	for _, seed := range []string{
		"203.0.113.1", "198.51.100.66:41234", "[2001:db8::1]:80", "[fe80::1%eth0]", "a, ,\t10.0.0.2", `"[::1]"`,
		"_hidden", "unknown",
		"::ffff:10.0.0.1", "1.2.3.4:", "[[::1]]:1", "%", "10.0.0.1, fd00::1, ::",
	} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		got, readable := clientAddress(forwarded("10.0.0.1:1", first, second), tenNet)
		if !got.IsValid() || got.Zone() != "" || got.Is4In6() {
			t.Fatalf("%q, %q: %v", first, second, got)
		}
		if !readable && !isTrusted(got, tenNet) {
			t.Fatalf("%q, %q: the walk ends at %v, which is no trusted proxy", first, second, got)
		}
		joined, same := clientAddress(forwarded("10.0.0.1:1", first+","+second), tenNet)
		if joined != got || same != readable {
			t.Fatalf("%q, %q: two headers give %v, one gives %v", first, second, got, joined)
		}
		if own, _ := clientAddress(forwarded("192.0.2.1:1", first, second), tenNet); own.String() != "192.0.2.1" {
			t.Fatalf("%q, %q: a stranger's word counts: %v", first, second, own)
		}
	})
}
