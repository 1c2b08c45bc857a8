// Package consoletest runs a server with its console, for tests.
package consoletest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/console"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/server"
	"github.com/keyturn/keyturn/storage"
)

// Server is a running server with its console.
type Server struct {
	t      testing.TB
	Server *server.Server
	Config config.Config
	Place  keys.Place
	Public string // URL
	URL    string // of the console, on loopback
	Socket string // path
	CA     *Authority
	Log    *Log
	later  atomic.Int64 // how far the clock of the console is ahead, in nanoseconds
}

// Log keeps what a server logs.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns everything that was logged.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Must returns a value, and panics on an error.
func Must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// Options of a Server.
type Options struct {
	TLS       bool   // the admin listener speaks TLS, and knows the client certificates of the authority
	Admin     string // address of the admin listener; "": loopback
	Elsewhere bool   // connections to the admin listener seem to come over an address that is not loopback
	Configure func(*config.Config)
}

// Open serves a new database with clients and users until the test ends.
func Open(t testing.TB, databaseURL string, o Options) *Server {
	t.Helper()
	s := &Server{t: t, Log: &Log{}}
	folder := Must(os.MkdirTemp("", "keyturn-console")) // a short path, as sockets need
	t.Cleanup(func() { os.RemoveAll(folder) })
	listeners := server.Listeners{
		Public: Must(net.Listen("tcp", "127.0.0.1:0")),
		Admin:  Must(net.Listen("tcp", cmp.Or(o.Admin, "127.0.0.1:0"))),
	}
	if o.Elsewhere {
		listeners.Admin = elsewhere{listeners.Admin}
	}
	s.Socket = filepath.Join(folder, "admin.sock")
	listeners.Socket = Must(net.Listen("unix", s.Socket))
	s.Public = "http://" + listeners.Public.Addr().String()
	host, port := Must2(net.SplitHostPort(listeners.Admin.Addr().String()))
	s.URL = "http://localhost:" + port
	if o.Admin != "" {
		s.URL = "http://" + net.JoinHostPort(host, port)
	}
	given := map[string]any{
		"issuer":       s.Public,
		"database":     databaseURL,
		"admin_listen": listeners.Admin.Addr().String(),
		"admin_urls":   s.URL,
		"stop_delay":   "0s",
	}
	if o.TLS {
		s.CA = NewAuthority(folder)
		s.URL = "https://localhost:" + port
		given["admin_urls"] = s.URL
		certFile, keyFile := s.CA.ServerFiles()
		given["admin_tls_cert_file"], given["admin_tls_key_file"] = certFile, keyFile
		given["admin_client_ca_file"] = s.CA.File
	}
	var problems []error
	if s.Config, problems = config.Parse(given); len(problems) > 0 {
		t.Fatal(problems)
	}
	if o.Configure != nil {
		o.Configure(&s.Config)
	}
	source := Must(storage.ParseSource(databaseURL, true))
	masterKey := filepath.Join(folder, "master.key")
	if err := keys.CreateMaster(masterKey); err != nil {
		t.Fatal(err)
	}
	s.Place = Must(keys.NewPlace(source, masterKey, ""))
	s.serve(listeners)
	s.provision()
	return s
}

// elsewhere is a listener whose connections have an address of another network at this end: a machine of the tests may
// have loopback addresses alone.
type elsewhere struct{ net.Listener }

// Accept implements net.Listener.
func (l elsewhere) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return elsewhereConn{c}, err
}

type elsewhereConn struct{ net.Conn }

// LocalAddr implements net.Conn.
func (c elsewhereConn) LocalAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8081}
}

// Must2 returns two values, and panics on an error.
func Must2[A, B any](a A, b B, err error) (A, B) {
	if err != nil {
		panic(err)
	}
	return a, b
}

// Listen opens the ports and the socket of a configuration.
func Listen(c config.Config) (server.Listeners, error) { return server.Listen(c) }

