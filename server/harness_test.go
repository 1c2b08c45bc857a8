package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/keyturn/keyturn"
	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// TestMain lets more tests run at once than there are CPUs: many wait.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.parallel").Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		flag.Set("test.parallel", "4")
	}
	storagetest.Main(m)
}

var (
	ctx  = context.Background()
	noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
)

const (
	issuer   = "http://127.0.0.1:8080"
	secret   = "a secret of the app: + % & = \u00e9"
	password = "correct horse battery staple"

	publicClient = "page"
)

// testClock is a time that tests step.
type testClock struct{ at atomic.Int64 }

func (c *testClock) now() time.Time { return time.Unix(0, c.at.Load()).UTC() }

// harness is one replica with an administrator, behind a real listener.
type harness struct {
	t      testing.TB
	config config.Config
	server *Server
	admin  *admin.Admin
	clock  *testClock
	http   *httptest.Server
	base   string // URL of the public listener
	log    *lockedBuffer
	loops  bool // it runs as in production
}

// lockedBuffer is a log that tests read.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func testConfig(databaseURL string) config.Config {
	c, problems := config.Parse(map[string]any{
		"issuer":             issuer,
		"listen":             "127.0.0.1:0",
		"admin_listen":       "127.0.0.1:0",
		"stop_delay":         "0s",
		"database":           databaseURL,
		"refresh_late_retry": "0s",
		"log_level":          "debug",
	})
	if problems != nil {
		panic(problems)
	}
	c.PasswordHashMemory = 64 << 10 // cheap: see hashingConfig
	return c
}

// hashingConfig is testConfig with password hashes that take their time, as they do in production.
func hashingConfig(databaseURL string) config.Config {
	c := testConfig(databaseURL)
	c.PasswordHashMemory = 7 << 20
	return c
}

// placeOf is where a configuration keeps its database and keys.
func placeOf(c config.Config) (keys.Place, error) {
	source, err := storage.ParseSource(c.Database, c.AllowInsecureDatabase)
	if err != nil {
		return keys.Place{}, err
	}
	return keys.NewPlace(source, c.MasterKeyFile, c.AnchorFile)
}

// openServer is Open at the place of a configuration.
func openServer(ctx context.Context, c config.Config, o Options) (*Server, error) {
	p, err := placeOf(c)
	if err != nil {
		return nil, err
	}
	return Open(ctx, c, p, o)
}

// serveAt is Serve at the place of a configuration.
func serveAt(ctx context.Context, c config.Config, o Options, l Listeners) error {
	p, err := placeOf(c)
	if err != nil {
		return err
	}
	return Serve(ctx, c, p, o, l)
}

// copyTo is admin.Copy from the place of a configuration.
func copyTo(
	ctx context.Context, c config.Config, o admin.Options, to string, insecure bool, told func(string, int64),
) error {
	p, err := placeOf(c)
	if err != nil {
		return err
	}
	target, err := storage.ParseSource(to, insecure)
	if err != nil {
		return err
	}
	return admin.Copy(ctx, c, p, o, target, told)
}

// doctorOf is what admin.Doctor finds at the place of a configuration.
func doctorOf(ctx context.Context, c config.Config, o admin.Options, secrets []string) []admin.Finding {
	p, err := placeOf(c)
	problems := c.Problems(true)
	if err != nil {
		problems = append(problems, err)
	}
	return admin.Doctor(ctx, admin.Patient{Config: c, Place: p, Problems: problems, Secrets: secrets}, o)
}

// isSQLite reports whether a database URL is one of SQLite.
func isSQLite(databaseURL string) bool { return fileOf(databaseURL) != "" }

// fileOf is the file of an SQLite URL; "" for another.
func fileOf(databaseURL string) string {
	file, _ := strings.CutPrefix(databaseURL, "sqlite:")
	if file == databaseURL {
		return ""
	}
	return file
}

// fillGrants writes grants without logins.
func (h *harness) fillGrants(clientID string, n int) keystest.Filled {
	h.t.Helper()
	raw := storagetest.Raw(h.t, h.config.Database)
	return must(keystest.Fill(ctx, h.server.store, raw, clientID, n, h.config.RefreshMaxTTL, h.server.now()))
}

// openAdmin is admin.Open at the place of a configuration.
func openAdmin(ctx context.Context, c config.Config, o admin.Options) (*admin.Admin, error) {
	p, err := placeOf(c)
	if err != nil {
		return nil, err
	}
	return admin.Open(ctx, c, p, o)
}

