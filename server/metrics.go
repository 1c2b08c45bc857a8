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

// metrics are for Prometheus. No label has a value that a client chooses freely.
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
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "keyturn_http_request_duration_seconds",
			Help:    "Duration of requests.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"route", "method", "code"}),
		hashed: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "keyturn_password_hash_duration_seconds",
			Help:    "Duration of one password hash.",
			Buckets: []float64{.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56},
		}),
	}
	m.makeCounters()
	m.makeGauges()
	m.begin(s)
	return m
}

func (m *metrics) makeCounters() {
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m.tokens = counters("keyturn_token_requests_total", "Requests to /token, by grant and outcome.", "grant", "outcome")
	m.failures = counters("keyturn_failures_total", "Requests that the server could not answer, by cause.", "cause")
	m.refreshes = counters("keyturn_refreshes_total", "Uses of refresh tokens, by kind.", "kind")
	m.loginFailures = counters("keyturn_login_failures_total", "Failed logins, by reason.", "reason")
	m.signed = counters("keyturn_tokens_signed_total", "Signed access tokens, by key.", "kid")
	m.jwks = counter("keyturn_jwks_responses_total", "JWKS responses, without 304 responses.")
	m.cleaned = counters("keyturn_cleaned_rows_total", "Rows that the clean-up deleted, by kind.", "what")
	m.throttled = counters("keyturn_throttled_total", "Requests refused after too many failures, by kind.", "what")
	m.reloads = counters("keyturn_config_reloads_total", "Reloads of the configuration, by outcome.", "outcome")
	m.forwardedUnreadable = counter(
		"keyturn_forwarded_unreadable_total",
		"Requests from a trusted proxy with a malformed X-Forwarded-For.",
	)
}

func (m *metrics) makeGauges() {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m.cleanedAt = gauge(
		"keyturn_cleanup_last_success_timestamp_seconds",
		"Time of the last successful clean-up; before the first one, time of the start.",
	)
	m.reloaded = gauge(
		"keyturn_config_reload_ok",
		"1 if the last reload of the configuration succeeded, else 0. Settings that need a restart do not count.",
	)
	m.anchored = gauge("keyturn_anchor_written", "1 if the last heartbeat was written to the anchor file, else 0.")
}

// begin sets the initial values and registers the metrics.
func (m *metrics) begin(s *Server) {
	m.reloaded.Set(1)
	m.anchored.Set(1)
	m.cleanedAt.Set(float64(s.now().Unix()))
	m.beginAtZero()
	m.registry.MustRegister(
		m.requests, m.tokens, m.failures, m.refreshes, m.loginFailures, m.signed, m.jwks, m.cleaned, m.cleanedAt,
		m.throttled, m.hashed, m.reloads, m.reloaded, m.anchored, m.forwardedUnreadable,
		keyMetrics{s}, listenerMetrics{s}, s.buildInfo(), s.signerInfo(),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.registry.MustRegister(s.gauges()...)
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// beginAtZero creates the series with known labels. Without it, Prometheus would miss the first event of each.
func (m *metrics) beginAtZero() {
	for _, kind := range []storage.RefreshOutcome{
		storage.RefreshFresh, storage.RefreshKept, storage.RefreshAhead, storage.RefreshRetry, storage.RefreshLate,
		storage.RefreshReuse,
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

// gauges are computed at each scrape.
func (s *Server) gauges() []prometheus.Collector {
	gauge := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read)
	}
	counter := func(name, help string, read func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, read)
	}
	return []prometheus.Collector{
		gauge("keyturn_password_hashes_running", "Password hashes in progress.",
			func() float64 { return float64(s.hasher.Load().Running) }),
		gauge("keyturn_password_hashes_waiting", "Logins that wait for a hash slot.",
			func() float64 { return float64(s.hasher.Load().Waiting) }),
		counter("keyturn_password_hashes_refused_total", "Logins refused because no hash slot was free in time.",
			func() float64 { return float64(s.hasher.Load().Refused) }),
		gauge("keyturn_signatures_waiting", "Requests that wait for a slot to sign.",
			func() float64 { return float64(s.ring.Admitted().Waiting) }),
		gauge("keyturn_ready", "1 if this replica can serve, else 0.", func() float64 {
			if s.ready() != nil {
				return 0
			}
			return 1
		}),
		counter("keyturn_log_lines_dropped_total", "Log lines dropped because a write failed or was too slow.",
			func() float64 { return float64(s.dropped()) }),
		counter("keyturn_audit_records_total", "Audit records that this process has written.",
			func() float64 { return float64(s.db.Audit().Written()) }),
		gauge("keyturn_clock_offset_seconds", "How far the clock here is ahead of the clock of the database.",
			func() float64 { return s.clock.Off().Seconds() }),
		gauge("keyturn_database_connections", "Open connections to the database.",
			func() float64 { return float64(s.db.Connections().Open) }),
		gauge("keyturn_database_connections_in_use", "Connections to the database that are in use.",
			func() float64 { return float64(s.db.Connections().InUse) }),
		gauge("keyturn_database_connections_max", "Limit of connections to the database.",
			func() float64 { return float64(s.db.Connections().Max) }),
		gauge("keyturn_verifiers_ready", "Registered verifiers that have the next key.",
			func() float64 { return float64(s.observed.ready.Load().ready) }),
		gauge("keyturn_verifiers_waiting", "Registered verifiers that will fetch the next key, or were never seen.",
			func() float64 { return float64(s.observed.ready.Load().waiting) }),
		gauge("keyturn_verifiers_stuck", "Registered verifiers that do not fetch the next key by themselves.",
			func() float64 { return float64(s.observed.ready.Load().stuck) }),
		counter("keyturn_database_wait_seconds_total", "Time spent waiting for a connection to the database.",
			func() float64 { return s.db.Connections().Waited.Seconds() }),
	}
}

func (s *Server) buildInfo() prometheus.Collector {
	v := Version()
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "keyturn_build_info",
		Help:        "Always 1. The labels name the build.",
		ConstLabels: prometheus.Labels{"version": v.Version, "commit": v.Commit, "go": v.Go},
	}, func() float64 { return 1 })
}

