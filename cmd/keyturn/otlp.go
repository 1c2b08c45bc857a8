package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/cenkalti/backoff/v5"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	slimpb "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1" // without gRPC
	"google.golang.org/protobuf/proto"
)

const (
	protobufType  = "application/x-protobuf"
	maxOTLPAnswer = 64 << 10 // bytes
)

// otlpClient sends traces to a collector by OTLP/HTTP in protobuf. It reads the same variables as otlptracehttp of
// OpenTelemetry, and retries alike. It exists because that package links gRPC.
type otlpClient struct {
	endpoint     string
	headers      http.Header
	gzip         bool
	http         *http.Client
	firstRetry   time.Duration // mean wait before the first retry; each further one waits longer
	longestRetry time.Duration
	retryFor     time.Duration // from the first attempt on
}

// newOTLPClient reads OTEL_EXPORTER_OTLP_*. It logs and ignores values that it cannot read.
func newOTLPClient(getenv func(string) string, log *slog.Logger) (*otlpClient, error) {
	env := otlpEnv{getenv, log}
	endpoint := env.endpoint()
	tlsConfig := env.tls()
	if tlsConfig != nil && endpoint.Scheme == "http" {
		return nil, fmt.Errorf("certificates are set, but the endpoint %s has no TLS", &endpoint)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = tlsConfig
	c := &otlpClient{
		endpoint:     endpoint.String(),
		headers:      env.headers(),
		http:         &http.Client{Transport: transport, Timeout: 10 * time.Second},
		firstRetry:   5 * time.Second,
		longestRetry: 30 * time.Second,
		retryFor:     time.Minute,
	}
	env.each(func(values []string) error {
		milliseconds, err := strconv.Atoi(values[0])
		if err == nil {
			c.http.Timeout = time.Duration(milliseconds) * time.Millisecond
		}
		return err
	}, "TIMEOUT")
	env.each(func(values []string) error {
		c.gzip = values[0] == "gzip"
		return nil
	}, "COMPRESSION")
	if c.gzip {
		c.headers.Set("Content-Encoding", "gzip")
	}
	return c, nil
}

// Start does nothing: the first upload connects.
func (c *otlpClient) Start(context.Context) error { return nil }

// Stop closes the connections.
func (c *otlpClient) Stop(context.Context) error {
	c.http.CloseIdleConnections()
	return nil
}

// UploadTraces sends spans, and retries as long as the collector asks for it, the context lasts and retryFor allows.
func (c *otlpClient) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// TracesData has the bytes of an ExportTraceServiceRequest, whose package links gRPC. proto/slim has one without,
	// but it does not take the spans of otlptrace.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return err
	}
	if c.gzip {
		var small bytes.Buffer
		w := gzip.NewWriter(&small)
		if _, err := w.Write(body); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		body = small.Bytes()
	}
	var last error
	pace := backoff.NewExponentialBackOff()
	pace.InitialInterval, pace.MaxInterval = c.firstRetry, c.longestRetry
	backoff.Retry(ctx, func() (struct{}, error) {
		last = c.post(ctx, body)
		return struct{}{}, last
	}, backoff.WithBackOff(pace), backoff.WithMaxElapsedTime(c.retryFor))
	return last // says more than the error of a context that ends while Retry waits
}

// post sends one request. The error is permanent unless a retry may help.
func (c *otlpClient) post(ctx context.Context, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, bytes.NewReader(body))
	if err != nil {
		return backoff.Permanent(err)
	}
	r.Header = c.headers.Clone()
	answer, err := c.http.Do(r)
	if failed := (*url.Error)(nil); errors.As(err, &failed) && failed.Temporary() {
		return err
	}
	if err != nil {
		return backoff.Permanent(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxOTLPAnswer))
	if err != nil {
		return backoff.Permanent(err)
	}
	if answer.StatusCode/100 == 2 {
		kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
		if kind != protobufType {
			return nil
		}
		return backoff.Permanent(partialSuccess(text))
	}
	err = fmt.Errorf("%s answers %s: %q", c.endpoint, answer.Status, text[:min(len(text), 500)])
	switch answer.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if wait := retryAfter(answer.Header); wait > 0 {
			return fmt.Errorf("%w: %w", err, &backoff.RetryAfterError{Duration: wait})
		}
		return err
	}
	return backoff.Permanent(err)
}

