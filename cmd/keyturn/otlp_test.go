package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// collector receives traces by OTLP/HTTP. respond answers the nth attempt, from 1; nil: with 200.
type collector struct {
	*httptest.Server
	respond func(attempt int, w http.ResponseWriter, r *http.Request)

	mu       sync.Mutex
	attempts []time.Time
	headers  http.Header // of the last request
	path     string
	spans    []*tracepb.Span // of all requests
}

func newCollector(t *testing.T) *collector {
	c := &collector{}
	c.Server = httptest.NewUnstartedServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = unpacked
	}
	text, err := io.ReadAll(body)
	var data tracepb.TracesData
	if err == nil {
		err = proto.Unmarshal(text, &data)
	}
	if err != nil || r.Method != http.MethodPost {
		http.Error(w, "not OTLP", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.attempts = append(c.attempts, time.Now())
	c.headers, c.path = r.Header, r.URL.Path
	for _, resource := range data.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
	attempt := len(c.attempts)
	c.mu.Unlock()
	if c.respond != nil {
		c.respond(attempt, w, r)
	}
}

// export sends one span with an environment. Retries wait at most 20 ms, unless the collector asks for more.
func export(t *testing.T, env map[string]string) (logged string, err error) {
	t.Helper()
	var log bytes.Buffer
	client, err := newOTLPClient(
		func(name string) string { return env[name] },
		slog.New(slog.NewTextHandler(&log, nil)),
	)
	if err != nil {
		return log.String(), err
	}
	client.firstRetry, client.longestRetry, client.retryFor = 5*time.Millisecond, 20*time.Millisecond, 5*time.Second
	exporter, err := otlptrace.New(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	recorded := &spanRecorder{}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(recorded))
	_, span := provider.Tracer("test").Start(t.Context(), "GET /x")
	span.SetAttributes(attribute.Int("http.response.status_code", 200))
	span.End()
	err = exporter.ExportSpans(t.Context(), recorded.spans)
	if err := exporter.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	return log.String(), err
}

// spanRecorder records the spans that an exporter gets.
type spanRecorder struct{ spans []sdktrace.ReadOnlySpan }

func (r *spanRecorder) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	r.spans = append(r.spans, spans...)
	return nil
}

func (r *spanRecorder) Shutdown(context.Context) error { return nil }

// otlpCase is an environment, and the expected request and log.
type otlpCase struct {
	all, traces map[string]string // without their prefixes; ENDPOINT is a path
	path        string
	headers     map[string]string
	logged      string
}

// environ is the environment of the case for a collector.
func (c otlpCase) environ(collectorURL string) map[string]string {
	env := map[string]string{}
	for prefix, values := range map[string]map[string]string{
		"OTEL_EXPORTER_OTLP_":        c.all,
		"OTEL_EXPORTER_OTLP_TRACES_": c.traces,
	} {
		for name, value := range values {
			if name == "ENDPOINT" {
				value = collectorURL + value
			}
			env[prefix+name] = value
		}
	}
	return env
}

var otlpCases = map[string]otlpCase{
	"defaults": {
		all:     map[string]string{"ENDPOINT": ""},
		path:    "/v1/traces",
		headers: map[string]string{"Content-Type": "application/x-protobuf", "Content-Encoding": ""},
	},
	"a base path": {all: map[string]string{"ENDPOINT": "/otlp/"}, path: "/otlp/v1/traces"},
	"for traces": {
		all:    map[string]string{"ENDPOINT": "/otlp", "HEADERS": "a=1,b=2", "COMPRESSION": "gzip"},
		traces: map[string]string{"ENDPOINT": "/here", "HEADERS": "a=3", "COMPRESSION": "none"},
		path:   "/here",
		headers: map[string]string{
			"A":                "3",
			"B":                "",
			"Content-Encoding": "",
		},
	},
	"for traces, no path": {traces: map[string]string{"ENDPOINT": ""}, path: "/"},
	"headers": {
		all: map[string]string{
			"ENDPOINT": "",
			"HEADERS":  "authorization=Bearer%20s%3Dcret, x-tenant = one ,user-agent=ours",
		},
		path: "/v1/traces",
		headers: map[string]string{
			"Authorization": "Bearer s=cret",
			"X-Tenant":      "one",
			"User-Agent":    "ours",
		},
	},
	"bad headers": {
		all: map[string]string{
			"ENDPOINT": "",
			"HEADERS":  "secret,a b=secret,c=secret%zz,d=secret%0asecret,e=5",
		},
		path:    "/v1/traces",
		headers: map[string]string{"E": "5", "C": "", "D": ""},
		logged:  "OTEL_EXPORTER_OTLP_HEADERS",
	},
	"gzip": {
		all:     map[string]string{"ENDPOINT": "", "COMPRESSION": "gzip"},
		path:    "/v1/traces",
		headers: map[string]string{"Content-Encoding": "gzip"},
	},
	"bad timeout": {
		all:    map[string]string{"ENDPOINT": ""},
		traces: map[string]string{"TIMEOUT": "1s"},
		path:   "/v1/traces",
		logged: "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
	},
}

