package server

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/server/servertest"
)

// publicKeyOf is the public half of the key that signed a token, as anybody gets it from the JWKS.
func publicKeyOf(t *testing.T, h *Harness, kid string) *rsa.PublicKey {
	t.Helper()
	var set struct{ Keys []struct{ KID, N string } }
	Must(0, json.Unmarshal([]byte(h.Get("/.well-known/jwks.json").Body), &set))
	for _, k := range set.Keys {
		if k.KID == kid {
			return &rsa.PublicKey{N: new(big.Int).SetBytes(Must(base64.RawURLEncoding.DecodeString(k.N))), E: 65537}
		}
	}
	t.Fatal("no such key")
	return nil
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// forgedTexts are texts that a library somewhere has taken for a token.
func forgedTexts(t *testing.T, h *Harness, token, elsewhere string) map[string]string {
	parts := strings.Split(token, ".")
	kid := kidOf(t, token)
	public := publicKeyOf(t, h, kid)
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: Must(x509.MarshalPKIXPublicKey(public))})
	mine := Must(rsa.GenerateKey(rand.Reader, 2048))
	sign := func(header string) string {
		input := b64(header) + "." + parts[1]
		sum := sha256.Sum256([]byte(input))
		return input + "." + base64.RawURLEncoding.EncodeToString(
			Must(rsa.SignPKCS1v15(rand.Reader, mine, crypto.SHA256, sum[:])),
		)
	}
	hs := func(key []byte) string {
		input := b64(`{"alg":"HS256","kid":"`+kid+`","typ":"at+jwt"}`) + "." + parts[1]
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(input))
		return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	rs512 := b64(`{"alg":"RS512","kid":"`+kid+`","typ":"at+jwt"}`) + "." + parts[1]
	sum512 := sha512.Sum512([]byte(rs512))
	rs512 += "." + base64.RawURLEncoding.EncodeToString(
		Must(rsa.SignPKCS1v15(rand.Reader, mine, crypto.SHA512, sum512[:])),
	)
	jwk := fmt.Sprintf(`{"kty":"RSA","n":"%s","e":"AQAB"}`, base64.RawURLEncoding.EncodeToString(mine.N.Bytes()))
	forged := map[string]string{
		"alg none": b64(
			`{"alg":"none","typ":"at+jwt"}`,
		) + "." + parts[1] + ".", "alg None with our kid": b64(`{"alg":"None","kid":"`+kid+`","typ":"at+jwt"}`) + "." +
			parts[1] + ".",
		"HS256 with the public key": hs(
			publicPEM,
		), "HS256 with the modulus": hs(public.N.Bytes()), "HS256 without a key": hs(nil), "RS512": rs512,
		"PS256": withHeader(
			parts,
			`{"alg":"PS256","kid":"`+kid+`","typ":"at+jwt"}`,
		), "typ JWT": withHeader(parts, `{"alg":"RS256","kid":"`+kid+`","typ":"JWT"}`),
		"foreign kid": sign(
			`{"alg":"RS256","kid":"mine","typ":"at+jwt"}`,
		), "our kid, another key": sign(`{"alg":"RS256","kid":"` + kid + `","typ":"at+jwt"}`),
		"embedded jwk": sign(
			`{"alg":"RS256","kid":"` + kid + `","typ":"at+jwt","jwk":` + jwk + `}`,
		), "jku": sign(`{"alg":"RS256","kid":"x","typ":"at+jwt","jku":"` + elsewhere + `"}`),
		"x5u": sign(
			`{"alg":"RS256","kid":"x","typ":"at+jwt","x5u":"` + elsewhere + `"}`,
		), "kid a path": sign(`{"alg":"RS256","kid":"../../etc/passwd","typ":"at+jwt"}`),
		"kid an URL": sign(
			`{"alg":"RS256","kid":"` + elsewhere + `","typ":"at+jwt"}`,
		), "unknown crit": sign(`{"alg":"RS256","kid":"` + kid + `","typ":"at+jwt","crit":["x"],"x":1}`),
		"JSON serialisation": fmt.Sprintf(
			`{"payload":"%s","signatures":[{"protected":"%s","signature":"%s"}]}`,
			parts[1],
			parts[0],
			parts[2],
		),
		"flattened JSON": fmt.Sprintf(
			`{"payload":"%s","protected":"%s","signature":"%s"}`,
			parts[1],
			parts[0],
			parts[2],
		),
		"payload of another": parts[0] + "." + b64(
			`{"iss":"`+issuer+`","sub":"x","aud":"https://api.example","exp":99999999999}`,
		) + "." + parts[2],
		"duplicate header": sign(`{"alg":"RS256","alg":"none","kid":"` + kid + `","typ":"at+jwt"}`),
		"deep header":      b64(strings.Repeat("[", 20_000)) + "." + parts[1] + "." + parts[2],
		"deep payload":     parts[0] + "." + b64(strings.Repeat(`{"a":`, 8_000)) + "." + parts[2],
		"huge signature":   parts[0] + "." + parts[1] + "." + strings.Repeat("A", 40_000),
		"many dots":        strings.Repeat(".", 50_000),
		"encrypted":        strings.Repeat("e30.", 4) + "e30",
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range len(alphabet) {
		if text := token[:len(token)-1] + alphabet[i:i+1]; text != token {
			forged["last character "+alphabet[i:i+1]] = text
		}
	}
	return forged
}

