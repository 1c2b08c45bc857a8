package server

import (
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

var metricName = regexp.MustCompile(`\bkeyturn_[a-z_]+`)

// Alerts and dashboard ask for metrics that there are, each alert has its part of the page for operators, and no series
// is one that a stranger makes.
func TestAlertsAskForWhatThereIs(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		h.Login("app")
		for _, path := range []string{"/token/../x", "/nobody", "/%00"} {
			h.RawExchange(
				"FROB" + strings.Repeat(
					"X",
					5,
				) + " " + path + " HTTP/1.1\r\nHost: x\r\nX-Request-Id: stranger\r\nConnection: close\r\n\r\n",
			)
		}
		h.Post("/token", "app", "grant_type", "of-a-stranger")
		h.LoginFrom("192.0.2.1", "a-stranger", "wrong")
		text := h.metricsText()
		for _, made := range []string{"stranger", "FROB", "nobody"} {
			if strings.Contains(text, made) {
				t.Errorf("%q has got into the metrics", made)
			}
		}
		for _, file := range []string{"../deploy/prometheus/alerts.yaml", "../deploy/grafana/keyturn.json"} {
			for _, name := range metricName.FindAllString(string(Must(os.ReadFile(file))), -1) {
				family := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count"), "_sum")
				if !strings.Contains(text, "# TYPE "+family+" ") && name != "keyturn_test" {
					t.Errorf("%s: there is no %s", file, name)
				}
			}
		}
		page := strings.ToLower(string(Must(os.ReadFile("../docs/operate.md"))))
		alerts := regexp.MustCompile(`(?m)- alert: (\w+)$`).
			FindAllStringSubmatch(string(Must(os.ReadFile("../deploy/prometheus/alerts.yaml"))), -1)
		for _, alert := range alerts {
			if !strings.Contains(page, "\n### "+strings.ToLower(alert[1])+"\n") {
				t.Errorf("docs/operate.md does not say what to do at %s", alert[1])
			}
		}
		if len(alerts) < 12 {
			t.Errorf("%d alerts", len(alerts))
		}
	})
}

// A server that is not ready, and keys that turn, show in the metrics.
func TestMetricsOfKeysAndReadiness(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, h *Harness) {
		text := h.metricsText()
		for _, want := range []string{"keyturn_ready 1\n", `state="current"} 0` + "\n", `state="next"} 0` + "\n",
			"keyturn_audit_records_total ", "keyturn_refreshes_total{kind=\"reuse\"} 0\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q", want)
			}
		}
		h.Step(time.Hour)
		if text := h.metricsText(); !strings.Contains(text, `state="current"} 3600`+"\n") {
			t.Error("the key does not grow old")
		}
		h.Server.stopping.Store(true)
		if text := h.metricsText(); !strings.Contains(text, "keyturn_ready 0\n") {
			t.Error("it is ready")
		}
		h.Server.stopping.Store(false)
	})
}

// The log names the trace of a request. A tracer continues it. A header that is not a traceparent is ignored.
func TestTraces(t *testing.T) {
	t.Parallel()
	const id = "4bf92f3577b34da6a3ce929d0e0e4736"
	Each(t, func(t *testing.T, h *Harness) {
		send := func(traceparent string) {
			r := Must(
				http.NewRequest(
					http.MethodPost,
					h.Base+"/token",
					strings.NewReader(
						"grant_type=password&username=alice&password="+strings.ReplaceAll(password, " ", "+"),
					),
				),
			)
			r.Header.Set("Content-Type", formMediaType)
			r.Header.Set("Authorization", Basic("app", secret))
			r.Header.Set("Traceparent", traceparent)
			h.Send(r).Tokens(t)
		}
		send("00-" + id + "-00f067aa0ba902b7-01")
		if !strings.Contains(h.Log.String(), `"trace_id":"`+id+`"`) {
			t.Error("the log does not name the trace")
		}
		spans := tracetest.NewSpanRecorder()
		h.Server.tracer = trace.NewTracerProvider(trace.WithSpanProcessor(spans)).Tracer("test")
		send("00-" + id + "-00f067aa0ba902b7-01")
		var names []string
		for _, span := range spans.Ended() {
			if span.SpanContext().TraceID().String() != id {
				t.Errorf("%s is in another trace", span.Name())
			}
			for _, a := range span.Attributes() {
				if strings.Contains(a.Value.String(), password) || strings.Contains(a.Value.String(), secret) {
					t.Errorf("%s holds a secret", span.Name())
				}
			}
			names = append(names, span.Name())
		}
		if want := []string{"read client", "read user", "hash password", "POST /token"}; !slices.Equal(names, want) {
			t.Errorf("%v", names)
		}
	})
	for text, want := range map[string]string{
		"00-" + id + "-00f067aa0ba902b7-01": id, "01-" + id + "-00f067aa0ba902b7-01-more": id,
		"":                                  "",
		"x":                                 "",
		"ff-" + id + "-00f067aa0ba902b7-01": "",
		"00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-01": "",
		"00-" + id + "-0000000000000000-01":                      "",
		"00-" + strings.ToUpper(id) + "-00f067aa0ba902b7-01":     "",
		"00-" + id + "-00f067aa0ba902b7-01-more":                 "",
		"00-" + id[1:] + "\"-00f067aa0ba902b7-01":                "",
	} {
		if got := traceID(text); got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
}
