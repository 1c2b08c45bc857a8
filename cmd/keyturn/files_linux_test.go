package main

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// With few descriptors and many idle connections on both listeners, both still answer, and the server reaches its
// database.
func TestFewDescriptors(t *testing.T) {
	eachURL(t, func(t *testing.T, databaseURL string) {
		p := newProcess(t, databaseURL)
		p.must("", "migrate", "up")
		p.wrapper = `ulimit -n 256; exec "$0" "$@"`
		p.start()
		admin := "http://127.0.0.1:" + p.admin
		var idle []net.Conn
		for i, address := range []string{"127.0.0.1:" + p.port, "127.0.0.1:" + p.admin} {
			for range 400 - 300*i {
				conn, err := net.Dial("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				idle = append(idle, conn)
			}
		}
		fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
		get := func(url string) string {
			t.Helper()
			r, err := fresh.Get(url)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			if err != nil || r.StatusCode != http.StatusOK {
				t.Errorf("%s: %s %v", url, r.Status, err)
			}
			return string(body)
		}
		for range 20 {
			get(p.base() + "/readyz")
			get(admin + "/readyz")
		}
		metrics := get(admin + "/metrics")
		for _, listener := range []string{"public", "admin"} {
			noneClosed := `keyturn_connections_closed_total{listener="` + listener + `",reason="idle"} 0` + "\n"
			noErrors := `keyturn_accept_errors_total{listener="` + listener + `"} 0` + "\n"
			if strings.Contains(metrics, noneClosed) || !strings.Contains(metrics, noErrors) {
				t.Errorf("%s: descriptors ran out, or no connection was closed", listener)
			}
		}
		for _, conn := range idle {
			conn.Close()
		}
		c := p.running
		p.running = nil
		if err := ends(t, c); err != nil {
			t.Errorf("it ends with %v", err)
		}
	})
}