// Paths, headers and encodings follow the variables of the OpenTelemetry specification.
func TestOTLPVariables(t *testing.T) {
	for name, c := range otlpCases {
		t.Run(name, func(t *testing.T) {
			to := newCollector(t)
			to.Start()
			logged, err := export(t, c.environ(to.URL))
			if err != nil ||
				to.path != c.path ||
				len(to.spans) != 1 ||
				to.spans[0].GetName() != "GET /x" ||
				to.spans[0].GetAttributes()[0].GetValue().GetIntValue() != 200 {
				t.Errorf("%v: %s %v", err, to.path, to.spans)
			}
			for name, want := range c.headers {
				if got := to.headers.Get(name); got != want {
					t.Errorf("%s: %q instead of %q", name, got, want)
				}
			}
			if !strings.Contains(logged, c.logged) ||
				(c.logged == "") != (logged == "") ||
				strings.Contains(logged, "secret") {
				t.Errorf("log: %s", logged)
			}
		})
	}
}

// The scheme is https without an endpoint; INSECURE overrides it.
func TestOTLPScheme(t *testing.T) {
	for want, env := range map[string]map[string]string{
		"https://localhost:4318/v1/traces": {},
		"http://localhost:4318/v1/traces":  {"OTEL_EXPORTER_OTLP_INSECURE": "true"},
		"https://x/v1/traces": {
			"OTEL_EXPORTER_OTLP_ENDPOINT":        "http://x",
			"OTEL_EXPORTER_OTLP_TRACES_INSECURE": "false",
		},
		"http://y/": {
			"OTEL_EXPORTER_OTLP_ENDPOINT":        "https://x",
			"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://user:secret@y?a=b",
		},
	} {
		c, err := newOTLPClient(func(name string) string { return env[name] }, slog.New(slog.DiscardHandler))
		if err != nil || c.endpoint != want {
			t.Errorf("%v: %+v", err, c)
		}
	}
}

// A collector that asks for a retry gets the batch again at the time that it asks for. Other errors are final.
func TestOTLPRetries(t *testing.T) {
	t.Parallel()
	const past = "Thu, 01 Jan 2015 00:00:00 GMT"
	for name, c := range map[string]struct {
		status     int
		retryAfter string
		attempts   int
	}{
		"429":                {http.StatusTooManyRequests, "", 3},
		"502":                {http.StatusBadGateway, "", 3},
		"503":                {http.StatusServiceUnavailable, "", 3},
		"503, Retry-After":   {http.StatusServiceUnavailable, "1", 2},
		"503, a passed date": {http.StatusServiceUnavailable, past, 3},
		"503, too late":      {http.StatusServiceUnavailable, "86400", 1},
		"503, far too late":  {http.StatusServiceUnavailable, "9223372036854775807", 1},
		"504":                {http.StatusGatewayTimeout, "", 3},
		"400":                {http.StatusBadRequest, "", 1},
		"500":                {http.StatusInternalServerError, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := newCollector(t)
			to.respond = func(attempt int, w http.ResponseWriter, _ *http.Request) {
				if attempt < max(c.attempts, 2) {
					w.Header().Set("Retry-After", c.retryAfter)
					http.Error(w, "not now", c.status)
				}
			}
			to.Start()
			_, err := export(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": to.URL})
			if len(to.attempts) != c.attempts ||
				(err == nil) != (c.attempts > 1) ||
				err != nil && !strings.Contains(err.Error(), "not now") {
				t.Errorf("%d attempts: %v", len(to.attempts), err)
			}
			if c.retryAfter == "1" && to.attempts[1].Sub(to.attempts[0]) < time.Second {
				t.Errorf("attempts at %v", to.attempts)
			}
		})
	}
}

// The client retries if the collector does not answer in time.
func TestOTLPTimeout(t *testing.T) {
	t.Parallel()
	to := newCollector(t)
	to.respond = func(attempt int, _ http.ResponseWriter, r *http.Request) {
		if attempt == 1 {
			<-r.Context().Done()
		}
	}
	to.Start()
	if _, err := export(t, map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": to.URL,
		"OTEL_EXPORTER_OTLP_TIMEOUT":  "300",
	}); err != nil || len(to.attempts) < 2 {
		t.Errorf("%d attempts: %v", len(to.attempts), err)
	}
}

// While the collector is down, its batch is lost without delay. The next batch arrives once it is up.
func TestOTLPCollectorAway(t *testing.T) {
	t.Parallel()
	to := newCollector(t)
	to.Listener.Close()
	address, listen := reservedPort(t)
	env := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + address}
	begun := time.Now()
	if _, err := export(t, env); err == nil || time.Since(begun) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(begun))
	}
	to.Listener = listen()
	to.Start()
	if _, err := export(t, env); err != nil || len(to.spans) != 1 {
		t.Errorf("%d spans: %v", len(to.spans), err)
	}
}

