package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of the lifetimes.
const (
	MinAccessTTL = time.Second
	MaxAccessTTL = time.Hour // RFC 6750 §5.3
	MaxStopDelay = 5 * time.Second
	MaxHashWait  = 20 * time.Second // a login must be answered within 30 s
	// MaxLoginFailures is the maximum number of consecutive wrong passwords of an account (NIST SP 800-63B allows 100).
	MaxLoginFailures = 100

	maxRefreshTTL  = 10 * 365 * 24 * time.Hour
	maxRetryWindow = 5 * time.Minute
	minLateRetry   = time.Minute
	maxLateRetry   = 30 * 24 * time.Hour
	maxPatience    = 30 * 24 * time.Hour
)

// Error reports an invalid configuration, with all its problems.
type Error struct{ Problems []error }

// Error implements error: one problem on each line.
func (e *Error) Error() string { return errors.Join(e.Problems...).Error() }

// Unwrap returns the problems.
func (e *Error) Unwrap() []error { return e.Problems }

// Problems lists every problem of the configuration by itself, each with its fix. With forServe it also checks the
// settings that only serve needs. The packages of database, keys and files check the rest.
func (c Config) Problems(forServe bool) []error {
	problems := c.textProblems()
	add := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	for _, b := range c.bounds() {
		if b.broken {
			add(fmt.Errorf("%s: %v is %s", b.key, b.value, b.rule))
		}
	}
	if c.LogFormat != "" &&
		c.LogFormat != "text" &&
		c.LogFormat != "json" {
		add(fmt.Errorf("log_format: %q is neither text nor json", c.LogFormat))
	}
	if c.Signer != SignerAuto && c.Signer != SignerGo && c.Signer != SignerOpenSSL {
		add(fmt.Errorf("signer: %q is none of auto, go, openssl", c.Signer))
	}
	if c.OnForgery != OnForgeryAlarm && c.OnForgery != OnForgeryRevoke {
		add(fmt.Errorf("on_forgery: %q is neither alarm nor revoke", c.OnForgery))
	}
	if c.StatusList != StatusListOn && c.StatusList != StatusListOff {
		add(fmt.Errorf("status_list: %q is neither on nor off", c.StatusList))
	}
	problems = append(problems, c.readinessProblems()...)
	_, err := c.Level()
	add(err)
	if forServe {
		problems = append(problems, c.listenerProblems()...)
	}
	return problems
}

// bound is a rule for the value of a setting.
type bound struct {
	broken bool
	key    string
	value  any
	rule   string
}

// outside reports whether a value is outside of a range.
func outside[T cmp.Ordered](value, least, most T) bool { return value < least || value > most }

func (c Config) bounds() []bound {
	span := func(d time.Duration, broken bool, key, rule string) bound {
		return bound{broken, key, FormatDuration(d), rule}
	}
	access, idle, longest := c.AccessTTL, c.RefreshIdleTTL, c.RefreshMaxTTL
	retry, late, wait, window := c.RefreshRetryWindow, c.RefreshLateRetry, c.PasswordHashWait, c.LoginWindow
	number := func(n int, least, most int, key, rule string) bound {
		return bound{outside(n, least, most), key, n, rule}
	}
	const hashes = "not between 1 and 1024 (0: number of CPUs)"
	memory := c.PasswordHashMemory
	return []bound{
		span(access, outside(access, MinAccessTTL, MaxAccessTTL), "access_ttl", "not between 1s and 1h"),
		span(longest, outside(longest, access, maxRefreshTTL), "refresh_max_ttl", "not between access_ttl and 10 "+
			"years"),
		span(idle, idle < time.Second, "refresh_idle_ttl", "less than 1s"),
		span(retry, outside(retry, 0, maxRetryWindow), "refresh_retry_window", "not between 0 and 5m"),
		span(late, late != 0 && outside(late, minLateRetry, maxLateRetry), "refresh_late_retry",
			"neither 0 nor between 1m and 30d"),
		span(wait, outside(wait, time.Second, MaxHashWait), "password_hash_wait", "not between 1s and 20s"),
		number(c.PasswordMinLength, 8, 256, "password_min_length", "not between 8 and 256"),
		{outside(memory, 7<<20, 1<<30), "password_hash_memory", memory, "not between 7MiB and 1GiB"},
		number(c.PasswordHashSlots, 0, 1024, "password_hash_slots", hashes),
		number(c.LoginFailures, 1, MaxLoginFailures, "login_failures", "not between 1 and 100"),
		span(window, outside(window, time.Second, 24*time.Hour), "login_window", "not between 1s and 24h"),
	}
}

// textProblems lists the settings that are not UTF-8 or contain NUL.
func (c Config) textProblems() []error {
	var problems []error
	fields := reflect.ValueOf(c)
	for _, s := range Settings {
		text := ""
		switch v := fields.Field(s.index).Interface().(type) {
		case string:
			text = v
		case List:
			text = strings.Join(v, ",")
		}
		if !utf8.ValidString(text) || strings.Contains(text, "\x00") {
			problems = append(problems, fmt.Errorf("%s: it is not UTF-8, or contains NUL", s.Key))
		}
	}
	return problems
}

// readinessProblems lists the problems of the settings for the readiness of verifiers.
func (c Config) readinessProblems() []error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	observes := []string{ObserveAll, ObserveNamed, ObserveOff}
	if !slices.Contains(observes, c.JWKSObserve) {
		add("jwks_observe: %q is none of %s", c.JWKSObserve, strings.Join(observes, ", "))
	}
	if c.KeyRotationWaitsFor != WaitsForNothing && c.KeyRotationWaitsFor != WaitsForNamed {
		add("key_rotation_waits_for: %q is neither nothing nor named", c.KeyRotationWaitsFor)
	}
	if c.KeyRotationWaitsFor == WaitsForNamed && c.JWKSObserve == ObserveOff {
		add("key_rotation_waits_for: named needs jwks_observe: named or all: without it no verifier is ever ready")
	}
	if c.KeyRotationPatience < 0 || c.KeyRotationPatience > maxPatience {
		add("key_rotation_patience: %s is not between 0 and %s", FormatDuration(c.KeyRotationPatience),
			FormatDuration(maxPatience))
	}
	return problems
}

