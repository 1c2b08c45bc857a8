//go:build interop

package examples_test

import (
	"cmp"
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// resourceServer is one of the examples, and its expected behaviour.
type resourceServer struct {
	name        string
	example     string   // the example whose files it uses, if the name differs
	inHaste     []string // replacements that shorten the lifetime of its JWKS
	introspects bool     // asks keyturn about each token
	away        int      // status without keys while keyturn is down: 503, or 401 if it cannot separate the cases
	leeway      bool     // accepts an expired token for another second
	background  bool     // fetches the keys in the background
	polls       bool     // polls the keys and the status lists every 15 seconds
	scope       string   // that it needs; "": none
}

var resourceServers = []resourceServer{
	{name: "verify", away: 503, background: true, polls: true, scope: "read"},
	{name: "django-simplejwt", inHaste: []string{"JWKS_LIFESPAN = 300", "JWKS_LIFESPAN = 3"}, away: 503, leeway: true},
	{name: "django-simplejwt by JWK_URL alone", example: "django-simplejwt", away: 401, leeway: true, inHaste: []string{
		`token_backend.jwks_client = KeyturnKeys(settings.SIMPLE_JWT["JWK_URL"], lifespan=JWKS_LIFESPAN)`,
		"token_backend.jwks_client.jwk_set_cache.lifespan = 3"}},
	{name: "pyjwt", inHaste: []string{"POLL = 15", "POLL = 3"}, away: 503, background: true, polls: true},
	{name: "go-oidc", inHaste: []string{"5 * time.Minute", "3 * time.Second"}, away: 503},
	{name: "jwx", inHaste: []string{"5 * time.Minute", "3 * time.Second"}, away: 503, background: true},
	{name: "keyfunc", inHaste: []string{"5 * time.Minute", "3 * time.Second"}, away: 503, background: true},
	{name: "fiber", inHaste: []string{"5 * time.Minute", "3 * time.Second"}, away: 503, background: true},
	{name: "zitadel-oidc", inHaste: []string{"5 * time.Minute", "3 * time.Second"}, away: 503},
	{name: "hono", inHaste: []string{"5 * 60_000", "3_000"}, away: 503},
	{name: "jose", inHaste: []string{"poll = 15_000", "poll = 3_000"}, away: 503, background: true, polls: true},
	{name: "express-oauth2-jwt-bearer", inHaste: []string{"5 * 60_000", "3_000"}, away: 503},
	{name: "apache-jwks", inHaste: []string{"jwks_uri.expiry=300", "jwks_uri.expiry=3"}, away: 401},
	{name: "apache-introspection", introspects: true, away: 401},
	{name: "haproxy", inHaste: []string{"interval=300", "interval=3"}, away: 503, background: true, leeway: true},
	{name: "nginx", introspects: true, away: 503},
	{name: "curl", introspects: true, away: 503},
}

// flags returns the flags of the keyturn of a server.
func (r resourceServer) flags() []string {
	if r.polls {
		return []string{"--status-list=on"}
	}
	return nil
}

// kept is how long a server uses the keys that it has fetched.
func (r resourceServer) kept() time.Duration {
	switch {
	case r.polls && (*asShipped || r.inHaste == nil):
		return 15 * time.Second
	case *asShipped:
		return 5 * time.Minute
	}
	return 3 * time.Second
}

// patience is the longest time that a resource server may use an outdated answer.
const patience = 20 * time.Second

// TestResourceServers tests each server with good and bad tokens, a planned rotation and the revocation of a key.
func TestResourceServers(t *testing.T) {
	for i, r := range resourceServers {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			listen := freeAddress(t)
			s := &asking{
				resourceServer: r,
				t:              t,
				keyturn:        newKeyturn(t, "https://api.example.com", i%2 == 0, r.flags()...),
				listen:         listen,
			}
			if r.name == "curl" {
				s.script, _ = s.keyturn.example(r.name, listen)
			} else {
				s.startServer()
			}
			s.judges()
			if s.introspects || s.polls {
				s.hearsOfRevocation()
			}
			s.goesThroughRotation()
			s.goesThroughRevocation()
			s.saysWhenItCannotKnow()
		})
	}
}

