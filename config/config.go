package config

import "time"

// Config is the configuration of keyturn. Each field is one setting. Its tag has the key (flag --a-b, environment
// KEYTURN_A_B, file a_b) and the default. Its comment is the manual, which `keyturn help` and docs/configuration.md
// print. A setting with a scope is a flag of serve and of the commands of that scope. A setting with reload may change
// while a server runs.
type Config struct {
	// URL of this server, as clients and verifiers use it; https, or http for a loopback host
	Issuer string `key:"issuer" scope:"issuer"`
	// address of the public listener
	Listen string `key:"listen" default:"127.0.0.1:8080"`
	// address of the admin listener (metrics, health, console, admin API)
	AdminListen string `key:"admin_listen" default:"127.0.0.1:8081"`
	// URLs of the console and the admin API, as browsers use them; the first is that of one-time links (default:
	// http://localhost and the port of admin_listen, or https with admin_tls_cert_file)
	AdminURLs List `key:"admin_urls" scope:"console"`
	// PEM certificate chain of the admin listener; without it, console and admin API answer only on a loopback address
	AdminTLSCertFile string `key:"admin_tls_cert_file" reload:"true"`
	// PEM private key of the admin listener
	AdminTLSKeyFile string `key:"admin_tls_key_file" reload:"true"`
	// PEM certificates of the authorities whose client certificates may use the admin API; needs admin_tls_cert_file
	AdminClientCAFile string `key:"admin_client_ca_file"`
	// Unix socket of the admin API, for scripts on this host; only this user and root may use it
	AdminSocket string `key:"admin_socket"`
	// how long a stopping server still accepts requests while load balancers drain it, at most 5s
	StopDelay time.Duration `key:"stop_delay" default:"2s"`
	// a proxy in front terminates TLS: allow a plaintext listener that is not loopback
	BehindProxy bool `key:"behind_proxy" default:"false"`
	// serve the metadata at /.well-known/openid-configuration too, for software that looks only there
	OpenIDConfigurationAlias bool `key:"openid_configuration_alias" default:"false"`
	// PEM certificate chain of the public listener
	TLSCertFile string `key:"tls_cert_file" reload:"true"`
	// PEM private key of the public listener
	TLSKeyFile string `key:"tls_key_file" reload:"true"`
	// CIDRs of proxies whose X-Forwarded-For is trusted, at most /8 of IPv4 or /7 of IPv6 each
	TrustedProxies List `key:"trusted_proxies"`
	// browser origins that may call /token and /revoke, without wildcards
	CORSOrigins List `key:"cors_origins" reload:"true"`

	// sqlite:FILE or postgres://USER:PASSWORD@HOST/NAME?sslmode=verify-full
	Database string `key:"database" default:"sqlite:keyturn.db" scope:"database"`
	// allow PostgreSQL on another host without sslmode=verify-full
	AllowInsecureDatabase bool `key:"allow_insecure_database" default:"false" scope:"database"`
	// file with the master key, mode 0600 (default: keyturn-master.key beside the SQLite file)
	MasterKeyFile string `key:"master_key_file" scope:"database"`
	// file where this host records the progress of its database (default: beside the master key)
	AnchorFile string `key:"anchor_file" scope:"database"`
	// update an older database schema
	Migrate bool `key:"migrate" default:"true" scope:"database"`

	// what a server does when a signing key has signed a token that no server made: alarm, or revoke (alarm, and revoke
	// the key at once)
	OnForgery string `key:"on_forgery" default:"alarm" reload:"true"`

	// on: access tokens name a Token Status List, by which resource servers learn within about 17 s that a login has
	// ended; off: they do not
	StatusList string `key:"status_list" default:"off" reload:"true"`

	// lifetime of access tokens, at most 1h
	AccessTTL time.Duration `key:"access_ttl" default:"10m" scope:"keys" reload:"true"`
	// an unused refresh token expires after this time
	RefreshIdleTTL time.Duration `key:"refresh_idle_ttl" default:"14d" reload:"true"`
	// a login ends after this time, even if it is refreshed
	RefreshMaxTTL time.Duration `key:"refresh_max_ttl" default:"90d" reload:"true"`
	// how long a client may repeat a refresh and get the same answer; 0 for never
	RefreshRetryWindow time.Duration `key:"refresh_retry_window" default:"10s" reload:"true"`
	// after the retry window, a login may repeat one refresh in this period; 0 for never;
	// default 0 if refresh_retry_window is 0
	RefreshLateRetry time.Duration `key:"refresh_late_retry" default:"24h" reload:"true"`

	// how long a signing key signs tokens
	KeyRotationInterval time.Duration `key:"key_rotation_interval" default:"90d" scope:"keys" reload:"true"`
	// how long a signing key is published before it signs tokens
	KeyPublishLead time.Duration `key:"key_publish_lead" default:"24h" scope:"keys" reload:"true"`
	// how long verifiers may cache the JWKS
	JWKSMaxAge time.Duration `key:"jwks_max_age" default:"5m" scope:"keys" reload:"true"`
	// size of new RSA keys: 2048, 3072 or 4096
	KeyBits int `key:"key_bits" default:"2048" scope:"keys" reload:"true"`
	// what makes keys and signs: go, openssl (libcrypto of the system; needs the build with OpenSSL), or auto (openssl
	// where this build has it and it works)
	Signer string `key:"signer" default:"auto" scope:"keys"`
	// which fetches of the JWKS are counted, for keyturn keys readiness: all, named (those of registered verifiers)
	// or off
	JWKSObserve string `key:"jwks_observe" default:"all" scope:"keys" reload:"true"`
	// whom a scheduled rotation waits for: nothing, or named (registered verifiers without the next key)
	KeyRotationWaitsFor string `key:"key_rotation_waits_for" default:"nothing" scope:"keys" reload:"true"`
	// how long a scheduled rotation waits, at most 30d; then it is made all the same
	KeyRotationPatience time.Duration `key:"key_rotation_patience" default:"7d" scope:"keys" reload:"true"`

	// offer the password grant
	PasswordGrant bool `key:"password_grant" default:"true" reload:"true"`
	// minimum number of characters of a new password
	PasswordMinLength int `key:"password_min_length" default:"15" scope:"user"`
	// memory of one argon2id hash
	PasswordHashMemory Size `key:"password_hash_memory" default:"19MiB" scope:"user"`
	// password hashes that run at once (default: number of CPUs)
	PasswordHashSlots int `key:"password_hash_slots" default:"0"`
	// how long a login may wait for its password hash; a login that would wait longer gets 503 at once
	PasswordHashWait time.Duration `key:"password_hash_wait" default:"5s" reload:"true"`
	// failed logins of an account before it is throttled
	LoginFailures int `key:"login_failures" default:"10" reload:"true"`
	// how long a throttled account waits for the next attempt
	LoginWindow time.Duration `key:"login_window" default:"15m" reload:"true"`

	// text or json (default: text on a terminal, else json)
	LogFormat string `key:"log_format" scope:"database"`
	// debug, info, warn or error
	LogLevel string `key:"log_level" default:"info" scope:"database" reload:"true"`
}