func (s *Server) signerInfo() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "keyturn_signer_info",
		Help:        "Always 1. The label names what makes keys and signs.",
		ConstLabels: prometheus.Labels{"module": s.ring.Module().String()},
	}, func() float64 { return 1 })
}

// keyMetrics collects the published signing keys at each scrape. There are only a few.
type keyMetrics struct{ s *Server }

var (
	keyAge = prometheus.NewDesc(
		"keyturn_signing_key_age_seconds",
		"Age of the published signing keys.",
		[]string{"kid", "state"},
		nil,
	)
	forgedTokens = prometheus.NewDesc(
		"keyturn_forged_tokens_total",
		"Presented tokens that a signing key has signed although no server made them.",
		[]string{"kid"},
		nil,
	)
	rotationDue = prometheus.NewDesc(
		"keyturn_key_rotation_due_timestamp_seconds",
		"Time at which the next key begins to sign.",
		nil,
		nil,
	)
)

// Describe implements [prometheus.Collector].
func (k keyMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- keyAge
	to <- rotationDue
	to <- forgedTokens
}

// Collect implements [prometheus.Collector].
func (k keyMetrics) Collect(to chan<- prometheus.Metric) {
	for _, row := range k.s.ring.Rows() {
		n := k.s.forgeries.presented(row.KID)
		to <- prometheus.MustNewConstMetric(forgedTokens, prometheus.CounterValue, float64(n), row.KID)
		if row.State == storage.KeyRetired || row.State == storage.KeyRevoked {
			continue
		}
		age := k.s.now().Sub(row.PublishedAt.Time).Seconds()
		to <- prometheus.MustNewConstMetric(keyAge, prometheus.GaugeValue, age, row.KID, string(row.State))
	}
	if due := k.s.ring.RotatesAt(); !due.IsZero() {
		to <- prometheus.MustNewConstMetric(rotationDue, prometheus.GaugeValue, float64(due.Unix()))
	}
}

// listenerMetrics collects the counters of the listeners, which start to count before the server is open.
type listenerMetrics struct{ s *Server }

var (
	acceptErrors = prometheus.NewDesc(
		"keyturn_accept_errors_total",
		"Connections that could not be accepted, for example because no file descriptors were left.",
		[]string{"listener"},
		nil,
	)
	connectionsClosed = prometheus.NewDesc(
		"keyturn_connections_closed_total",
		"Connections closed at the limit: the one idle longest, or a new one if all others were busy.",
		[]string{"listener", "reason"},
		nil,
	)
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

// VersionInfo is the output of `keyturn version`.
type VersionInfo struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Date    string `json:"date"` // of the commit
	Go      string `json:"go"`
	OpenSSL string `json:"openssl,omitempty"` // of the system, if this build can use it; Version does not fill it
}

// A release sets these (go build -ldflags "-X …").
var version, commit, date string

// Version returns the version that a release has set, or else the build information of Go.
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

// serve answers GET /metrics.
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

// methodOf returns the method of a request, or other for a method that HTTP does not define.
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
