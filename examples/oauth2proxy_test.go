//go:build interop

package examples_test

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"
)

// oauth2-proxy lets requests through by their tokens, with the flags of docs/verify-more.md.
func TestOAuth2Proxy(t *testing.T) {
	t.Parallel()
	const audience = "https://api.example.com"
	k := newKeyturn(t, audience, true, "--openid-configuration-alias=true")
	listen := k.startOAuth2Proxy()
	gatekeeper{k, "app", func(token string) bool { return throughProxy(t, listen, token) }}.judges()
	if throughProxy(t, listen, "") {
		t.Error("a request without a token passes")
	}
}

// startOAuth2Proxy starts oauth2-proxy before an application that answers "hello", and returns its address.
func (k *keyturn) startOAuth2Proxy() (listen string) {
	k.t.Helper()
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("hello"))
	}))
	k.t.Cleanup(application.Close)
	command := k.settings("oauth2-proxy ", k.issuer) // its audience is that of the test
	tools, err := filepath.Abs("../bin/interop")
	if err != nil {
		k.t.Fatal(err)
	}
	cookie := make([]byte, 32)
	rand.Read(cookie)
	listen = freeAddress(k.t)
	start(k.t, folder(k.t, "oauth2-proxy"), "exec "+tools+"/"+command+" --http-address="+listen+
		" --upstream="+application.URL+" --provider=github --client-id=none --client-secret=none --email-domain='*'"+
		" --cookie-secret="+base64.URLEncoding.EncodeToString(cookie))
	await(k.t, "oauth2-proxy", time.Minute, func() bool {
		r, err := http.Get("http://" + listen + "/ping")
		if err == nil {
			r.Body.Close()
		}
		return err == nil
	})
	return listen
}

// throughProxy reports whether a request with a token reaches the application.
func throughProxy(t *testing.T, listen, token string) bool {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, "http://"+listen+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != 200 && answer.StatusCode != 401 && answer.StatusCode != 403 {
		t.Errorf("%d", answer.StatusCode)
	}
	return answer.StatusCode == 200
}