func withHeader(parts []string, header string) string {
	return b64(header) + "." + parts[1] + "." + parts[2]
}

// No text that somebody else made is a token, at neither endpoint, and none makes the server ask anybody for anything.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer elsewhere.Close()
	Each(t, func(t *testing.T, h *Harness) {
		tokens := h.Login("app")
		h.Server.scans = newRateLimits(10_000, time.Minute)
		for name, text := range forgedTexts(t, h, tokens.AccessToken, elsewhere.URL) {
			if r := h.Post("/introspect", "rs", "token", text); r.Status != 200 || r.Body != "{\"active\":false}\n" {
				t.Errorf("%s: introspection: %d %s", name, r.Status, r.Body)
			}
			if r := h.Post("/revoke", "app", "token", text); r.Status != 200 || r.Body != "{}\n" {
				t.Errorf("%s: revocation: %d %s", name, r.Status, r.Body)
			}
		}
		if !h.Active("rs", tokens.AccessToken) {
			t.Error("a forgery has ended the grant")
		}
	})
	if asked.Load() > 0 {
		t.Errorf("%d requests went out", asked.Load())
	}
}

// Tokens that a key of this server signed, but for another issuer, or without what a token must say, are none either.
func TestOwnSignatureIsNotEnough(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		tokens := h.Login("app")
		var claims map[string]any
		Must(
			0,
			json.Unmarshal(
				Must(base64.RawURLEncoding.DecodeString(strings.Split(tokens.AccessToken, ".")[1])),
				&claims,
			),
		)
		for name, change := range map[string]func(map[string]any){
			"another issuer":   func(c map[string]any) { c["iss"] = "https://else.example" },
			"no issuer":        func(c map[string]any) { delete(c, "iss") },
			"no exp":           func(c map[string]any) { delete(c, "exp") },
			"exp a text":       func(c map[string]any) { c["exp"] = "9999999999" },
			"no aud":           func(c map[string]any) { delete(c, "aud") },
			"another audience": func(c map[string]any) { c["aud"] = "https://mail.example" },
			"no grant":         func(c map[string]any) { delete(c, "sid") },
			"another's sub":    func(c map[string]any) { c["sub"] = "usr_other" },
			"another client":   func(c map[string]any) { c["client_id"] = "other" },
		} {
			altered := map[string]any{}
			for k, v := range claims {
				altered[k] = v
			}
			change(altered)
			text := Must(keystest.Forge(kidOf(t, tokens.AccessToken), "at+jwt", Must(json.Marshal(altered))))
			if r := h.Post("/revoke", "app", "token", text); r.Status != 200 || r.Body != "{}\n" ||
				!h.Active("rs", tokens.AccessToken) {
				t.Errorf("%s: revocation: %d %s", name, r.Status, r.Body)
			}
			if r := h.Post("/introspect", "rs", "token", text); r.Status != 200 || r.Body != "{\"active\":false}\n" {
				t.Errorf("%s: %d %s", name, r.Status, r.Body)
			}
		}
	})
}

