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

// sharedBuffer collects the output of a process while it runs.
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

// fileServer is a server that reads its settings from a file.
type fileServer struct {
	*exec.Cmd
	t    *testing.T
	base string
	file string
	text string // settings that never change
	out  sharedBuffer
}

func startFileServer(t *testing.T, environ ...string) *fileServer {
	t.Helper()
	folder, port := t.TempDir(), storagetest.FreePort(t)
	s := &fileServer{t: t, base: "http://127.0.0.1:" + port, file: filepath.Join(folder, "keyturn.yaml")}
	s.text = strings.Join([]string{
		"issuer: " + s.base,
		"listen: 127.0.0.1:" + port,
		"admin_listen: 127.0.0.1:" + storagetest.FreePort(t),
		"stop_delay: 1s",
		"database: sqlite:" + folder + "/keyturn.db",
		"",
	}, "\n")
	s.write("")
	s.Cmd = exec.Command(os.Args[0], "serve", "--config", s.file)
	s.Args[0] = "keyturn"
	for _, variable := range storagetest.Environ() {
		if !strings.HasPrefix(variable, "KEYTURN_STOP_DELAY") {
			s.Env = append(s.Env, variable)
		}
	}
	s.Env = append(s.Env, environ...)
	s.Stdout, s.Stderr = &s.out, &s.out
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Process.Kill() })
	if err := waitFor(s.base + "/readyz"); err != nil {
		t.Fatal(err, s.out.String())
	}
	return s
}

// write writes the settings that never change, and more.
func (s *fileServer) write(more string) {
	s.t.Helper()
	if err := os.WriteFile(s.file, []byte(s.text+more), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// signal sends a signal and waits for a text in the output.
func (s *fileServer) signal(signal os.Signal, text string) {
	s.t.Helper()
	if err := s.Process.Signal(signal); err != nil {
		s.t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(s.out.String(), text); {
		if time.Now().After(deadline) {
			s.t.Fatalf("the output lacks %q: %s", text, s.out.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// cacheControl is the Cache-Control of the JWKS.
func (s *fileServer) cacheControl() string {
	s.t.Helper()
	r, err := http.Get(s.base + "/.well-known/jwks.json")
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close()
	return r.Header.Get("Cache-Control")
}

// A process reads its configuration again at SIGHUP and sends its traces. At SIGTERM it is not ready, answers for a
// while, and exits with 0.
func TestSignals(t *testing.T) {
	t.Parallel()
	var traces sharedBuffer
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		traces.Write([]byte(r.URL.Path + " " + string(body)))
	}))
	defer collector.Close()
	s := startFileServer(t, "OTEL_EXPORTER_OTLP_ENDPOINT="+collector.URL)
	s.write("jwks_max_age: 1m\nlisten_adress: x\n")
	s.signal(syscall.SIGHUP, `unknown key \"listen_adress\"`)
	if got := s.cacheControl(); got != "public, max-age=300" {
		t.Errorf("after a bad reload: %s", got)
	}
	s.write("jwks_max_age: 1m\n")
	s.signal(syscall.SIGHUP, "the configuration was read again")
	if got := s.cacheControl(); got != "public, max-age=60" {
		t.Errorf("after a reload: %s", got)
	}
	begun := time.Now()
	s.signal(syscall.SIGTERM, `"msg":"stopping"`)
	if r, err := http.Get(s.base + "/readyz"); err != nil || r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a stopping server: %v %v", r, err)
	}
	if got := s.cacheControl(); got != "public, max-age=60" {
		t.Errorf("a stopping server does not answer: %s", got)
	}
	err := s.Wait()
	if took := time.Since(begun); err != nil ||
		took < time.Second ||
		took > 10*time.Second {
		t.Errorf("it ends with %v after %v: %s", err, took, s.out.String())
	}
	for _, want := range []string{"/v1/traces ", "/.well-known/jwks.json"} {
		if got := traces.String(); !strings.Contains(got, want) {
			t.Errorf("no %s in the traces %q", want, got)
		}
	}
}

// Traces are sent only if the environment asks for them.
func TestTracingIsOffUnlessAskedFor(t *testing.T) {
	const endpoint, exporter = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER"
	for _, c := range []struct {
		environ map[string]string
		want    bool
		invalid bool
	}{
		{environ: map[string]string{}},
		{environ: map[string]string{"OTEL_SERVICE_NAME": "x"}},
		{environ: map[string]string{"OTEL_SDK_DISABLED": "true", endpoint: "localhost:4317"}},
		{environ: map[string]string{"OTEL_SDK_DISABLED": "TRUE", endpoint: "http://x"}},
		{environ: map[string]string{endpoint: "http://x", exporter: "none"}},
		{environ: map[string]string{exporter: "otlp"}, want: true},
		{environ: map[string]string{endpoint: "http://x"}, want: true},
		{environ: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, want: true},
		{environ: map[string]string{exporter: "console"}, invalid: true},
		{environ: map[string]string{endpoint: "localhost:4317"}, invalid: true},
		{environ: map[string]string{endpoint: "http://%zz"}, invalid: true},
		{environ: map[string]string{endpoint: "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, invalid: true},
	} {
		got, err := wantsTracing(func(name string) string { return c.environ[name] })
		if got != c.want || (err != nil) != c.invalid {
			t.Errorf("%v: %v, %v", c.environ, got, err)
		}
	}
}
