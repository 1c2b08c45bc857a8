package server

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/passwords"
	"github.com/keyturn/keyturn/storage"
)

// Config is the configuration of keyturn. Each field is one setting: its name in the key tag (flag --a-b, environment
// KEYTURN_A_B, file a_b) and its default. Manual says what it is for. A field that is marked as a scope belongs to
// those commands as well as to serve.
type Config struct {
	Issuer       string   `key:"issuer" scope:"issuer"`
	Listen       string   `key:"listen" default:"127.0.0.1:8080"`
	AdminListen  string   `key:"admin_listen" default:"127.0.0.1:8081"`
	StopDelay    Duration `key:"stop_delay" default:"2s"`
	BehindProxy  bool     `key:"behind_proxy" default:"false"`
	TLSCertFile  string   `key:"tls_cert_file" reload:"true"`
	TLSKeyFile   string   `key:"tls_key_file" reload:"true"`
	TrustedProxy List     `key:"trusted_proxies"`
	CORSOrigins  List     `key:"cors_origins" reload:"true"`

	Database              string `key:"database" default:"sqlite:keyturn.db" scope:"database"`
	AllowInsecureDatabase bool   `key:"allow_insecure_database" default:"false" scope:"database"`
	MasterKeyFile         string `key:"master_key_file" scope:"database"`
	AnchorFile            string `key:"anchor_file" scope:"database"`
	Migrate               bool   `key:"migrate" default:"true" scope:"database"`

	AccessTTL          Duration `key:"access_ttl" default:"10m" scope:"keys" reload:"true"`
	RefreshIdleTTL     Duration `key:"refresh_idle_ttl" default:"14d" reload:"true"`
	RefreshMaxTTL      Duration `key:"refresh_max_ttl" default:"90d" reload:"true"`
	RefreshRetryWindow Duration `key:"refresh_retry_window" default:"10s" reload:"true"`

	RefreshLateRetry Duration `key:"refresh_late_retry" default:"24h" reload:"true"`

	KeyRotationInterval Duration `key:"key_rotation_interval" default:"90d" scope:"keys" reload:"true"`
	KeyPublishLead      Duration `key:"key_publish_lead" default:"24h" scope:"keys" reload:"true"`
	JWKSMaxAge          Duration `key:"jwks_max_age" default:"5m" scope:"keys" reload:"true"`
	KeyBits             int      `key:"key_bits" default:"2048" scope:"keys" reload:"true"`

	PasswordGrant      bool     `key:"password_grant" default:"true" reload:"true"`
	PasswordMinLength  int      `key:"password_min_length" default:"15" scope:"user"`
	PasswordHashMemory Size     `key:"password_hash_memory" default:"19MiB" scope:"user"`
	PasswordHashSlots  int      `key:"password_hash_slots" default:"0"`
	PasswordHashWait   Duration `key:"password_hash_wait" default:"5s" reload:"true"`
	LoginFailures      int      `key:"login_failures" default:"10" reload:"true"`
	LoginWindow        Duration `key:"login_window" default:"15m" reload:"true"`

	LogFormat string `key:"log_format" scope:"database"`
	LogLevel  string `key:"log_level" default:"info" scope:"database" reload:"true"`
}