// serve opens the server and serves the listeners until the test ends.
func (s *Server) serve(l server.Listeners) {
	ctx, stop := context.WithCancel(context.Background())
	log := slog.New(slog.NewTextHandler(s.Log, nil))
	opened, err := server.Open(ctx, s.Config, s.Place, server.Options{
		Module: keystest.Module(),
		Log:    log,
		Console: func(opened *server.Server) http.Handler {
			return console.New(console.Options{
				Admin: func(o admin.Options) *admin.Admin {
					return admin.New(opened.Store(), opened.Config(), s.Place, o)
				},
				Peer: server.Peer,
				URLs: func() []string { return opened.Config().ConsoleURLs() },
				Log:  log,
				Now:  s.Now,
			})
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.Server = opened
	done := make(chan error, 1)
	go func() { done <- opened.Serve(ctx, l) }()
	s.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
		opened.Close()
	})
}

// Now is the time of the console.
func (s *Server) Now() time.Time { return time.Now().Add(time.Duration(s.later.Load())) }

// Later moves the clock of the console ahead.
func (s *Server) Later(d time.Duration) { s.later.Add(int64(d)) }

// Admin acts like a command on the command line.
func (s *Server) Admin(reason string) *admin.Admin {
	return admin.New(s.Server.Store(), s.Server.Config(), s.Place, admin.Options{
		Actor:  "os:root",
		Reason: reason,
		Now:    s.Now,
	})
}

// Password of all users.
const Password = "correct horse battery staple"

// provision makes two clients, a resource server and three users.
func (s *Server) provision() {
	ctx, a := context.Background(), s.Admin("test")
	for _, spec := range []admin.ClientSpec{
		{ID: "app", Grants: []string{"password", "refresh_token"}, Scope: "read write",
			Audiences: []string{"https://api.example"}, Secret: strings.Repeat("s", 40)},
		{ID: "spa", Public: true, Grants: []string{"password", "refresh_token"}, Scope: "read",
			Audiences: []string{"https://api.example"}},
		{ID: "api", Resource: "https://api.example", ProbeOrigin: "https://api.example"},
	} {
		Must(a.Clients().Create(ctx, spec))
	}
	for _, name := range []string{"ada", "grace", "mary"} {
		Must(a.Users().Create(ctx, name, Password, []string{"staff"}))
	}
}

// Login logs a user in at the client app, and returns the refresh token.
func (s *Server) Login(user string) string {
	s.t.Helper()
	form := url.Values{"grant_type": {"password"}, "username": {user}, "password": {Password}}
	r := Must(http.NewRequest("POST", s.Public+"/token", strings.NewReader(form.Encode())))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("app", strings.Repeat("s", 40))
	answer := Must(http.DefaultClient.Do(r))
	defer answer.Body.Close()
	body := string(Must(io.ReadAll(answer.Body)))
	if answer.StatusCode != http.StatusOK {
		s.t.Fatalf("login: %d %s", answer.StatusCode, body)
	}
	_, rest, _ := strings.Cut(body, `"refresh_token":"`)
	token, _, _ := strings.Cut(rest, `"`)
	return token
}

// Link makes a one-time link for an administrator, and returns its URL.
func (s *Server) Link(name string, role admin.Role) string {
	s.t.Helper()
	link, err := s.Admin("test").Administrators().Link(context.Background(), name, role)
	if err != nil {
		s.t.Fatal(err)
	}
	return link.URL
}

// Client is somebody who uses the console or the API.
type Client struct {
	t    testing.TB
	HTTP *http.Client
	Base string
	Form string // CSRF token; "": none
	// Elsewhere: the requests do not go to the admin listener, and admin.yaml says nothing of the answers
	Elsewhere bool
}

// Anonymous returns a client that has not said who it is. It follows no redirect.
func (s *Server) Anonymous() *Client {
	return s.client(&http.Transport{TLSClientConfig: s.tls(nil)}, s.URL)
}

func (s *Server) tls(certificate *tls.Certificate) *tls.Config {
	if s.CA == nil {
		return nil
	}
	c := &tls.Config{RootCAs: s.CA.Pool}
	if certificate != nil {
		c.Certificates = []tls.Certificate{*certificate}
	}
	return c
}

func (s *Server) client(transport *http.Transport, base string) *Client {
	s.t.Cleanup(transport.CloseIdleConnections)
	jar := Must(cookiejar.New(nil))
	return &Client{t: s.t, Base: base, HTTP: &http.Client{
		Transport:     transport,
		Jar:           &secureJar{jar},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// secureJar keeps Secure cookies also on loopback without TLS, as browsers do.
type secureJar struct{ http.CookieJar }

func (j *secureJar) Cookies(u *url.URL) []*http.Cookie { return j.CookieJar.Cookies(overTLS(u)) }

func (j *secureJar) SetCookies(u *url.URL, cookies []*http.Cookie) {
	j.CookieJar.SetCookies(overTLS(u), cookies)
}

func overTLS(u *url.URL) *url.URL {
	secure := *u
	secure.Scheme = "https"
	return &secure
}

// OverSocket returns a client that uses the Unix socket.
func (s *Server) OverSocket() *Client {
	return s.client(&http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.Socket)
		},
	}, "http://localhost")
}

// WithCertificate returns a client with a client certificate of the authority.
func (s *Server) WithCertificate(subject pkix.Name) *Client {
	return s.client(&http.Transport{TLSClientConfig: s.tls(s.CA.Client(subject))}, s.URL)
}

// WithForeign returns a client with a client certificate of another authority.
func (s *Server) WithForeign(a *Authority, subject pkix.Name) *Client {
	return s.client(&http.Transport{TLSClientConfig: s.tls(a.Client(subject))}, s.URL)
}

// SignedIn returns a client that has signed in by a new link.
func (s *Server) SignedIn(name string, role admin.Role) *Client {
	s.t.Helper()
	c := s.Anonymous()
	c.Enter(s.Link(name, role))
	return c
}

// Enter signs in by a link.
func (c *Client) Enter(link string) {
	c.t.Helper()
	u := Must(url.Parse(link))
	if a := c.Do("GET", u.Path, nil, ""); a.Status != http.StatusSeeOther {
		c.t.Fatalf("%d at the link: %s", a.Status, a.Body)
	}
	if a := c.Do("POST", "/enter", nil, ""); a.Status != http.StatusSeeOther {
		c.t.Fatalf("%d at the button: %s", a.Status, a.Body)
	}
	c.ReadToken()
}

// ReadToken reads the CSRF token from a page.
func (c *Client) ReadToken() {
	c.t.Helper()
	a := c.Do("GET", "/admins", nil, "")
	_, rest, ok := strings.Cut(a.Body, `data-token="`)
	if !ok {
		c.t.Fatalf("%d, no token in %s", a.Status, a.Body)
	}
	c.Form, _, _ = strings.Cut(rest, `"`)
}

// Answer is what the server answers.
type Answer struct {
	Status int
	Header http.Header
	Body   string
}

// Do sends a request. Header lines in headers are NAME: VALUE. The CSRF token goes along, unless a header sets it.
func (c *Client) Do(method, path string, body any, kind string, headers ...string) Answer {
	c.t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case string:
		reader = strings.NewReader(b)
	case url.Values:
		if c.Form != "" && !b.Has("form_token") {
			b.Set("form_token", c.Form)
		}
		reader, kind = strings.NewReader(b.Encode()), "application/x-www-form-urlencoded"
	}
	r, err := http.NewRequest(method, c.Base+path, reader)
	if err != nil {
		c.t.Fatal(err)
	}
	if kind != "" {
		r.Header.Set("Content-Type", kind)
	}
	if c.Form != "" && method != http.MethodGet {
		r.Header.Set("X-Keyturn-Form-Token", c.Form)
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Set(name, value)
	}
	answer, err := c.HTTP.Do(r)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	got := Answer{answer.StatusCode, answer.Header, string(text)}
	if err := validate(method, r.URL, got); err != nil && !c.Elsewhere {
		c.t.Errorf("%s %s: %d is not as admin.yaml says: %v\n%.300s", method, path, got.Status, err, got.Body)
	}
	return got
}

