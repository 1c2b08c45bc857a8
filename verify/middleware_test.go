package verify_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/verify"
)

func TestMiddleware(t *testing.T) {
	t.Parallel()
	i := newIssuer()
	var c counted
	v := newVerifier(t, i, func(conf *verify.Config) { conf.Counters = &c })
	h := v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, verify.FromContext(r.Context()).Subject)
	}), "read write")
	ask := func(headers ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/", nil)
		for _, header := range headers {
			r.Header.Add("Authorization", header)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	good := token(nil)
	bearer := func(raw string) []string { return []string{"Bearer " + raw} }
	for what, c := range map[string]struct {
		headers   []string
		status    int
		challenge string
	}{
		"a good token":       {[]string{"Bearer " + good}, 200, ""},
		"in small letters":   {[]string{"bearer   " + good + " "}, 200, ""},
		"no header":          {nil, 401, `Bearer realm="https://api.example.com"`},
		"an empty header":    {[]string{""}, 401, `Bearer realm="https://api.example.com"`},
		"another scheme":     {[]string{"Basic YTpi"}, 401, `Bearer realm="https://api.example.com"`},
		"no token":           {[]string{"Bearer"}, 400, `error="invalid_request"`},
		"two words":          {[]string{"Bearer a b"}, 400, `error="invalid_request"`},
		"two headers":        {[]string{"Bearer " + good, "Bearer " + good}, 400, `error="invalid_request"`},
		"a bad token":        {[]string{"Bearer x"}, 401, `error="invalid_token"`},
		"an expired token":   {bearer(token(map[string]any{"exp": 1})), 401, `error="invalid_token"`},
		"too little scope":   {bearer(token(map[string]any{"scope": "read"})), 403, `error="insufficient_scope"`},
		"no scope":           {bearer(token(map[string]any{"scope": nil})), 403, `, scope="read write"`},
		"a list nobody read": {bearer(withStatus(listURL, 1)), 401, `error="invalid_token"`},
	} {
		w := ask(c.headers...)
		challenge := w.Header().Get("WWW-Authenticate")
		if w.Code != c.status ||
			!strings.Contains(challenge, c.challenge) ||
			(c.challenge == "") != (challenge == "") ||
			strings.HasSuffix(c.challenge, `com"`) && challenge != c.challenge {
			t.Errorf("%s: %d %q", what, w.Code, challenge)
		}
		if (w.Code == 200) != (w.Body.String() == "usr_1") || strings.Contains(w.Body.String(), good) {
			t.Errorf("%s: %s", what, w.Body)
		}
	}
	if c.refused.Load() != 11 {
		t.Errorf("%d refusals counted", c.refused.Load())
	}
	i.with(func() { i.away = true })
	h = newVerifier(t, i, nil).Middleware(h)
	if w := ask("Bearer " + good); w.Code != 503 || w.Header().Get("Retry-After") == "" ||
		w.Header().Get("WWW-Authenticate") != "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	defer func() {
		if recover() == nil {
			t.Error("a scope with a quote is accepted")
		}
	}()
	if verify.FromContext(ctx) != nil {
		t.Error("a token in an empty context")
	}
	v.Middleware(h, `re"ad`)
}

func ExampleVerifier_Middleware() {
	v, err := verify.New(ctx, verify.Config{Issuer: issuerURL, Resource: resource, Transport: newIssuer()})
	if err != nil {
		fmt.Println(err)
		return
	}
	orders := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "orders of", verify.FromContext(r.Context()).Subject)
	})
	server := v.Middleware(orders, "read")

	r := httptest.NewRequest(http.MethodGet, "/orders", nil)
	r.Header.Set("Authorization", "Bearer "+token(nil))
	w := httptest.NewRecorder()
	server.ServeHTTP(w, r)
	fmt.Print(w.Body)
	// Output: orders of usr_1
}

func ExampleVerifier_Token() {
	v, err := verify.New(ctx, verify.Config{Issuer: issuerURL, Resource: resource, Transport: newIssuer()})
	if err != nil {
		fmt.Println(err)
		return
	}
	t, err := v.Token(ctx, token(nil))
	if err != nil {
		fmt.Println(err) // verify.ErrInvalid or verify.ErrUnavailable
		return
	}
	fmt.Println(t.Subject, t.HasScope("read"))
	// Output: usr_1 true
}

func ExampleSample() {
	server := newIssuer()
	server.inactive = true // the server did not make the token: it is forged
	refused := make(chan string)
	v, err := verify.New(ctx, verify.Config{
		Issuer:   issuerURL,
		Resource: resource,
		Sample: &verify.Sample{
			Every:        1, // in production 100
			ClientID:     "api",
			ClientSecret: "the secret of this resource server",
			Refused:      func(t *verify.Token) { refused <- t.Subject },
		},
		Transport: server,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := v.Token(ctx, token(nil)); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("forged, or ended just now: a token of", <-refused)
	// Output: forged, or ended just now: a token of usr_1
}