// serveHasty serves the public listener once more, with a tenth of the time that a client has in production.
func (h *Harness) serveHasty() (address string, header, request time.Duration) {
	h.T.Helper()
	server := httptest.NewUnstartedServer(nil)
	server.Config = httpServer(h.Server.PublicHandler())
	if c := server.Config; c.ReadHeaderTimeout != headerTimeout || c.ReadTimeout != requestTimeout {
		h.T.Errorf("headers may take %v, a request %v", c.ReadHeaderTimeout, c.ReadTimeout)
	}
	server.Config.ReadHeaderTimeout, server.Config.ReadTimeout = headerTimeout/10, requestTimeout/10
	server.Listener = &connections{Listener: server.Listener, name: "public", log: slog.New(slog.DiscardHandler)}
	server.Start()
	h.T.Cleanup(server.Close)
	return server.Listener.Addr().String(), headerTimeout / 10, requestTimeout / 10
}

// Connections that dawdle or say nothing are ended in time, and others are served meanwhile.
func TestSlowConnections(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	h.Provision()
	address, header, request := h.serveHasty()
	head := "POST /token HTTP/1.1\r\nHost: x\r\n"
	var all sync.WaitGroup
	ends := func(name, begin, then string, within time.Duration) {
		all.Go(func() {
			conn := Must(net.Dial("tcp", address))
			defer conn.Close()
			began := time.Now()
			Must(conn.Write([]byte(begin)))
			for time.Since(began) < 2*within {
				Must(0, conn.SetReadDeadline(time.Now().Add(header/10)))
				if _, err := io.ReadAll(conn); err == nil || !isTimeout(err) {
					return
				}
				conn.Write([]byte(then))
			}
			t.Errorf("%s: the connection still stands after %v", name, time.Since(began))
		})
	}
	ends("silence", "", "", header)
	ends("slow headers", head, "X-A: a\r\n", header)
	ends(
		"slow body",
		head+"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 60000\r\n\r\n",
		"a",
		request,
	)
	for range 10 {
		tokens := h.Login("app")
		h.Refresh("app", tokens.RefreshToken).Tokens(t)
	}
	all.Wait()
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// Thousands of connections that rest cost others nothing, and are let go. It runs alone, since it measures the memory
// of the process.
func TestIdleConnections(t *testing.T) {
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	h.Provision()
	address, header, _ := h.serveHasty()
	var idle []net.Conn
	memory := heldMemory()
	n := servertest.Times(1000, 5000)
	for range n {
		idle = append(idle, Must(net.Dial("tcp", address)))
	}
	if each := (int64(heldMemory()) - int64(memory)) / int64(n); each > 32<<10 { // both ends of it
		t.Errorf("an idle connection takes %d bytes", each)
	}
	for range 20 {
		tokens := h.Login("app")
		h.Refresh("app", tokens.RefreshToken).Tokens(t)
	}
	for _, c := range idle {
		Must(0, c.SetReadDeadline(time.Now().Add(4*header)))
		if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Fatalf("an idle connection is not let go: %v", err)
		}
		c.Close()
	}
}

// heldMemory is what this process holds after a collection, in bytes.
func heldMemory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// Who asks and never reads is cut off after a while.
func TestReaderThatNeverReads(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	server := httpServer(h.Server.PublicHandler())
	if server.WriteTimeout != responseTimeout {
		t.Errorf("a reply may take %v", server.WriteTimeout)
	}
	server.WriteTimeout = time.Duration(servertest.Times(int(time.Second), int(responseTimeout)))
	l := Must(net.Listen("tcp", "127.0.0.1:0"))
	go server.Serve(l)
	defer server.Close()
	conn := Must(net.Dial("tcp", l.Addr().String()))
	defer conn.Close()
	request := []byte("GET /openapi.yaml HTTP/1.1\r\nHost: x\r\n\r\n")
	for began := time.Now(); time.Since(began) < 3*responseTimeout; {
		Must(0, conn.SetWriteDeadline(time.Now().Add(time.Second)))
		if _, err := conn.Write(request); err != nil && !isTimeout(err) {
			return
		}
	}
	t.Error("the connection still stands")
}