// asking is a running resource server.
type asking struct {
	resourceServer
	*keyturn
	t      *testing.T
	listen string
	script string // the folder of check.sh, if the example is no server
	proc   *program
}

func (s *asking) startServer() {
	s.t.Helper()
	inHaste := s.inHaste
	if *asShipped {
		inHaste = nil
	}
	dir, command := s.keyturn.example(cmp.Or(s.resourceServer.example, s.name), s.listen, inHaste...)
	s.proc = start(s.t, dir, command, "API_SECRET="+s.apiSecret)
	await(s.t, s.name, 4*time.Minute, func() bool {
		r, err := http.Get("http://" + s.listen + "/")
		if err == nil {
			r.Body.Close()
		}
		return err == nil
	})
}

// ask sends a request with a token, or without one if it is empty.
func (s *asking) ask(token string) (status int, body string, challenge string) {
	s.t.Helper()
	if s.script != "" {
		return s.askScript(token)
	}
	r, err := http.NewRequest(http.MethodGet, "http://"+s.listen+"/", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode, string(text), answer.Header.Get("WWW-Authenticate")
}

// askScript is ask for check.sh. It maps exit codes to the statuses of a server.
func (s *asking) askScript(token string) (int, string, string) {
	c := exec.Command("bash", "check.sh")
	c.Dir, c.Env = s.script, append(os.Environ(), "ACCESS_TOKEN="+token, "API_SECRET="+s.apiSecret)
	out, _ := c.Output()
	statuses := map[int]int{0: 200, 1: 401}
	if status, ok := statuses[c.ProcessState.ExitCode()]; ok {
		return status, string(out), "Bearer"
	}
	return 503, string(out), ""
}

// wants asserts the response to a token.
func (s *asking) wants(what, token string, want int) {
	s.t.Helper()
	status, body, challenge := s.ask(token)
	if status != want || want == 401 && !strings.HasPrefix(challenge, "Bearer") {
		s.t.Errorf("%s: %d %.200s %q, want %d", what, status, body, challenge, want)
	}
	if want == 200 && !strings.Contains(body, s.sub) {
		s.t.Errorf("%s: %s", what, body)
	}
}

// judges asserts which tokens the server accepts.
func (s *asking) judges() {
	s.t.Helper()
	good := s.login("app")
	s.wants("a good token", good.Access, 200)
	if s.script == "" {
		s.wants("no token", "", 401)
	}
	for what, token := range s.forged(good.Access) {
		s.wants(what, token, 401)
	}
	s.wants("a refresh token", good.Refresh, 401)
	s.wants("a token for another audience", s.login("other").Access, 401)
	dated := 401 // a verifier refuses a typ other than at+jwt
	if s.introspects {
		dated = 200
	}
	s.wants("a token of typ JWT", s.login("dated").Access, dated)
	brief := s.login("brief").Access
	s.wants("a token that will expire", brief, 200)
	lived := await(
		s.t,
		"an expired token is refused",
		patience,
		func() bool { status, _, _ := s.ask(brief); return status == 401 },
	)
	if bound := 2*time.Second + map[bool]time.Duration{true: 6 * time.Second}[s.introspects] +
		map[bool]time.Duration{true: time.Second}[s.leeway]; lived > bound+2*time.Second {
		s.t.Errorf("an expired token was good for %v", lived)
	}
	s.wants("a good token, still", good.Access, 200)
}

// forged makes tokens that keyturn did not issue.
func (k *keyturn) forged(good string) map[string]string {
	k.t.Helper()
	b64 := base64.RawURLEncoding
	parts := strings.Split(good, ".")
	decode := func(part string) (m map[string]any) {
		raw, err := b64.DecodeString(part)
		if err == nil {
			err = json.Unmarshal(raw, &m)
		}
		if err != nil {
			k.t.Fatal(err)
		}
		return m
	}
	encode := func(m map[string]any) string {
		raw, err := json.Marshal(m)
		if err != nil {
			k.t.Fatal(err)
		}
		return b64.EncodeToString(raw)
	}
	with := func(part string, changes map[string]any) string {
		m := decode(part)
		for name, value := range changes {
			m[name] = value
		}
		return encode(m)
	}
	forger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		k.t.Fatal(err)
	}
	signed := func(header, payload string) string {
		sum := sha256.Sum256([]byte(header + "." + payload))
		signature, err := rsa.SignPKCS1v15(rand.Reader, forger, crypto.SHA256, sum[:])
		if err != nil {
			k.t.Fatal(err)
		}
		return header + "." + payload + "." + b64.EncodeToString(signature)
	}
	signature := []byte(parts[2])
	if i := len(signature) / 2; signature[i] == 'A' {
		signature[i] = 'B'
	} else {
		signature[i] = 'A'
	}
	hs256 := with(parts[0], map[string]any{"alg": "HS256"}) + "." + parts[1]
	mac := hmac.New(sha256.New, k.publicKeys()[decode(parts[0])["kid"].(string)])
	mac.Write([]byte(hs256))
	own := map[string]any{"kty": "RSA", "n": b64.EncodeToString(forger.N.Bytes()), "e": "AQAB"}
	return map[string]string{
		"garbage":              "garbage",
		"three words":          "a.b.c",
		"an altered signature": parts[0] + "." + parts[1] + "." + string(signature),
		"an altered payload": parts[0] + "." + with(
			parts[1],
			map[string]any{"scope": "admin"},
		) + "." + parts[2],
		"no signature":                    with(parts[0], map[string]any{"alg": "none"}) + "." + parts[1] + ".",
		"a MAC under the public key":      hs256 + "." + b64.EncodeToString(mac.Sum(nil)),
		"another's key under a known kid": signed(parts[0], parts[1]),
		"another's key under its own kid": signed(with(parts[0], map[string]any{"kid": "mine"}), parts[1]),
		"another's key in the header":     signed(with(parts[0], map[string]any{"kid": "mine", "jwk": own}), parts[1]),
		"another's key, and where it lies": signed(
			with(parts[0], map[string]any{"kid": "mine", "jku": "https://evil.example/jwks.json"}),
			parts[1],
		),
	}
}

