package server

import (
	"cmp"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keyturn/keyturn/storage"
)

// metrics are what Prometheus reads. No label takes a value that a stranger chooses.
type metrics struct {
	registry      *prometheus.Registry
	requests      *prometheus.HistogramVec
	tokens        *prometheus.CounterVec
	failures      *prometheus.CounterVec
	refreshes     *prometheus.CounterVec
	loginFailures *prometheus.CounterVec
	signed        *prometheus.CounterVec
	jwks          prometheus.Counter
	cleaned       *prometheus.CounterVec
	cleanedAt     prometheus.Gauge
	throttled     *prometheus.CounterVec
	hashed        prometheus.Histogram
	reloads       *prometheus.CounterVec
	reloaded      prometheus.Gauge
	anchored      prometheus.Gauge

	forwardedUnreadable prometheus.Counter
	handler             http.Handler
}

func newMetrics(s *Server) *metrics {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(
			prometheus.HistogramOpts{Name: "keyturn_http_request_duration_seconds", Help: "Duration of requests.",
				Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}},
			[]string{"route", "method", "code"},
		),
		tokens: counters(
			"keyturn_token_requests_total",
			"Requests to /token by grant and outcome.",
			"grant",
			"outcome",
		),
		failures: counters("keyturn_failures_total", "Requests that could not be answered, by cause.", "cause"),
		refreshes: counters(
			"keyturn_refreshes_total",
			"Presentations of refresh tokens by what they turned out to be.",
			"kind",
		),
		loginFailures: counters("keyturn_login_failures_total", "Failed logins by reason.", "reason"),
		signed:        counters("keyturn_tokens_signed_total", "Access tokens signed by key.", "kid"),
		jwks: prometheus.NewCounter(
			prometheus.CounterOpts{Name: "keyturn_jwks_responses_total", Help: "Key sets sent, without 304."},
		),
		cleaned: counters("keyturn_cleaned_rows_total", "Rows that clean-up deleted, by what they were.", "what"),
		cleanedAt: gauge(
			"keyturn_cleanup_last_success_timestamp_seconds",
			"When clean-up last went through here; before that, when the process began.",
		),
		throttled: counters(
			"keyturn_throttled_total",
			"Requests refused because somebody had failed too often, by what was asked for.",
			"what",
		),
		hashed: prometheus.NewHistogram(
			prometheus.HistogramOpts{Name: "keyturn_password_hash_duration_seconds", Help: "Time that one password hash took.",
				Buckets: []float64{.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56}},
		),
		reloads: counters("keyturn_config_reloads_total", "Configurations read again, by outcome.", "outcome"),
		reloaded: gauge(
			"keyturn_config_reload_ok",
			"1 if the configuration that was read last was taken, but for what needs a restart, else 0.",
		),
	}
	m.forwardedUnreadable = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "keyturn_forwarded_unreadable_total",
		Help: "Requests whose X-Forwarded-For, from a trusted proxy, holds what is not an address.",
	})
	m.anchored = gauge("keyturn_anchor_written", "1 if the last heartbeat was noted in the anchor file, else 0.")
	m.begin(s)
	return m
}