// Manual says what each setting is for, by its key.
var Manual = map[string]string{
	"issuer": "URL of this server as its clients and verifiers know it; https, or http for a " +
		"loopback host",
	"listen":       "address of the public listener",
	"admin_listen": "address of the admin listener (metrics, health)",
	"stop_delay": "how long a server that stops still takes requests, so that balancers learn of it, at " +
		"most 5s",
	"behind_proxy":            "a proxy in front ends TLS: allow a plaintext listener that is not loopback",
	"tls_cert_file":           "PEM certificate chain of the public listener",
	"tls_key_file":            "PEM private key of the public listener",
	"trusted_proxies":         "CIDRs of proxies whose X-Forwarded-For counts, none wider than /8 of IPv4 or /7 of IPv6",
	"cors_origins":            "browser origins that may call /token and /revoke, each written out",
	"database":                "sqlite:FILE or postgres://USER:PASSWORD@HOST/NAME?sslmode=verify-full",
	"allow_insecure_database": "allow PostgreSQL on another host without sslmode=verify-full",
	"master_key_file":         "file with the master key, mode 0600 (default: keyturn-master.key beside the SQLite file)",
	"anchor_file": "file in which this host remembers how far its database had come (default: beside the " +
		"master key)",
	"migrate":              "bring an older database schema up to date",
	"access_ttl":           "lifetime of access tokens, at most 1h",
	"refresh_idle_ttl":     "a refresh token that rests this long expires",
	"refresh_max_ttl":      "a login ends after this long, however often it is refreshed",
	"refresh_retry_window": "how long a client may repeat a refresh and get the same answer; 0 for never",
	"refresh_late_retry": "after the retry window, a login may repeat one refresh in this time; 0 for never; " +
		"off if refresh_retry_window is 0, unless set",
	"key_rotation_interval": "how long a signing key signs",
	"key_publish_lead":      "how long a signing key is published before it signs",
	"jwks_max_age":          "how long verifiers may keep the JWKS",
	"key_bits":              "size of new RSA keys: 2048, 3072 or 4096",
	"password_grant":        "offer the password grant at all",
	"password_min_length":   "characters that a new password must have",
	"password_hash_memory":  "memory of one argon2id hash",
	"password_hash_slots":   "password hashes computed at once (default: number of CPUs)",
	"password_hash_wait":    "how long a login may wait for its password hash; beyond it 503 at once",
	"login_failures":        "failed logins of an account before it is throttled",
	"login_window":          "how long a throttled account waits",
	"log_format":            "text or json (default: text on a terminal, else json)",
	"log_level":             "debug, info, warn or error",
}

// Bounds of the lifetimes.
const (
	maxAccessTTL   = time.Hour // RFC 6750 §5.3
	minAccessTTL   = time.Second
	maxRefreshTTL  = 10 * 365 * 24 * time.Hour
	maxRetryWindow = 5 * time.Minute
	minLateRetry   = time.Minute
	maxLateRetry   = 30 * 24 * time.Hour
	maxHashWait    = 20 * time.Second // an answer must leave within responseTimeout
)

// Problems tells everything that is wrong with the configuration, each with its fix. forServe asks for what only serve
// needs, too.
func (c Config) Problems(forServe bool) []error {
	problems := c.textProblems()
	add := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	add(second(storage.ParseSource(c.Database, c.AllowInsecureDatabase)))
	if c.masterKeyPath() == "" {
		add(errors.New("master_key_file: is required with PostgreSQL: `openssl rand -base64 32` makes the content, " +
			"chmod 600 the file"))
	}
	problems = append(problems, c.Keys().Problems()...)
	for _, b := range c.bounds() {
		if b.broken {
			add(fmt.Errorf("%s: %v is %s", b.key, b.value, b.rule))
		}
	}
	if c.LogFormat != "" && c.LogFormat != "text" && c.LogFormat != "json" {
		add(fmt.Errorf("log_format: %q is neither text nor json", c.LogFormat))
	}
	_, err := c.logLevel()
	add(err)
	if forServe {
		problems = append(problems, c.listenerProblems()...)
	}
	return problems
}

// bound is what the value of a setting is not, if it is broken.
type bound struct {
	broken bool
	key    string
	value  any
	rule   string
}

// outside reports whether a value is not between two others.
func outside[T cmp.Ordered](value, least, most T) bool { return value < least || value > most }