// One request is one request: what is ambiguous about its length is refused or ends the connection, so that nothing can
// hide behind it.
func TestRequestSmuggling(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	hidden := "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
	head := "POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
	for name, request := range map[string]string{
		"two lengths":          head + "Content-Length: 0\r\nContent-Length: 35\r\n\r\n" + hidden,
		"a signed length":      head + "Content-Length: +0\r\n\r\n" + hidden,
		"chunked with a space": head + "Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n" + hidden,
		"chunked twice":        head + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + hidden,
		"an unknown coding":    head + "Transfer-Encoding: gzip\r\n\r\n" + hidden,
		"a bare LF in a name":  head + "X-A\n: b\r\nContent-Length: 0\r\n\r\n" + hidden,
		"no host":              "POST /token HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + hidden,
	} {
		if answer := h.RawExchange(request); strings.Contains(answer, "200 OK") {
			t.Errorf("%s: %q", name, answer)
		}
	}
	// Both are refused (RFC 9112 §6.1), and the connection ends.
	both := h.RawExchange(head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden)
	if !strings.HasPrefix(both, "HTTP/1.1 400 ") || strings.Count(both, "HTTP/1.1") != 1 {
		t.Errorf("%q", both)
	}
}

// Many headers, many parameters, names and values of any size: refused or ignored, in bounds.
func TestBombs(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	h.Provision()
	for name, body := range map[string]string{
		"30 000 parameters": strings.Repeat("a&", 30_000),
		"30 000 names":      names(9_000),
		"a long name":       strings.Repeat("n", 60_000) + "=1",
		"a long value":      "token=" + strings.Repeat("v", 60_000),
		"escapes":           "token=" + strings.Repeat("%41", 20_000),
		"half an escape":    "token=%4",
		"a long scope":      "grant_type=password&username=alice&password=x&scope=" + strings.Repeat("s+", 30_000),
		"a long user":       "grant_type=password&password=x&username=" + strings.Repeat("u", 60_000),
		"a long password":   "grant_type=password&username=alice&password=" + strings.Repeat("p", 60_000),
		"a long client":     "client_secret=x&client_id=" + strings.Repeat("c", 60_000),
	} {
		for _, path := range []string{"/token", "/introspect", "/revoke"} {
			r := Must(http.NewRequest(http.MethodPost, h.Base+path, strings.NewReader(body)))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			if !strings.Contains(body, "client_id") {
				r.Header.Set("Authorization", Basic("app", secret))
			}
			began := time.Now()
			if answer := h.Send(r); answer.Status >= 500 || time.Since(began) > 5*time.Second {
				t.Errorf("%s at %s: %d %.200s after %v", name, path, answer.Status, answer.Body, time.Since(began))
			}
		}
	}
}

func names(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "n%d&", i)
	}
	return b.String()
}

// A client that wants HTTP/2 gets HTTP/1.1: there are no streams to reset.
func TestNoHTTP2(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS()
	defer certificate.Close()
	l := Must(net.Listen("tcp", "127.0.0.1:0"))
	server := httpServer(h.Server.PublicHandler())
	server.TLSConfig = &tls.Config{Certificates: certificate.TLS.Certificates}
	go server.ServeTLS(l, "", "")
	defer server.Close()
	conn := Must(
		tls.Dial(
			"tcp",
			l.Addr().String(),
			&tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}},
		),
	)
	defer conn.Close()
	if got := conn.ConnectionState().NegotiatedProtocol; got == "h2" {
		t.Error("HTTP/2 was agreed on")
	}
	Must(conn.Write([]byte("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")))
	if line := Must(bufio.NewReader(conn).ReadString('\n')); line != "HTTP/1.1 200 OK\r\n" {
		t.Errorf("%q", line)
	}
	plain := Must(net.Dial("tcp", l.Addr().String()))
	defer plain.Close()
	Must(plain.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")))
	if b := Must(io.ReadAll(plain)); bytes.Contains(b, []byte("200")) {
		t.Errorf("%q", b)
	}
}

// A panic is a 500 that says nothing; what it was about is not in the log either, since it may be a secret.
func TestPanicTellsNothing(t *testing.T) {
	t.Parallel()
	log := &Buffer{}
	s := Must(
		OpenServer(
			ctx,
			ConfigFor(SQLiteURL(t)),
			Options{Module: keystest.Module(), Log: slog.New(slog.NewJSONHandler(log, nil))},
		),
	)
	defer s.Close()
	w := httptest.NewRecorder()
	r := newRoutes()
	r.add("/panic", func(*response, *http.Request) { panic("a canary in a panic") })
	s.wrap(r).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/panic", nil))
	if w.Code != 500 || strings.Contains(w.Body.String()+log.String(), "canary") ||
		!strings.Contains(log.String(), `"msg":"panic"`) {
		t.Errorf("%d %s\n%s", w.Code, w.Body, log)
	}
}
