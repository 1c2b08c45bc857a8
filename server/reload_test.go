package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// A running server takes over what may change, says what needs a restart, and keeps all of the old configuration if the
// new one is bad.
func TestReload(t *testing.T) {
	t.Parallel()
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		c := HashingConfig(databaseURL)
		h := OpenHarness(t, c, nil)
		h.Provision()
		f := &listeners{}
		f.public.set(h.Server.PublicHandler())
		var level slog.LevelVar
		o := Options{Level: &level}
		reload := func(change func(*config.Config)) error {
			next := *h.Server.config()
			change(&next)
			err := h.reload(f, o, next)
			h.Server.tellReload(err)
			return err
		}
		if err := reload(func(c *config.Config) {
			c.AccessTTL, c.LogLevel, c.LoginFailures = time.Minute, "warn", 3
			c.Listen, c.CORSOrigins = "127.0.0.1:1", config.List{"https://app.example"}
			c.PasswordGrant, c.JWKSMaxAge = true, time.Minute
		}); err != nil {
			t.Fatal(err)
		}
		tokens := h.Login("app")
		if tokens.ExpiresIn != 60 || level.Level() != slog.LevelWarn {
			t.Errorf("%d s, %v", tokens.ExpiresIn, level.Level())
		}
		if got := h.Get("/.well-known/jwks.json").Header.Get("Cache-Control"); got != "public, max-age=60" {
			t.Error(got)
		}
		for range 3 {
			h.LoginFrom("192.0.2.7", "alice", "wrong")
		}
		if r := h.LoginFrom("192.0.2.7", "alice", password); r.Status == 200 {
			t.Error("the limit of failed logins is the old one")
		}
		if log := h.Log.String(); !strings.Contains(log, `"settings":"listen"`) ||
			h.Server.config().Listen == "127.0.0.1:1" {
			t.Error("nobody was told that listen needs a restart")
		}
		for _, bad := range []func(*config.Config){
			func(c *config.Config) { c.AccessTTL = 2 * time.Hour },
			func(c *config.Config) { c.JWKSMaxAge = c.KeyPublishLead },
			func(c *config.Config) { c.LogLevel = "loud" },
		} {
			var problems *config.Error
			if err := reload(bad); !errors.As(err, &problems) {
				t.Errorf("%v", err)
			}
		}
		if tokens := h.Refresh("app", tokens.RefreshToken).Tokens(t); tokens.ExpiresIn != 60 {
			t.Errorf("%d s", tokens.ExpiresIn)
		}
		if text := h.metricsText(); !strings.Contains(text, `keyturn_config_reloads_total{outcome="failed"} 3`) ||
			!strings.Contains(text, `keyturn_config_reload_ok 0`) {
			t.Error("the metrics do not tell")
		}
		if err := reload(func(c *config.Config) { c.PasswordGrant = false }); err != nil {
			t.Error(err)
		}
		var metadata struct {
			Grants []string `json:"grant_types_supported"`
		}
		if err := json.Unmarshal([]byte(textOf(&f.public, "/.well-known/oauth-authorization-server")),
			&metadata); err != nil ||
			len(metadata.Grants) != 1 {
			t.Errorf("%v, %v", metadata, err)
		}
	})
}

// SIGHUP is heard, also twice, and a new certificate is served without a connection being refused.
func TestReloadOfACertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certificate := func(serial int64) {
		certPEM, keyPEM := selfSigned(t, serial)
		for name, text := range map[string][]byte{"cert.pem": certPEM, "key.pem": keyPEM} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	certificate(1)
	c := HashingConfig(storagetest.SQLiteURL(t))
	c.TLSCertFile, c.TLSKeyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	listeners, err := Listen(c)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan os.Signal, 1)
	log := &Buffer{}
	served := make(chan error, 1)
	running, stop := context.WithCancel(ctx)
	go func() {
		read := func(config.Config) (Reread, error) { return Reread{Config: c}, nil }
		served <- ServeAt(running, c, Options{
			Module: keystest.Module(),
			Log:    slog.New(slog.NewJSONHandler(log, nil)),
			Reload: Reload{Asked: asked, Read: read},
		}, listeners)
	}()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	serial := func() int64 {
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{InsecureSkipVerify: true}}
		conn, err := d.DialContext(ctx, "tcp", listeners.Public.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	awaitLog := func(what string, times int) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); strings.Count(log.String(),
			what) < times; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("not %d times %q: %s", times, what, log.String())
			}
		}
	}
	if serial() != 1 {
		t.Error("not the first certificate")
	}
	certificate(2)
	asked <- syscall.SIGHUP
	awaitLog("the configuration was read again", 1)
	if got := serial(); got != 2 {
		t.Errorf("certificate %d", got)
	}
	if err := os.WriteFile(c.TLSKeyFile, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	asked <- syscall.SIGHUP
	awaitLog("the configuration stays as it was", 1)
	if got := serial(); got != 2 {
		t.Errorf("certificate %d", got)
	}
}

