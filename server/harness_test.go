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
	"path/filepath"
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
		flag.Set("test.parallel", atOnce)
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

// Clock is a time that tests step.
type Clock struct{ at atomic.Int64 }

func (c *Clock) Now() time.Time { return time.Unix(0, c.at.Load()).UTC() }

// Harness is one replica with an administrator, behind a real listener.
type Harness struct {
	T      testing.TB
	Config config.Config
	Server *Server
	Admin  *admin.Admin
	Clock  *Clock
	HTTP   *httptest.Server
	Base   string // URL of the public listener
	Log    *Buffer
	Loops  bool // it runs as in production
}

// Buffer is a log that tests read.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *Buffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *Buffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func ConfigFor(databaseURL string) config.Config {
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

// HashingConfig is testConfig with password hashes that take their time, as they do in production.
func HashingConfig(databaseURL string) config.Config {
	c := ConfigFor(databaseURL)
	c.PasswordHashMemory = 7 << 20
	return c
}

// PlaceOf is where a configuration keeps its database and keys.
func PlaceOf(c config.Config) (keys.Place, error) {
	source, err := storage.ParseSource(c.Database, c.AllowInsecureDatabase)
	if err != nil {
		return keys.Place{}, err
	}
	return keys.NewPlace(source, c.MasterKeyFile, c.AnchorFile)
}

// OpenServer is Open at the place of a configuration.
func OpenServer(ctx context.Context, c config.Config, o Options) (*Server, error) {
	p, err := PlaceOf(c)
	if err != nil {
		return nil, err
	}
	return Open(ctx, c, p, o)
}

// ServeAt is Serve at the place of a configuration.
func ServeAt(ctx context.Context, c config.Config, o Options, l Listeners) error {
	p, err := PlaceOf(c)
	if err != nil {
		return err
	}
	return Serve(ctx, c, p, o, l)
}

// CopyTo is admin.Copy from the place of a configuration.
func CopyTo(
	ctx context.Context, c config.Config, o admin.Options, to string, insecure bool, told func(string, int64),
) error {
	p, err := PlaceOf(c)
	if err != nil {
		return err
	}
	target, err := storage.ParseSource(to, insecure)
	if err != nil {
		return err
	}
	return admin.Copy(ctx, c, p, o, target, told)
}

// DoctorOf is what admin.Doctor finds at the place of a configuration.
func DoctorOf(ctx context.Context, c config.Config, o admin.Options, secrets []string) []admin.Finding {
	p, err := PlaceOf(c)
	problems := c.Problems(true)
	if err != nil {
		problems = append(problems, err)
	}
	return admin.Doctor(ctx, admin.Patient{Config: c, Place: p, Problems: problems, Secrets: secrets}, o)
}

// IsSQLite reports whether a database URL is one of SQLite.
func IsSQLite(databaseURL string) bool { return FileOf(databaseURL) != "" }

// FileOf is the file of an SQLite URL; "" for another.
func FileOf(databaseURL string) string {
	file, _ := strings.CutPrefix(databaseURL, "sqlite:")
	if file == databaseURL {
		return ""
	}
	return file
}

// FillGrants writes grants without logins.
func (h *Harness) FillGrants(clientID string, n int) keystest.Filled {
	h.T.Helper()
	raw := storagetest.Raw(h.T, h.Config.Database)
	return Must(keystest.Fill(ctx, h.Server.store, raw, clientID, n, h.Config.RefreshMaxTTL, h.Server.now()))
}

// OpenAdmin is admin.Open at the place of a configuration.
func OpenAdmin(ctx context.Context, c config.Config, o admin.Options) (*admin.Admin, error) {
	p, err := PlaceOf(c)
	if err != nil {
		return nil, err
	}
	return admin.Open(ctx, c, p, o)
}