// begin gives the metrics their first values and registers them.
func (m *metrics) begin(s *Server) {
	m.reloaded.Set(1)
	m.anchored.Set(1)
	m.cleanedAt.Set(float64(s.now().Unix()))
	m.beginAtZero()
	m.registry.MustRegister(m.requests, m.tokens, m.failures, m.refreshes, m.loginFailures, m.signed, m.jwks, m.cleaned,
		m.cleanedAt, m.throttled, m.hashed, m.reloads, m.reloaded, m.anchored, m.forwardedUnreadable, keyMetrics{s},
		listenerMetrics{s},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), s.buildInfo())
	m.registry.MustRegister(s.gauges()...)
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// beginAtZero makes the series that are known beforehand, so that the first event of each is an increase.
func (m *metrics) beginAtZero() {
	for _, kind := range []storage.RefreshOutcome{
		storage.RefreshFresh, storage.RefreshAhead, storage.RefreshRetry, storage.RefreshLate, storage.RefreshReuse,
		storage.RefreshDead, storage.RefreshTooLarge,
	} {
		m.refreshes.WithLabelValues(string(kind))
	}
	for _, cause := range []string{causeBusy, causeDatabase, causeKeys, causeClock, causeInternal} {
		m.failures.WithLabelValues(cause)
	}
	for _, what := range []string{throttledClient, throttledIntrospection, throttledLogin} {
		m.throttled.WithLabelValues(what)
	}
	for _, reason := range loginFailureReasons {
		m.loginFailures.WithLabelValues(reason)
	}
	for _, outcome := range []string{outcomeOK, outcomeFailed} {
		m.reloads.WithLabelValues(outcome)
	}
	for _, what := range []string{cleanedExpired, cleanedEnded, cleanedFailures} {
		m.cleaned.WithLabelValues(what)
	}
}

// gauges are read when Prometheus asks.
func (s *Server) gauges() []prometheus.Collector {
	gauge := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read)
	}
	return []prometheus.Collector{
		gauge("keyturn_password_hashes_running", "Password hashes being computed.", func() float64 {
			return float64(s.hasher.Load().Running)
		}),
		gauge("keyturn_password_hashes_waiting", "Logins waiting for a hash slot.", func() float64 {
			return float64(s.hasher.Load().Waiting)
		}),
		prometheus.NewCounterFunc(
			prometheus.CounterOpts{
				Name: "keyturn_password_hashes_refused_total",
				Help: "Logins refused because hashing was busy.",
			},
			func() float64 { return float64(s.hasher.Load().Refused) },
		),
		gauge("keyturn_signatures_waiting", "Requests waiting to be admitted to sign.", func() float64 {
			return float64(s.ring.Admitted().Waiting)
		}),
		gauge("keyturn_ready", "1 if this replica can serve, else 0.", func() float64 {
			if s.ready() != nil {
				return 0
			}
			return 1
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "keyturn_log_lines_dropped_total",
			Help: "Log lines dropped because their reader was too slow, or they could not be written.",
		}, func() float64 { return float64(s.dropped()) }),
		prometheus.NewCounterFunc(
			prometheus.CounterOpts{Name: "keyturn_audit_records_total", Help: "Audit records that this process has written."},
			func() float64 { return float64(s.db.Audit().Written()) },
		),
		gauge("keyturn_clock_offset_seconds", "How far the clock here is ahead of that of the database.", func() float64 {
			return s.clock.Off().Seconds()
		}),
		gauge(
			"keyturn_database_connections",
			"Open connections to the database.",
			func() float64 { return float64(s.db.Connections().Open) },
		),
		gauge(
			"keyturn_database_connections_in_use",
			"Connections to the database that are busy.",
			func() float64 { return float64(s.db.Connections().InUse) },
		),
		gauge(
			"keyturn_database_connections_max",
			"Connections to the database that there may be.",
			func() float64 { return float64(s.db.Connections().Max) },
		),
		prometheus.NewCounterFunc(
			prometheus.CounterOpts{Name: "keyturn_database_wait_seconds_total", Help: "Time spent waiting for a connection."},
			func() float64 { return s.db.Connections().Waited.Seconds() },
		),
	}
}

func (s *Server) buildInfo() prometheus.Collector {
	v := Version()
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keyturn_build_info", Help: "Always 1.",
		ConstLabels: prometheus.Labels{"version": v.Version, "commit": v.Commit, "go": v.Go}}, func() float64 { return 1 })
}

// keyMetrics is the signing keys, as they are when Prometheus asks. There are never many: those that are published.
type keyMetrics struct{ s *Server }

