//go:build deploy

package deploy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/server/servertest"
)

// patient is the client of a crowd that has none.
var patient = &http.Client{Timeout: 10 * time.Second}

// login is one login of the first user of a crowd.
type login struct {
	crowd *servertest.Crowd
	base  string // URL of the server
	token string // the newest refresh token
}

func newLogin(t *testing.T, c *servertest.Crowd) *login {
	t.Helper()
	l, err := tryLogin(c, c.Bases[0])
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func tryLogin(c *servertest.Crowd, base string) (*login, error) {
	l := &login{crowd: c, base: base}
	user := c.Users[0]
	return l, l.post(url.Values{"grant_type": {"password"}, "username": {user.ID}, "password": {user.Secret}})
}

// served waits until a login and its refresh succeed at each server.
func served(t *testing.T, c *servertest.Crowd, within time.Duration) {
	t.Helper()
	for _, base := range c.Bases {
		await(t, "clients are served by "+base, within, func() error {
			l, err := tryLogin(c, base)
			if err != nil {
				return err
			}
			return l.refresh()
		})
	}
}

// goesOn reports whether the login can be refreshed. It asks again while the answer does not tell.
func (l *login) goesOn(t *testing.T) bool {
	t.Helper()
	ended := false
	await(t, "an answer about a login", time.Minute, func() error {
		err := l.refresh()
		if ended = err != nil && strings.Contains(err.Error(), "invalid_grant"); ended {
			return nil
		}
		return err
	})
	return !ended
}

// refresh refreshes the login. The error is nil only if that worked.
func (l *login) refresh() error {
	return l.post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {l.token}})
}

// revoke ends the login.
func (l *login) revoke() error {
	_, err := l.send("/revoke", url.Values{"token": {l.token}})
	return err
}

func (l *login) post(form url.Values) error {
	body, err := l.send("/token", form)
	if err != nil {
		return err
	}
	var got struct {
		Token string `json:"refresh_token"`
	}
	if json.Unmarshal(body, &got) != nil || got.Token == "" {
		return fmt.Errorf("no refresh token: %s", body)
	}
	l.token = got.Token
	return nil
}

// send sends a form and returns the body of a 200.
func (l *login) send(path string, form url.Values) ([]byte, error) {
	r, err := http.NewRequest(http.MethodPost, l.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(url.QueryEscape(l.crowd.App.ID), url.QueryEscape(l.crowd.App.Secret))
	client := l.crowd.HTTP
	if client == nil {
		client = patient
	}
	answer, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, body)
	}
	return body, err
}