// API sends a request to the API with a JSON body; "" for none.
func (c *Client) API(method, path, body string, headers ...string) Answer {
	c.t.Helper()
	if body == "" {
		return c.Do(method, "/api/v1/"+path, nil, "", headers...)
	}
	return c.Do(method, "/api/v1/"+path, body, "application/json", headers...)
}

// Authority makes certificates.
type Authority struct {
	File   string // PEM
	Pool   *x509.CertPool
	folder string
	parent *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

// NewAuthority makes an authority with its files in a folder.
func NewAuthority(folder string) *Authority {
	a := &Authority{File: filepath.Join(folder, "ca.pem"), Pool: x509.NewCertPool(), folder: folder}
	a.key = Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	root := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "keyturn test authority"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der := Must(x509.CreateCertificate(rand.Reader, root, root, a.key.Public(), a.key))
	a.parent = Must(x509.ParseCertificate(der))
	a.Pool.AddCert(a.parent)
	a.serial = 1
	writePEM(a.File, "CERTIFICATE", der)
	return a
}

func writePEM(file, kind string, der []byte) {
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	Must(0, os.WriteFile(file, text, 0o600))
}

// issue makes a certificate and its key, in files named after it.
func (a *Authority) issue(name string, c *x509.Certificate) (certFile, keyFile string, der []byte,
	key *ecdsa.PrivateKey) {
	a.serial++
	c.SerialNumber = big.NewInt(a.serial)
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	key = Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der = Must(x509.CreateCertificate(rand.Reader, c, a.parent, key.Public(), a.key))
	certFile = filepath.Join(a.folder, fmt.Sprintf("%s-%d.pem", name, a.serial))
	keyFile = filepath.Join(a.folder, fmt.Sprintf("%s-%d.key", name, a.serial))
	writePEM(certFile, "CERTIFICATE", der)
	writePEM(keyFile, "PRIVATE KEY", Must(x509.MarshalPKCS8PrivateKey(key)))
	return certFile, keyFile, der, key
}

// ServerFiles makes the certificate of a server on this host.
func (a *Authority) ServerFiles() (certFile, keyFile string) {
	certFile, keyFile, _, _ = a.issue("server", &x509.Certificate{
		Subject:     pkix.Name{CommonName: "localhost"},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return certFile, keyFile
}

// ClientFiles makes a client certificate in files.
func (a *Authority) ClientFiles(subject pkix.Name) (certFile, keyFile string) {
	certFile, keyFile, _, _ = a.issue("client", &x509.Certificate{
		Subject:     subject,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return certFile, keyFile
}

// Client makes a client certificate.
func (a *Authority) Client(subject pkix.Name) *tls.Certificate {
	_, _, der, key := a.issue("client", &x509.Certificate{
		Subject:     subject,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