func (c Config) bounds() []bound {
	access, idle, most := time.Duration(c.AccessTTL), time.Duration(c.RefreshIdleTTL), time.Duration(c.RefreshMaxTTL)
	retry, late := time.Duration(c.RefreshRetryWindow), time.Duration(c.RefreshLateRetry)
	wait, window := time.Duration(c.PasswordHashWait), time.Duration(c.LoginWindow)
	memory, slots := c.PasswordHashMemory, c.PasswordHashSlots
	const hashes = "not between 1 and 1024 (0: number of CPUs)"
	return []bound{
		{outside(access, minAccessTTL, maxAccessTTL), "access_ttl", c.AccessTTL, "not between 1s and 1h"},
		{outside(most, access, maxRefreshTTL), "refresh_max_ttl", c.RefreshMaxTTL, "not between access_ttl and 10 years"},
		{idle < time.Second, "refresh_idle_ttl", c.RefreshIdleTTL, "less than 1s"},
		{outside(retry, 0, maxRetryWindow), "refresh_retry_window", c.RefreshRetryWindow, "not between 0 and 5m"},
		{
			late != 0 && outside(late, minLateRetry, maxLateRetry),
			"refresh_late_retry", c.RefreshLateRetry, "neither 0 nor between 1m and 30d",
		},
		{outside(wait, time.Second, maxHashWait), "password_hash_wait", c.PasswordHashWait, "not between 1s and 20s"},
		{outside(c.PasswordMinLength, 8, 256), "password_min_length", c.PasswordMinLength, "not between 8 and 256"},
		{outside(memory, 7<<20, passwords.MaxMemory<<10), "password_hash_memory", memory, "not between 7MiB and 1GiB"},
		{outside(slots, 0, 1024), "password_hash_slots", slots, hashes},
		{outside(c.LoginFailures, 1, maxConsecutive), "login_failures", c.LoginFailures, "not between 1 and 100"},
		{outside(window, time.Second, 24*time.Hour), "login_window", c.LoginWindow, "not between 1s and 24h"},
	}
}

// textProblems tells of settings that are no text.
func (c Config) textProblems() []error {
	var problems []error
	fields := reflect.ValueOf(c)
	for i := range fields.NumField() {
		text := ""
		switch v := fields.Field(i).Interface().(type) {
		case string:
			text = v
		case List:
			text = strings.Join(v, ",")
		}
		if !isText(text) {
			key := fields.Type().Field(i).Tag.Get("key")
			problems = append(problems, fmt.Errorf("%s: it is not UTF-8, or holds NUL", key))
		}
	}
	return problems
}

// listenerProblems tells what is wrong with issuer, listeners, proxies and origins.
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
	if c.StopDelay < 0 || c.StopDelay > Duration(maxStopDelay) {
		add(fmt.Errorf("stop_delay: %v is not between 0 and %v", c.StopDelay, Duration(maxStopDelay)))
	}
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		add(errors.New("tls_cert_file, tls_key_file: set both or none"))
	}
	_, err := c.trustedProxies()
	add(err)
	for _, origin := range c.CORSOrigins {
		add(checkOrigin(origin))
	}
	return problems
}

// Warning is something in the configuration that works, and not as it should.
type Warning struct{ Found, Advice string }

func (w Warning) String() string { return w.Found + ": " + w.Advice }

// Warnings tells what serve runs with, and should not.
func (c Config) Warnings() []Warning {
	var warnings []Warning
	if c.BehindProxy && len(c.TrustedProxy) == 0 {
		warnings = append(warnings, Warning{
			"behind_proxy is on, and no proxy is trusted",
			"all clients share the proxy's address in log and throttle: name it in trusted_proxies",
		})
	}
	return warnings
}

// FileProblems tells what is wrong with the files that serve reads besides: nothing of those which this user may not
// read.
func (c Config) FileProblems() []error {
	var problems []error
	for _, err := range append(c.source().FileProblems(), second(c.certificate())) {
		if err != nil && !errors.Is(err, os.ErrPermission) {
			problems = append(problems, err)
		}
	}
	return problems
}

func second[T any](_ T, err error) error { return err }

// source is the database setting, parsed; the zero value if it cannot be used.
func (c Config) source() storage.Source {
	source, _ := storage.ParseSource(c.Database, true) // Problems has the error
	return source
}