// retryAfter parses Retry-After, RFC 9110 §10.2.3. It returns 0 without one.
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(min(seconds, 3600)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return time.Until(at)
	}
	return 0
}

// partialSuccess reports the spans that the collector refused.
func partialSuccess(answer []byte) error {
	var response slimpb.ExportTraceServiceResponse
	if err := proto.Unmarshal(answer, &response); err != nil {
		return fmt.Errorf("cannot read the collector's answer: %w", err)
	}
	part := response.GetPartialSuccess()
	if part.GetRejectedSpans() != 0 || part.GetErrorMessage() != "" {
		return fmt.Errorf("the collector refused %d spans: %q", part.GetRejectedSpans(), part.GetErrorMessage())
	}
	return nil
}

// otlpEnv reads the variables of the OpenTelemetry specification for exporters.
type otlpEnv struct {
	getenv func(string) string
	log    *slog.Logger
}

// each applies the variables for all signals, then those for traces, which win. It skips a set of which one is empty.
func (e otlpEnv) each(apply func(values []string) error, names ...string) {
next:
	for _, prefix := range []string{"OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_"} {
		var values []string
		for _, name := range names {
			value := strings.TrimSpace(e.getenv(prefix + name))
			if value == "" {
				continue next
			}
			values = append(values, value)
		}
		if err := apply(values); err != nil {
			e.log.Warn("cannot read a variable for traces", "variable", prefix+names[0], "error", err.Error())
		}
	}
}

// url parses a variable. ok is false without a host.
func (e otlpEnv) url(name string) (u *url.URL, ok bool) {
	u, err := url.Parse(strings.TrimSpace(e.getenv(name)))
	return u, err == nil && u.Host != ""
}

// endpoint returns the URL for traces. wantsTracing has checked the variables.
func (e otlpEnv) endpoint() url.URL {
	endpoint := url.URL{Scheme: "https", Host: "localhost:4318", Path: "/v1/traces"}
	if u, ok := e.url("OTEL_EXPORTER_OTLP_ENDPOINT"); ok {
		endpoint = url.URL{Scheme: u.Scheme, Host: u.Host, Path: path.Join("/", u.Path, "v1/traces")}
	}
	if u, ok := e.url("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"); ok {
		endpoint = url.URL{Scheme: u.Scheme, Host: u.Host, Path: cmp.Or(u.Path, "/")}
	}
	e.each(func(values []string) error {
		endpoint.Scheme = "https"
		if strings.EqualFold(values[0], "true") {
			endpoint.Scheme = "http"
		}
		return nil
	}, "INSECURE")
	return endpoint
}

// tls returns nil if no variable names a certificate.
func (e otlpEnv) tls() *tls.Config {
	config := &tls.Config{}
	e.each(func(values []string) error {
		text, err := os.ReadFile(values[0])
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return errors.New("no certificate in PEM")
		}
		config.RootCAs = pool
		return nil
	}, "CERTIFICATE")
	e.each(func(values []string) error {
		certificate, err := tls.LoadX509KeyPair(values[0], values[1])
		if err == nil {
			config.Certificates = []tls.Certificate{certificate}
		}
		return err
	}, "CLIENT_CERTIFICATE", "CLIENT_KEY")
	if config.RootCAs == nil && config.Certificates == nil {
		return nil
	}
	return config
}

// headerName is a token, RFC 9110 §5.6.2.
var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// headers returns the headers of every request. HEADERS has the form of W3C Baggage: name=value, separated by commas,
// with percent-encoded values. They may be secrets: no error quotes them.
func (e otlpEnv) headers() http.Header {
	headers := http.Header{}
	e.each(func(values []string) error {
		headers = http.Header{}
		var bad error
		for pair := range strings.SplitSeq(values[0], ",") {
			name, value, ok := strings.Cut(pair, "=")
			name = strings.TrimSpace(name)
			value, err := url.PathUnescape(value)
			value = strings.TrimSpace(value)
			if !ok ||
				err != nil ||
				!headerName.MatchString(name) ||
				strings.ContainsFunc(value, unicode.IsControl) {
				bad = errors.New("a part is not name=value, percent-encoded")
				continue
			}
			headers.Set(name, value)
		}
		return bad
	}, "HEADERS")
	if headers.Get("User-Agent") == "" {
		headers.Set("User-Agent", "OTel OTLP Exporter Go/"+otlptrace.Version())
	}
	headers.Set("Content-Type", protobufType)
	return headers
}