var (
	keyAge = prometheus.NewDesc(
		"keyturn_signing_key_age_seconds",
		"Age of the published signing keys.",
		[]string{"kid", "state"},
		nil,
	)
	rotationDue = prometheus.NewDesc(
		"keyturn_key_rotation_due_timestamp_seconds",
		"When the next key begins to sign.",
		nil,
		nil,
	)
)

// Describe implements [prometheus.Collector].
func (k keyMetrics) Describe(to chan<- *prometheus.Desc) { to <- keyAge; to <- rotationDue }

// Collect implements [prometheus.Collector].
func (k keyMetrics) Collect(to chan<- prometheus.Metric) {
	for _, row := range k.s.ring.Rows() {
		if row.State == storage.KeyRetired || row.State == storage.KeyRevoked {
			continue
		}
		to <- prometheus.MustNewConstMetric(keyAge, prometheus.GaugeValue, k.s.now().Sub(row.PublishedAt.Time).Seconds(),
			row.KID, string(row.State))
	}
	if due := k.s.ring.RotatesAt(); !due.IsZero() {
		to <- prometheus.MustNewConstMetric(rotationDue, prometheus.GaugeValue, float64(due.Unix()))
	}
}

// listenerMetrics is what the listeners count, which begin to before there is a server.
type listenerMetrics struct{ s *Server }

var (
	acceptErrors = prometheus.NewDesc("keyturn_accept_errors_total",
		"Connections that could not be accepted, as when descriptors run out.", []string{"listener"}, nil)
	connectionsClosed = prometheus.NewDesc("keyturn_connections_closed_total",
		"Connections closed because there were too many: the one idle longest, or a new one when all were busy.",
		[]string{"listener", "reason"}, nil)
)

// Describe implements [prometheus.Collector].
func (m listenerMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- acceptErrors
	to <- connectionsClosed
}

// Collect implements [prometheus.Collector].
func (m listenerMetrics) Collect(to chan<- prometheus.Metric) {
	all := []*connections{{name: "public"}, {name: "admin"}}
	if f := m.s.listeners.Load(); f != nil {
		all = f.connections
	}
	count := func(d *prometheus.Desc, n int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for _, l := range all {
		count(acceptErrors, l.acceptErrors.Load(), l.name)
		count(connectionsClosed, l.closedIdle.Load(), l.name, "idle")
		count(connectionsClosed, l.closedNew.Load(), l.name, "new")
	}
}

// VersionInfo is what `keyturn version` prints.
type VersionInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Date    string `json:"date"` // of the commit
	Go      string `json:"go"`
}

// What a release says of itself (go build -ldflags "-X …"), where the Go linker does not know it.
var version, commit, date string

// Version reads what the release says, or what the Go linker knows of the build.
func Version() (v VersionInfo) {
	v.Version = "(devel)"
	defer func() {
		v.Version, v.Commit, v.Date = cmp.Or(version, v.Version), cmp.Or(commit, v.Commit), cmp.Or(date, v.Date)
	}()
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Go = info.GoVersion
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			v.Commit = setting.Value
		case "vcs.time":
			v.Date = setting.Value
		}
	}
	return v
}

func (m *metrics) serve(w *response, r *http.Request) { m.handler.ServeHTTP(w, r) }

// Values of the labels what and outcome.
const (
	throttledClient        = "client"
	throttledIntrospection = "introspection"
	throttledLogin         = "login"

	cleanedExpired  = "expired grants"
	cleanedEnded    = "ended grants"
	cleanedFailures = "failures"

	outcomeOK     = "ok"
	outcomeFailed = "failed"
)

// methodOf is the method of a request; other, if HTTP does not know it.
func methodOf(r *http.Request) string {
	switch r.Method {
	case http.MethodGet,
		http.MethodHead,
		http.MethodPost,
		http.MethodPut,
		http.MethodPatch,
		http.MethodDelete,
		http.MethodOptions:
		return r.Method
	}
	return "other"
}

// observe counts one request.
func (m *metrics) observe(route, method string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Observe(took.Seconds())
}