// WithoutPassword is a database URL as it may be shown.
func WithoutPassword(databaseURL string) string { return storage.WithoutPassword(databaseURL) }

// HasPassword tells whether a database URL holds one, or may.
func HasPassword(databaseURL string) bool { return storage.HasPassword(databaseURL) }

// DatabaseTarget is where the database setting leads to, without secrets, if that is PostgreSQL.
func DatabaseTarget(c Config) *storage.Target {
	t, ok := c.source().Target()
	if !ok {
		return nil
	}
	return &t
}

// CheckIssuer wants an https URL without query and fragment (RFC 8414 §2), or http for a loopback host.
func CheckIssuer(issuer string) error {
	if issuer == "" {
		return errors.New(
			"issuer: is required: the URL of this server as its clients and verifiers know it, for instance " +
				"https://auth.example.com",
		)
	}
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" ||
		strings.HasSuffix(issuer, "#") {
		return fmt.Errorf("issuer: %q is not a URL without user, query and fragment", issuer)
	}
	if strings.HasSuffix(issuer, "/") || u.EscapedPath() != u.JoinPath().EscapedPath() && u.Path != "" {
		return fmt.Errorf("issuer: %q must not end in / or hold empty or dotted path segments", issuer)
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
			"%s: %q is not a loopback address: set tls_cert_file and tls_key_file, or behind_proxy if a proxy in front ends TLS",
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

// Keys is the schedule of the signing keys.
func (c Config) Keys() keys.Config {
	return keys.Config{
		RotationInterval: time.Duration(c.KeyRotationInterval),
		PublishLead:      time.Duration(c.KeyPublishLead),
		JWKSMaxAge:       time.Duration(c.JWKSMaxAge),
		Bits:             c.KeyBits,
		TokenTTL:         maxAccessTTL,
		GrantTTL:         time.Duration(c.RefreshMaxTTL),
	}
}

func (c Config) hashPolicy() passwords.Policy {
	return passwords.Policy{Memory: uint32(c.PasswordHashMemory >> 10), Time: 2, Lanes: 1}
}

// HashSlots is how many passwords are hashed at once by a process with so many CPUs.
func (c Config) HashSlots(cpus int) int {
	if c.PasswordHashSlots == 0 {
		return cpus
	}
	return c.PasswordHashSlots
}

// Duration is a span of time in settings: as Go writes it, and with d for days.
type Duration time.Duration

// UnmarshalText reads "10m", "1h30m", "14d".
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		*d = Duration(time.Duration(n) * 24 * time.Hour)
		if err == nil {
			return nil
		}
	} else if span, err := time.ParseDuration(s); err == nil {
		*d = Duration(span)
		return nil
	}
	return fmt.Errorf("%q is not a duration such as 10s, 15m, 24h or 90d", s)
}

func (d Duration) String() string {
	if span := time.Duration(d); span != 0 && span%(24*time.Hour) == 0 {
		return strconv.Itoa(int(span/(24*time.Hour))) + "d"
	}
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Size is an amount of memory in bytes.
type Size int64

// UnmarshalText reads "19MiB", "64MB", "1GiB" or a number of bytes.
func (b *Size) UnmarshalText(text []byte) error {
	s, unit := string(text), int64(1)
	for _, u := range []struct {
		name string
		size int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"MB", 1e6}, {"GB", 1e9}, {"kB", 1e3}} {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			s, unit = rest, u.size
			break
		}
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return fmt.Errorf("%q is not a size such as 19MiB", text)
	}
	*b = Size(int64(n) * unit)
	return nil
}

func (b Size) String() string {
	if b%(1<<20) == 0 {
		return strconv.FormatInt(int64(b>>20), 10) + "MiB"
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText writes what UnmarshalText reads.
func (b Size) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// List is a list in settings: a sequence in the file, separated by commas elsewhere.
type List []string