// OpenHarness starts a replica on the database. Its clock stands at noon unless it is given another's.
func OpenHarness(t testing.TB, c config.Config, at *Clock) *Harness {
	t.Helper()
	if at == nil {
		at = &Clock{}
		at.at.Store(noon.UnixNano())
	}
	if !IsSQLite(c.Database) && c.MasterKeyFile == "" {
		c.MasterKeyFile = MasterFile(t)
	}
	log := &Buffer{}
	s, err := OpenServer(
		ctx,
		c,
		Options{
			Now:         at.Now,
			DatabaseNow: keystest.At(at.Now),
			Module:      keystest.Module(),
			Log:         slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	s.clients.age = 0 // time stands still, and what an administrator changes must be seen
	h := &Harness{T: t, Config: c, Server: s, Clock: at, Log: log}
	h.Admin = admin.New(s.store, c, s.place, admin.Options{Actor: "os:test", Reason: "test", Now: at.Now})
	t.Cleanup(func() { s.Close() })
	h.ServeHTTP()
	return h
}

// ServeHTTP puts the replica behind a listener.
func (h *Harness) ServeHTTP() {
	h.HTTP = httptest.NewUnstartedServer(nil)
	h.HTTP.Config = httpServer(h.Server.PublicHandler())
	h.HTTP.Listener = &connections{Listener: h.HTTP.Listener, name: "public", log: slog.New(slog.DiscardHandler)}
	h.HTTP.Start()
	h.Base = h.HTTP.URL
	h.T.Cleanup(h.HTTP.Close)
}

// Each runs a test on a replica with the usual clients and user, once on each database.
func Each(t *testing.T, test func(t *testing.T, h *Harness)) {
	storagetest.EachReady(t, func(t *testing.T, databaseURL string) {
		h := OpenHarness(t, ConfigFor(withMaster(t, databaseURL)), nil)
		h.Provision()
		test(t, h)
	})
}

// withMaster makes the master key of a ready SQLite file, which would be made with the file otherwise.
func withMaster(t testing.TB, databaseURL string) string {
	t.Helper()
	if file := storagetest.SQLiteFile(databaseURL); file != "" {
		if err := keys.CreateMaster(filepath.Join(filepath.Dir(file), "keyturn-master.key")); err != nil {
			t.Fatal(err)
		}
	}
	return databaseURL
}

func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Provision makes what most tests need: a client app and its twin other, a public client, a resource server for the
// app's audience and one for another, and alice.
func (h *Harness) Provision() {
	h.T.Helper()
	both := []string{api.GrantPassword, api.GrantRefreshToken}
	for _, spec := range []admin.ClientSpec{
		{ID: "app", Grants: both, Scope: "read write",
			Audiences: []string{"https://api.example", "https://mail.example"},
			Secret:    secret},
		{ID: "other", Grants: both, Scope: "read write", Audiences: []string{"https://api.example"}, Secret: secret},
		{ID: publicClient, Grants: both, Scope: "read", Audiences: []string{"https://api.example"}, Public: true},
		{ID: "once", Grants: []string{api.GrantPassword}, Scope: "read", Audiences: []string{"https://api.example"},
			Secret: secret},
		{ID: "rs", Resource: "https://api.example", Secret: secret},
		{ID: "rs2", Resource: "https://mail.example", Secret: secret},
	} {
		if _, err := h.Admin.Clients().Create(ctx, spec); err != nil {
			h.T.Fatal(err)
		}
	}
	if _, err := h.Admin.Users().Create(ctx, "alice", password, []string{"admin"}); err != nil {
		h.T.Fatal(err)
	}
}

// Step lets time go by; the ring keeps up.
func (h *Harness) Step(d time.Duration) {
	h.T.Helper()
	h.Clock.at.Add(int64(d))
	if err := h.Server.ring.LifeCycle().Maintain(ctx); err != nil {
		h.T.Fatal(err)
	}
}

// Reply is an answer that was valid against openapi.yaml.
type Reply struct {
	Status int
	Header http.Header
	Body   string
}

func (r Reply) Code(t testing.TB) string {
	t.Helper()
	var e api.Error
	if err := json.Unmarshal([]byte(r.Body), &e); err != nil {
		t.Fatalf("%s: %v", r.Body, err)
	}
	return string(e.Code)
}

func (r Reply) Tokens(t testing.TB) api.TokenResponse {
	t.Helper()
	if r.Status != http.StatusOK {
		t.Fatalf("%d %s", r.Status, r.Body)
	}
	var tokens api.TokenResponse
	if err := json.Unmarshal([]byte(r.Body), &tokens); err != nil {
		t.Fatal(err)
	}
	return tokens
}

// Basic is the Authorization header of a client.
func Basic(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id)+":"+url.QueryEscape(secret)))
}

// Post sends a form with the credentials of a client, if it is not "".
func (h *Harness) Post(path, client string, form ...string) Reply {
	h.T.Helper()
	values := url.Values{}
	for i := 0; i < len(form); i += 2 {
		values.Add(form[i], form[i+1])
	}
	if client == publicClient {
		values.Set("client_id", client)
	}
	r := Must(http.NewRequest(http.MethodPost, h.Base+path, strings.NewReader(values.Encode())))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if client != "" && client != publicClient {
		r.Header.Set("Authorization", Basic(client, secret))
	}
	return h.Send(r)
}

var noRedirect = &http.Client{
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Transport:     &http.Transport{MaxIdleConnsPerHost: 200},
}