// reservedPort returns the address of a port that refuses connections, until listen is called. Nobody else can take it.
func reservedPort(t *testing.T) (address string, listen func() net.Listener) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	must(err)
	socket := os.NewFile(uintptr(fd), "reserved port")
	t.Cleanup(func() { socket.Close() })
	must(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	bound, err := syscall.Getsockname(fd)
	must(err)
	address = net.JoinHostPort("127.0.0.1", strconv.Itoa(bound.(*syscall.SockaddrInet4).Port))
	return address, func() net.Listener {
		must(syscall.Listen(fd, 16))
		l, err := net.FileListener(socket)
		must(err)
		return l
	}
}

// The context bounds all attempts.
func TestOTLPContext(t *testing.T) {
	t.Parallel()
	to := newCollector(t)
	to.respond = func(_ int, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "30")
		http.Error(w, "not now", http.StatusServiceUnavailable)
	}
	to.Start()
	client, err := newOTLPClient(func(name string) string {
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": to.URL}[name]
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begun := time.Now()
	err = client.UploadTraces(ctx, nil)
	if err == nil ||
		!strings.Contains(err.Error(), "not now") ||
		time.Since(begun) > 20*time.Second {
		t.Errorf("%v after %v", err, time.Since(begun))
	}
}

// The log shows which spans the collector refused. Such a batch is not sent again.
func TestOTLPPartialSuccess(t *testing.T) {
	var part, unknown []byte
	part = protowire.AppendTag(part, 1, protowire.VarintType)
	part = protowire.AppendVarint(part, 1)
	part = protowire.AppendTag(part, 2, protowire.BytesType)
	part = protowire.AppendString(part, "too old")
	unknown = protowire.AppendTag(unknown, 9, protowire.Fixed32Type)
	unknown = protowire.AppendFixed32(unknown, 7)
	whole := protowire.AppendBytes(protowire.AppendTag(unknown, 1, protowire.BytesType), part)
	for name, c := range map[string]struct {
		answer []byte
		want   string
	}{
		"partial": {whole, `refused 1 spans: "too old"`},
		"whole":   {unknown, ""},
		"cut":     {whole[:len(whole)-1], "cannot read"},
	} {
		t.Run(name, func(t *testing.T) {
			to := newCollector(t)
			to.respond = func(_ int, w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/x-protobuf")
				w.Write(c.answer)
			}
			to.Start()
			_, err := export(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": to.URL})
			if (err == nil) != (c.want == "") ||
				err != nil && !strings.Contains(err.Error(), c.want) ||
				len(to.attempts) != 1 {
				t.Errorf("%d attempts: %v", len(to.attempts), err)
			}
		})
	}
}

// CERTIFICATE names the authority of the collector's certificate, and is an error without TLS.
func TestOTLPCertificate(t *testing.T) {
	to := newCollector(t)
	to.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	var clients int // certificates of the last client
	to.respond = func(_ int, _ http.ResponseWriter, r *http.Request) { clients = len(r.TLS.PeerCertificates) }
	to.StartTLS()
	file, keyFile := filepath.Join(t.TempDir(), "ca.pem"), filepath.Join(t.TempDir(), "key.pem")
	key, err := x509.MarshalPKCS8PrivateKey(to.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		file:    {Type: "CERTIFICATE", Bytes: to.Certificate().Raw},
		keyFile: {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": to.URL}
	if _, err := export(t, env); err == nil || len(to.spans) != 0 {
		t.Errorf("an unknown certificate: %v", err)
	}
	env["OTEL_EXPORTER_OTLP_CERTIFICATE"] = file + ".none"
	if logged, err := export(t, env); err == nil || !strings.Contains(logged, "OTEL_EXPORTER_OTLP_CERTIFICATE") {
		t.Errorf("no file: %v %s", err, logged)
	}
	env["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE"] = file
	if _, err := export(t, env); err != nil ||
		len(to.spans) != 1 ||
		clients != 0 {
		t.Errorf("a known certificate: %v", err)
	}
	env["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"], env["OTEL_EXPORTER_OTLP_CLIENT_KEY"] = file, keyFile
	if _, err := export(t, env); err != nil || clients != 1 {
		t.Errorf("%d client certificates: %v", clients, err)
	}
	env["OTEL_EXPORTER_OTLP_INSECURE"] = "true"
	if _, err := export(t, env); err == nil || !strings.Contains(err.Error(), "no TLS") {
		t.Errorf("no TLS: %v", err)
	}
}

// Trace and resource arrive unchanged.
func TestTracingSends(t *testing.T) {
	to := newCollector(t)
	to.Start()
	var log bytes.Buffer
	tracer, stop, err := tracing(t.Context(), func(name string) string {
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": to.URL}[name]
	}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, outer := tracer.Start(t.Context(), "outer")
	_, inner := tracer.Start(ctx, "inner")
	inner.End()
	outer.End()
	if err := stop(t.Context()); err != nil {
		t.Error(err)
	}
	trace, parent := outer.SpanContext().TraceID(), outer.SpanContext().SpanID()
	if len(to.spans) != 2 ||
		!slices.Equal(to.spans[0].GetTraceId(), trace[:]) ||
		!slices.Equal(to.spans[0].GetParentSpanId(), parent[:]) {
		t.Errorf("%v %s", to.spans, log.String())
	}
}