// Values of Signer.
const (
	SignerAuto    = "auto"
	SignerGo      = "go"
	SignerOpenSSL = "openssl"
)

// Values of OnForgery.
const (
	OnForgeryAlarm  = "alarm"
	OnForgeryRevoke = "revoke"
)

// Values of StatusList.
const (
	StatusListOn  = "on"
	StatusListOff = "off"
)

// Values of JWKSObserve.
const (
	ObserveAll   = "all"
	ObserveNamed = "named"
	ObserveOff   = "off"
)

// Values of KeyRotationWaitsFor.
const (
	WaitsForNothing = "nothing"
	WaitsForNamed   = "named"
)

// HashSlots is the number of passwords that a process with this number of CPUs hashes at once.
func (c Config) HashSlots(cpus int) int {
	if c.PasswordHashSlots == 0 {
		return cpus
	}
	return c.PasswordHashSlots
}

// Keys returns the settings of the life cycle of signing keys. keys.Config has the same fields and converts from it.
func (c Config) Keys() Keys {
	return Keys{
		RotationInterval: c.KeyRotationInterval,
		PublishLead:      c.KeyPublishLead,
		JWKSMaxAge:       c.JWKSMaxAge,
		Bits:             c.KeyBits,
		GrantTTL:         c.RefreshMaxTTL,
		TokenTTL:         MaxAccessTTL,
		WaitsFor:         c.KeyRotationWaitsFor,
		Patience:         c.KeyRotationPatience,
		Signer:           c.Signer,
	}
}

// Keys are the settings of the life cycle of signing keys.
type Keys struct {
	RotationInterval time.Duration
	PublishLead      time.Duration
	JWKSMaxAge       time.Duration
	Bits             int
	GrantTTL         time.Duration
	TokenTTL         time.Duration
	WaitsFor         string
	Patience         time.Duration
	Signer           string
}