// hearsOfRevocation asserts that a server that introspects, or polls the status lists, refuses a revoked token.
func (s *asking) hearsOfRevocation() {
	s.t.Helper()
	unseen, seen, other := s.login("app"), s.login("app"), s.login("app")
	s.wants("a token that will be revoked", seen.Access, 200)
	bound := 8 * time.Second
	if s.polls {
		bound = s.kept() + 2*time.Second
	}
	for _, token := range []tokens{unseen, seen} {
		if status, body := s.post("/revoke", "app", s.appSecret, url.Values{"token": {token.Refresh}}); status != 200 {
			s.t.Errorf("%d %s", status, body)
		}
	}
	if s.introspects {
		s.wants("a token that was revoked before it was seen", unseen.Access, 401)
	}
	took := await(s.t, "a revoked token is refused", patience,
		func() bool { status, _, _ := s.ask(seen.Access); return status == 401 })
	if took > bound {
		s.t.Errorf("a revoked token was good for %v", took)
	}
	s.wants("a token that was revoked before it was seen", unseen.Access, 401)
	s.wants("a token of another login", other.Access, 200)
}

// goesThroughRotation asserts that a planned rotation breaks nothing.
func (s *asking) goesThroughRotation() {
	s.t.Helper()
	before := s.login("app").Access
	s.wants("before the rotation", before, 200)
	s.rotate("--force")
	s.wants("a token of the next key, at once", s.login("app").Access, 200)
	s.wants("a token of the key before", before, 200)
}