// Send sends a request and holds the answer to openapi.yaml.
func (h *Harness) Send(r *http.Request) Reply {
	h.T.Helper()
	res, err := noRedirect.Do(r)
	if err != nil {
		h.T.Fatal(err)
	}
	defer res.Body.Close()
	body := Must(io.ReadAll(res.Body))
	if err := validate(r, res, body); err != nil {
		h.T.Errorf("%s %s: %d %s: not valid against openapi.yaml: %v", r.Method, r.URL.Path, res.StatusCode, body, err)
	}
	return Reply{res.StatusCode, res.Header, string(body)}
}

func (h *Harness) Get(path string) Reply {
	h.T.Helper()
	if strings.HasPrefix(path, "/readyz") && h.Server != nil && !h.Loops {
		h.Server.look(ctx) // as the loop does each second
	}
	return h.Send(Must(http.NewRequest(http.MethodGet, h.Base+path, nil)))
}

// Login gets tokens for alice.
func (h *Harness) Login(client string) api.TokenResponse {
	h.T.Helper()
	return h.Post("/token", client, "grant_type", "password", "username", "alice", "password", password).Tokens(h.T)
}

func (h *Harness) Refresh(client, token string) Reply {
	h.T.Helper()
	return h.Post("/token", client, "grant_type", "refresh_token", "refresh_token", token)
}

// Active tells what introspection says to a client of a token.
func (h *Harness) Active(client, token string) bool {
	h.T.Helper()
	r := h.Post("/introspect", client, "token", token)
	if r.Status != http.StatusOK {
		h.T.Fatalf("introspection: %d %s", r.Status, r.Body)
	}
	if r.Body == "{\"active\":false}\n" {
		return false
	}
	var answer api.Introspection
	if err := json.Unmarshal([]byte(r.Body), &answer); err != nil || !answer.Active {
		h.T.Fatalf("introspection: %s", r.Body)
	}
	return true
}

var contract = sync.OnceValue(func() routers.Router {
	doc := Must(openapi3.NewLoader().LoadFromData(keyturn.OpenAPI))
	if err := doc.Validate(ctx); err != nil {
		panic(err)
	}
	return Must(gorillamux.NewRouter(doc))
})

func init() {
	text := func(body io.Reader, _ http.Header, _ *openapi3.SchemaRef, _ openapi3filter.EncodingFn) (any, error) {
		b, err := io.ReadAll(body)
		return string(b), err
	}
	openapi3filter.RegisterBodyDecoder("text/plain", text)
	openapi3filter.RegisterBodyDecoder("application/statuslist+jwt", text)
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

// MasterFile is a new master key.
func MasterFile(t testing.TB) string {
	path := t.TempDir() + "/master.key"
	if err := keys.CreateMaster(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// RawExchange writes bytes to the listener and reads what comes back until the server closes or is done.
func (h *Harness) RawExchange(request string) string {
	h.T.Helper()
	conn := Must(net.Dial("tcp", h.HTTP.Listener.Addr().String()))
	defer conn.Close()
	Must(0, conn.SetDeadline(time.Now().Add(10*time.Second)))
	Must(conn.Write([]byte(request)))
	answer, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, io.EOF) && len(answer) == 0 {
		h.T.Fatal(err)
	}
	return string(answer)
}

// SQLiteURL names a new SQLite database with the schema and a master key.
func SQLiteURL(t testing.TB) string { return withMaster(t, storagetest.SQLiteReady(t)) }

// Status200 returns an error unless the answer is 200 with an empty object.
func Status200(r Reply) error {
	if r.Status != http.StatusOK || r.Body != "{}\n" {
		return statusError(r.Body)
	}
	return nil
}

type statusError string

func (e statusError) Error() string { return string(e) }

// all collects the pages of a list.
func all[T any](each func(func([]T) error) error) (rows []T, err error) {
	err = each(func(page []T) error {
		rows = append(rows, page...)
		return nil
	})
	return rows, err
}

// AllGrants returns the grants of a user and a client, or of all if they are "".
func AllGrants(a *admin.Admin, user, client string) ([]admin.Grant, error) {
	return all(func(do func([]admin.Grant) error) error {
		return a.Grants().Each(ctx, admin.GrantFilter{Username: user, ClientID: client}, do)
	})
}

// AllUsers returns every user.
func AllUsers(a *admin.Admin) ([]admin.User, error) {
	return all(func(do func([]admin.User) error) error {
		return a.Users().List(ctx, admin.UserFilter{}, do)
	})
}

// AllAudit returns the audit records since a time and of a type, or all if they are zero.
func AllAudit(a *admin.Admin, since time.Time, kind string) ([]admin.AuditRecord, error) {
	return all(func(do func([]admin.AuditRecord) error) error {
		return a.Audit().Each(ctx, admin.AuditFilter{Since: since, Type: kind}, do)
	})
}
