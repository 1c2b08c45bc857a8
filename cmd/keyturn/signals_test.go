package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage/storagetest"
)

// sharedBuffer is what a process has written so far.
type sharedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *sharedBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *sharedBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// A process reads its configuration again at SIGHUP, sends its traces where it is told to, is not ready at SIGTERM,
// still answers for a while, and ends with 0.
func TestSignals(t *testing.T) {
	var traces sharedBuffer
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		traces.Write([]byte(r.URL.Path + " " + string(body)))
	}))
	defer collector.Close()
	folder, port, adminPort := t.TempDir(), freePort(t), freePort(t)
	file := filepath.Join(folder, "keyturn.yaml")
	write := func(more string) {
		text := "issuer: http://127.0.0.1:" + port + "\nlisten: 127.0.0.1:" + port + "\nadmin_listen: 127.0.0.1:" +
			adminPort + "\nstop_delay: 1s\n" +
			"database: sqlite:" + folder + "/keyturn.db\n" + more
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	c := exec.Command(os.Args[0], "serve", "--config", file)
	c.Args[0] = "keyturn"
	for _, variable := range storagetest.Environ() {
		if !strings.HasPrefix(variable, "KEYTURN_STOP_DELAY") {
			c.Env = append(c.Env, variable)
		}
	}
	c.Env = append(c.Env, "OTEL_EXPORTER_OTLP_ENDPOINT="+collector.URL)
	var out sharedBuffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Process.Kill()
	base := "http://127.0.0.1:" + port
	if err := waitFor(base + "/readyz"); err != nil {
		t.Fatal(err, out.String())
	}
	says := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !strings.Contains(out.String(),
			what); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("it does not say %q: %s", what, out.String())
			}
		}
	}
	write("jwks_max_age: 1m\nlisten_adress: x\n")
	if err := c.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	says(`unknown key \"listen_adress\"`)
	maxAge := func() string {
		r, err := http.Get(base + "/.well-known/jwks.json")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		return r.Header.Get("Cache-Control")
	}
	if got := maxAge(); got != "public, max-age=300" {
		t.Errorf("after a bad reload: %s", got)
	}
	write("jwks_max_age: 1m\n")
	if err := c.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	says("the configuration was read again")
	if got := maxAge(); got != "public, max-age=60" {
		t.Errorf("after a reload: %s", got)
	}
	begun := time.Now()
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	says(`"msg":"stopping"`)
	if r, err := http.Get(base + "/readyz"); err != nil || r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a server that stops: %v %v", r, err)
	}
	if got := maxAge(); got != "public, max-age=60" {
		t.Errorf("a server that stops does not answer: %s", got)
	}
	if err := c.Wait(); err != nil ||
		time.Since(begun) < time.Second ||
		time.Since(begun) > 10*time.Second {
		t.Errorf("it ends with %v after %v: %s", err, time.Since(begun), out.String())
	}
	if got := traces.String(); !strings.Contains(got, "/v1/traces ") || !strings.Contains(got, "/.well-known/jwks.json") {
		t.Errorf("%q was sent as traces", got)
	}
}

// Traces are sent only if somebody asks for them.
func TestTracingIsOffUnlessAskedFor(t *testing.T) {
	for want, environments := range map[bool][]map[string]string{
		false: {{}, {"OTEL_SERVICE_NAME": "x"}, {"OTEL_SDK_DISABLED": "true",
			"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4317"},
			{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "TRUE"},
			{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}},
		true: {{"OTEL_TRACES_EXPORTER": "otlp"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"},
			{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}},
	} {
		for _, environment := range environments {
			if got, err := wantsTracing(func(name string) string { return environment[name] }); err != nil || got != want {
				t.Errorf("%v: %v, %v", environment, got, err)
			}
		}
	}
	for _, environment := range []map[string]string{{"OTEL_TRACES_EXPORTER": "console"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4317"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://%zz"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}} {
		if _, err := wantsTracing(func(name string) string { return environment[name] }); err == nil {
			t.Errorf("%v is taken", environment)
		}
	}
}