// open starts a replica on the database. Its clock stands at noon unless it is given another's.
func open(t testing.TB, c config.Config, at *testClock) *harness {
	t.Helper()
	if at == nil {
		at = &testClock{}
		at.at.Store(noon.UnixNano())
	}
	if !isSQLite(c.Database) && c.MasterKeyFile == "" {
		c.MasterKeyFile = masterFile(t)
	}
	log := &lockedBuffer{}
	s, err := openServer(
		ctx,
		c,
		Options{
			Now:         at.now,
			DatabaseNow: keystest.At(at.now),
			Generate:    keystest.Generator(),
			Log:         slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	s.clients.age = 0 // time stands still, and what an administrator changes must be seen
	h := &harness{t: t, config: c, server: s, clock: at, log: log}
	h.admin = admin.New(s.store, c, s.place, admin.Options{Actor: "os:test", Reason: "test", Now: at.now})
	t.Cleanup(func() { s.Close() })
	h.serveHTTP()
	return h
}

// serveHTTP puts the replica behind a listener.
func (h *harness) serveHTTP() {
	h.http = httptest.NewUnstartedServer(nil)
	h.http.Config = httpServer(h.server.PublicHandler())
	h.http.Listener = &connections{Listener: h.http.Listener, name: "public", log: slog.New(slog.DiscardHandler)}
	h.http.Start()
	h.base = h.http.URL
	h.t.Cleanup(h.http.Close)
}

// each runs a test on a replica with the usual clients and user, once on each database.
func each(t *testing.T, test func(t *testing.T, h *harness)) {
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		h := open(t, testConfig(databaseURL), nil)
		h.provision()
		test(t, h)
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// provision makes what most tests need: a client app and its twin other, a public client, a resource server for the
// app's audience and one for another, and alice.
func (h *harness) provision() {
	h.t.Helper()
	both := []string{api.GrantPassword, api.GrantRefreshToken}
	for _, spec := range []admin.ClientSpec{
		{ID: "app", Grants: both, Scope: "read write", Audiences: []string{"https://api.example", "https://mail.example"},
			Secret: secret},
		{ID: "other", Grants: both, Scope: "read write", Audiences: []string{"https://api.example"}, Secret: secret},
		{ID: publicClient, Grants: both, Scope: "read", Audiences: []string{"https://api.example"}, Public: true},
		{ID: "once", Grants: []string{api.GrantPassword}, Scope: "read", Audiences: []string{"https://api.example"},
			Secret: secret},
		{ID: "rs", Resource: "https://api.example", Secret: secret},
		{ID: "rs2", Resource: "https://mail.example", Secret: secret},
	} {
		if _, err := h.admin.Clients().Create(ctx, spec); err != nil {
			h.t.Fatal(err)
		}
	}
	if _, err := h.admin.Users().Create(ctx, "alice", password, []string{"admin"}); err != nil {
		h.t.Fatal(err)
	}
}

// step lets time go by; the ring keeps up.
func (h *harness) step(d time.Duration) {
	h.t.Helper()
	h.clock.at.Add(int64(d))
	if err := h.server.ring.Maintain(ctx); err != nil {
		h.t.Fatal(err)
	}
}

// reply is an answer that was valid against openapi.yaml.
type reply struct {
	status int
	header http.Header
	body   string
}

func (r reply) code(t testing.TB) string {
	t.Helper()
	var e api.Error
	if err := json.Unmarshal([]byte(r.body), &e); err != nil {
		t.Fatalf("%s: %v", r.body, err)
	}
	return string(e.Code)
}

func (r reply) tokens(t testing.TB) api.TokenResponse {
	t.Helper()
	if r.status != http.StatusOK {
		t.Fatalf("%d %s", r.status, r.body)
	}
	var tokens api.TokenResponse
	if err := json.Unmarshal([]byte(r.body), &tokens); err != nil {
		t.Fatal(err)
	}
	return tokens
}

// basic is the Authorization header of a client.
func basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id)+":"+url.QueryEscape(secret)))
}

// post sends a form with the credentials of a client, if it is not "".
func (h *harness) post(path, client string, form ...string) reply {
	h.t.Helper()
	values := url.Values{}
	for i := 0; i < len(form); i += 2 {
		values.Add(form[i], form[i+1])
	}
	if client == publicClient {
		values.Set("client_id", client)
	}
	r := must(http.NewRequest(http.MethodPost, h.base+path, strings.NewReader(values.Encode())))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if client != "" && client != publicClient {
		r.Header.Set("Authorization", basic(client, secret))
	}
	return h.send(r)
}