// goesThroughRevocation asserts that the server stops trusting a revoked key in time, and measures how long it trusted
// the key.
func (s *asking) goesThroughRevocation() {
	s.t.Helper()
	kept := s.kept()
	longest := kept + 5*time.Second
	if s.introspects {
		longest = 8 * time.Second
	}
	var seen time.Time
	if !s.introspects { // in production a verifier has the next key before it signs: fetch it here as well
		time.Sleep(kept + time.Second)
		seen = time.Now()
		s.wants("with the keys of now", s.login("app").Access, 200)
		if s.background {
			time.Sleep(kept)
		}
	}
	leaked := s.login("app").Access
	s.wants("before the revocation", leaked, 200)
	s.do("keys", "revoke", kidOf(s.t, leaked), "--reason=drill", "--yes")
	begun, fetched := time.Now(), s.jwksFetched()
	await(
		s.t,
		"another key signs",
		patience,
		func() bool { return kidOf(s.t, s.login("app").Access) != kidOf(s.t, leaked) },
	)
	fresh := s.login("app").Access
	s.wants("a token of the key that signs now, at once", fresh, 200)
	// On a busy machine the cached keys may have expired meanwhile.
	if after := s.jwksFetched(); after != fetched && !s.background && time.Since(seen) < kept-500*time.Millisecond {
		s.t.Errorf(
			"it had to fetch the keys (%d times): either it keeps them for longer than %v, or the measurement is wrong",
			after-fetched,
			kept,
		)
	}
	for {
		status, _, _ := s.ask(leaked)
		if status == 401 {
			break
		}
		if time.Since(begun) > longest {
			s.t.Errorf("a token of the revoked key is still answered %d after %v", status, longest)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.wants("a token of the key that signs now", fresh, 200)
	s.note(time.Since(begun))
}

// jwksFetched returns the number of key sets that keyturn has sent.
func (s *asking) jwksFetched() (n int) {
	s.t.Helper()
	r, err := http.Get(s.admin + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\nkeyturn_jwks_responses_total ")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// note appends a measurement to the results.
func (s *asking) note(took time.Duration) {
	name := "../bin/interop/in-haste.txt"
	if *asShipped {
		name = "../bin/interop/as-shipped.txt"
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = fmt.Fprintf(f, "%-35s %6.1f s\n", s.name, took.Seconds())
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		s.t.Error(err)
	}
}

// saysWhenItCannotKnow asserts that the server refuses a token that it cannot check, with 503 where the software allows
// it.
func (s *asking) saysWhenItCannotKnow() {
	s.t.Helper()
	unseen := s.login("app").Access
	s.stop()
	if !s.introspects { // a running verifier has the keys, so start a new one, which has none
		if s.proc != nil {
			s.listen = freeAddress(s.t)
			s.startServer()
		}
	}
	s.wants("while keyturn is down", unseen, s.away)
	page, err := os.ReadFile("../docs/verify.md")
	if row := fmt.Sprintf("verify/%s.md) | %s |", s.name,
		map[bool]string{true: "introspection", false: "JWKS"}[s.introspects]); s.resourceServer.example == "" &&
		(err != nil || !regexp.MustCompile(regexp.QuoteMeta(row)+fmt.Sprintf(`.* \| %d \|\n`, s.away)).Match(page)) {
		s.t.Errorf("docs/verify.md does not say that it answers %d: %v", s.away, err)
	}
}

// kidOf returns the kid of the key that signed a token.
func kidOf(t *testing.T, token string) string {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
	var header struct{ KID string }
	if err == nil {
		err = json.Unmarshal(raw, &header)
	}
	if err != nil {
		t.Fatal(err)
	}
	return header.KID
}