// metricsText is what Prometheus reads.
func (h *Harness) metricsText() string {
	h.T.Helper()
	return textOf(h.Server.AdminHandler(), "/metrics")
}

// textOf is what a handler answers to a GET.
func textOf(h http.Handler, path string) string {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Body.String()
}

// selfSigned is a certificate with its key, for loopback.
func selfSigned(t *testing.T, serial int64) (certPEM, keyPEM []byte) {
	t.Helper()
	key := Must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der := Must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
	private := Must(x509.MarshalPKCS8PrivateKey(key))
	return pem.EncodeToMemory(
		&pem.Block{Type: "CERTIFICATE", Bytes: der},
	), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// Whoever has sent half a request does not decide how a server ends: it is cut off in time, and the server ends well.
func TestStopDespiteASlowClient(t *testing.T) {
	t.Parallel()
	c := HashingConfig(storagetest.SQLiteURL(t))
	listeners := Must(Listen(c))
	log := &Buffer{}
	served := make(chan error, 1)
	running, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		o := Options{Module: keystest.Module(), Log: slog.New(slog.NewJSONHandler(log, nil))}
		served <- ServeAt(running, c, o, listeners)
	}()
	conn := Must(net.Dial("tcp", listeners.Public.Addr().String()))
	defer conn.Close()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(log.String(),
		`"msg":"serving"`); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(log.String())
		}
	}
	Must(
		conn.Write(
			[]byte(
				"POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: " +
					"application/x-www-form-urlencoded\r\nContent-Length: " +
					"100\r\n\r\ngrant_type=",
			),
		),
	)
	time.Sleep(50 * time.Millisecond) // until it is being read
	lock := Must(
		storagetest.Raw(t, c.Database).Conn(ctx),
	) // neither does whoever keeps the last heartbeat from being written
	Must(lock.ExecContext(ctx, `BEGIN IMMEDIATE`))
	defer lock.ExecContext(ctx, `ROLLBACK`)
	begun := time.Now()
	stop()
	if err := <-served; err != nil || time.Since(begun) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(begun))
	}
	t.Logf("ended after %v", time.Since(begun).Round(time.Millisecond))
	if !strings.Contains(log.String(), "cut off") {
		t.Error("nobody is told that a request was cut off")
	}
}

// Who is being throttled already goes by the new limit, whichever way it was changed.
func TestReloadOfBudgets(t *testing.T) {
	t.Parallel()
	at := noon
	b := newRateLimits(300, time.Hour)
	b.spend("key", at)
	b.change(3, time.Hour, at)
	for range 3 {
		b.spend("key", at)
	}
	if b.wait("key", at) == 0 {
		t.Error("a smaller limit does not count for who has failed before")
	}
	b.change(300, time.Minute, at)
	if wait := b.wait("key", at.Add(time.Second)); wait > 0 {
		t.Errorf("a larger limit does not: %v", wait)
	}
}

// A reload that cannot be recorded changes nothing, and one that has nothing to record needs no database.
func TestReloadWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, HashingConfig(storagetest.SQLiteURL(t)), nil)
	f := &listeners{}
	f.public.set(h.Server.PublicHandler())
	var level slog.LevelVar
	h.Server.db.Close()
	next := *h.Server.config()
	next.AccessTTL, next.LogLevel = time.Minute, "error"
	if err := h.reload(f, Options{Level: &level}, next); err == nil || level.Level() != slog.LevelInfo ||
		h.Server.config().AccessTTL == next.AccessTTL {
		t.Errorf("%v %v", err, level.Level())
	}
	next.AccessTTL = h.Server.config().AccessTTL
	if err := h.reload(f, Options{Level: &level}, next); err != nil || level.Level() != slog.LevelError {
		t.Errorf("%v %v", err, level.Level())
	}
}

// reload does what the edge does with a configuration that was read again, and then what the server does.
func (h *Harness) reload(f *listeners, o Options, next config.Config) error {
	mixed, later := h.Server.config().Reloaded(next)
	problems := append(mixed.Problems(true), keys.Config(mixed.Keys()).Problems()...)
	if problems = append(problems, next.Problems(true)...); len(problems) > 0 {
		return &config.Error{Problems: problems}
	}
	return h.Server.reload(ctx, f, o, Reread{Config: mixed, Later: later, Warnings: next.Warnings()})
}