var noRedirect = &http.Client{
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Transport:     &http.Transport{MaxIdleConnsPerHost: 200},
}

// send sends a request and holds the answer to openapi.yaml.
func (h *harness) send(r *http.Request) reply {
	h.t.Helper()
	res, err := noRedirect.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	body := must(io.ReadAll(res.Body))
	if err := validate(r, res, body); err != nil {
		h.t.Errorf("%s %s: %d %s: not valid against openapi.yaml: %v", r.Method, r.URL.Path, res.StatusCode, body, err)
	}
	return reply{res.StatusCode, res.Header, string(body)}
}

func (h *harness) get(path string) reply {
	h.t.Helper()
	if strings.HasPrefix(path, "/readyz") && h.server != nil && !h.loops {
		h.server.look(ctx) // as the loop does each second
	}
	return h.send(must(http.NewRequest(http.MethodGet, h.base+path, nil)))
}

// login gets tokens for alice.
func (h *harness) login(client string) api.TokenResponse {
	h.t.Helper()
	return h.post("/token", client, "grant_type", "password", "username", "alice", "password", password).tokens(h.t)
}

func (h *harness) refresh(client, token string) reply {
	h.t.Helper()
	return h.post("/token", client, "grant_type", "refresh_token", "refresh_token", token)
}

// active tells what introspection says to a client of a token.
func (h *harness) active(client, token string) bool {
	h.t.Helper()
	r := h.post("/introspect", client, "token", token)
	if r.status != http.StatusOK {
		h.t.Fatalf("introspection: %d %s", r.status, r.body)
	}
	if r.body == "{\"active\":false}\n" {
		return false
	}
	var answer api.Introspection
	if err := json.Unmarshal([]byte(r.body), &answer); err != nil || !answer.Active {
		h.t.Fatalf("introspection: %s", r.body)
	}
	return true
}

var contract = sync.OnceValue(func() routers.Router {
	doc := must(openapi3.NewLoader().LoadFromData(keyturn.OpenAPI))
	if err := doc.Validate(ctx); err != nil {
		panic(err)
	}
	return must(gorillamux.NewRouter(doc))
})

func init() {
	text := func(body io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
		b, err := io.ReadAll(body)
		return string(b), err
	}
	openapi3filter.RegisterBodyDecoder("text/plain", text)
	openapi3filter.RegisterBodyDecoder(
		"application/jwk-set+json",
		openapi3filter.RegisteredBodyDecoder("application/json"),
	)
}

// validate holds an answer to the operation of its request. 405 is an answer to no operation: it is held to the first
// of its path. So is what net/http answers by itself to what is not HTTP.
func validate(r *http.Request, res *http.Response, body []byte) error {
	find := r.Clone(ctx)
	find.URL = &url.URL{Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	find.Host = ""
	route, params, err := contract().FindRoute(find)
	if res.StatusCode == http.StatusMethodNotAllowed {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if err != nil {
				find.Method = method
				route, params, err = contract().FindRoute(find)
			}
		}
	}
	if err != nil {
		if res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusRequestHeaderFieldsTooLarge {
			return nil
		}
		return err
	}
	if r.Method == http.MethodHead {
		body = nil
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: find, PathParams: params, Route: route},
		Status:                 res.StatusCode, Header: res.Header,
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true,
			MultiError:            true,
			ExcludeResponseBody:   r.Method == http.MethodHead,
		},
	}
	input.SetBodyBytes(body)
	return openapi3filter.ValidateResponse(ctx, input)
}

// masterFile is a new master key.
func masterFile(t testing.TB) string {
	path := t.TempDir() + "/master.key"
	if err := keys.CreateMaster(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// rawExchange writes bytes to the listener and reads what comes back until the server closes or is done.
func (h *harness) rawExchange(request string) string {
	h.t.Helper()
	conn := must(net.Dial("tcp", h.http.Listener.Addr().String()))
	defer conn.Close()
	must(0, conn.SetDeadline(time.Now().Add(10*time.Second)))
	must(conn.Write([]byte(request)))
	answer, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, io.EOF) && len(answer) == 0 {
		h.t.Fatal(err)
	}
	return string(answer)
}

func sqliteURL(t testing.TB) string { return storagetest.SQLiteURL(t) }