// listenerProblems lists the problems of issuer, listeners, proxies and origins.
func (c Config) listenerProblems() []error {
	var problems []error
	add := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	add(CheckIssuer(c.Issuer))
	add(checkListener("listen", c.Listen, c.BehindProxy || c.TLSCertFile != ""))
	add(checkListener("admin_listen", c.AdminListen, true))
	if c.StopDelay < 0 || c.StopDelay > MaxStopDelay {
		add(fmt.Errorf("stop_delay: %s is not between 0 and %s",
			FormatDuration(c.StopDelay), FormatDuration(MaxStopDelay)))
	}
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		add(errors.New("tls_cert_file, tls_key_file: set both or none"))
	}
	problems = append(problems, c.adminProblems()...)
	_, err := c.Proxies()
	add(err)
	for _, origin := range c.CORSOrigins {
		add(checkOrigin(origin))
	}
	return problems
}

// adminProblems lists the problems of the console and the admin API.
func (c Config) adminProblems() (problems []error) {
	if (c.AdminTLSCertFile == "") != (c.AdminTLSKeyFile == "") {
		problems = append(problems, errors.New("admin_tls_cert_file, admin_tls_key_file: set both or none"))
	}
	if c.AdminClientCAFile != "" && c.AdminTLSCertFile == "" {
		problems = append(problems, errors.New("admin_client_ca_file: client certificates need TLS: set "+
			"admin_tls_cert_file and admin_tls_key_file"))
	}
	scheme := "http"
	if c.AdminTLSCertFile != "" {
		scheme = "https"
	}
	for _, text := range c.AdminURLs {
		u, err := url.Parse(text)
		switch {
		case err != nil || u.Host == "" || u.String() != (&url.URL{Scheme: u.Scheme, Host: u.Host}).String():
			problems = append(problems, fmt.Errorf("admin_urls: %q is not scheme and host, for instance "+
				"https://keyturn-admin.example.com", text))
		case u.Scheme != "https" && (u.Scheme != scheme || !isLoopback(u.Hostname())):
			problems = append(problems, fmt.Errorf("admin_urls: %q must be https (http only for a loopback host, "+
				"without admin_tls_cert_file)", text))
		}
	}
	if len(c.AdminSocket) > maxSocketPath {
		problems = append(problems, fmt.Errorf("admin_socket: the path is longer than %d bytes", maxSocketPath))
	}
	return problems
}

// maxSocketPath is the length of the longest path of a Unix socket on Linux.
const maxSocketPath = 107

// Level is the log level.
func (c Config) Level() (slog.Level, error) {
	var level slog.Level
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
		return level, level.UnmarshalText([]byte(c.LogLevel))
	}
	return level, fmt.Errorf("log_level: %q is none of debug, info, warn, error", c.LogLevel)
}

// Warning is a part of the configuration that works, but should be changed.
type Warning struct {
	Found  string `json:"found"`
	Advice string `json:"advice"`
}

// String formats a warning as one line for logs.
func (w Warning) String() string { return w.Found + ": " + w.Advice }

// Warnings lists the parts of the configuration that serve accepts, but that should be changed.
func (c Config) Warnings() []Warning {
	var warnings []Warning
	if c.BehindProxy && len(c.TrustedProxies) == 0 {
		warnings = append(warnings, Warning{
			"behind_proxy is on, and no proxy is trusted",
			"log and throttle see only the address of the proxy: list the proxy in trusted_proxies",
		})
	}
	host, _, err := net.SplitHostPort(c.AdminListen)
	if err == nil && c.AdminTLSCertFile == "" && !isLoopback(host) {
		warnings = append(warnings, Warning{
			"admin_listen is not a loopback address and has no TLS",
			"it serves only metrics and health to other hosts: console and admin API answer them with " +
				"admin_tls_cert_file, and else only on a loopback address or the admin_socket",
		})
	}
	return warnings
}

// CheckIssuer requires an https URL without query and fragment (RFC 8414 §2), or http for a loopback host.
func CheckIssuer(issuer string) error {
	if issuer == "" {
		return errors.New(
			"issuer: is required: the URL of this server, as clients and verifiers use it, for instance " +
				"https://auth.example.com",
		)
	}
	u, err := url.Parse(issuer)
	if err != nil ||
		u.Host == "" ||
		u.User != nil ||
		u.RawQuery != "" ||
		u.ForceQuery ||
		u.Fragment != "" ||
		strings.HasSuffix(issuer, "#") {
		return fmt.Errorf("issuer: %q is not a URL without user, query and fragment", issuer)
	}
	if strings.HasSuffix(issuer, "/") ||
		u.EscapedPath() != u.JoinPath().EscapedPath() && u.Path != "" {
		return fmt.Errorf("issuer: %q must not end in / or contain empty or dotted path segments", issuer)
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		return fmt.Errorf("issuer: %q must be https (http only for a loopback host)", issuer)
	}
	return nil
}

func checkListener(name, address string, anywhere bool) error {
	host, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%s: %q is not HOST:PORT", name, address)
	}
	if !anywhere && !isLoopback(host) {
		return fmt.Errorf(
			"%s: %q is not a loopback address: set tls_cert_file and tls_key_file, or behind_proxy if a proxy "+
				"terminates TLS",
			name,
			address,
		)
	}
	return nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
