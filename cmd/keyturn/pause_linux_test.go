package main

import (
	"encoding/json"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A server continues after it was stopped for longer than the retry window, like a suspended virtual machine. A client
// whose answer was lost repeats its refresh, and the server does not treat it as a thief.
func TestStoppedProcess(t *testing.T) {
	eachURL(t, func(t *testing.T, databaseURL string) {
		p := newProcess(t, databaseURL)
		p.environ = []string{"KEYTURN_REFRESH_RETRY_WINDOW=1s", "KEYTURN_REFRESH_LATE_RETRY=0s"}
		p.must("", "migrate", "up")
		crowd := p.crowd()
		p.start()
		refresh := func(form url.Values) (token string) {
			t.Helper()
			answer := p.post("/token", crowd.App.ID, url.QueryEscape(crowd.App.Secret), form)
			var tokens struct {
				RefreshToken string `json:"refresh_token"`
			}
			body := answer[strings.Index(answer, "{"):]
			if err := json.Unmarshal([]byte(body), &tokens); err != nil || tokens.RefreshToken == "" {
				t.Fatalf("%s %v", answer, err)
			}
			return tokens.RefreshToken
		}
		user := crowd.Users[0]
		first := refresh(url.Values{"grant_type": {"password"}, "username": {user.ID}, "password": {user.Secret}})
		again := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first}}
		second := refresh(again)
		for _, signal := range []os.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
			if err := p.running.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if signal == syscall.SIGSTOP {
				time.Sleep(5 * time.Second)
			}
		}
		if got := refresh(again); got != second {
			t.Error("the retry has another successor")
		}
	})
}
