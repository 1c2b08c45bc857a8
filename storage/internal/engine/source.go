package engine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lib/pq"
)

// Source is a parsed database setting: which database, where it is and how to connect. It comes from the URL alone: the
// parser of lib/pq would also use the PG* environment variables and files in the home folder. The zero value is no
// database.
type Source struct {
	kind     Kind
	url      string
	file     string      // SQLite
	config   pq.Config   // PostgreSQL
	settings [][2]string // of the session, applied after it opens: PgBouncer refuses them at start-up
}

// ParseSource parses sqlite:FILE or a postgres:// URL, and opens nothing. Unless allowInsecure is set, a PostgreSQL on
// another host needs sslmode=verify-full. Errors never repeat the URL, which may hold a password.
func ParseSource(raw string, allowInsecure bool) (Source, error) {
	switch {
	case strings.HasPrefix(raw, "sqlite:"):
		file := strings.TrimPrefix(raw, "sqlite:")
		if file == "" || strings.ContainsAny(file, "?\x00") {
			return Source{}, errors.New("database: sqlite: takes the path of a file, as in sqlite:keyturn.db")
		}
		return Source{kind: SQLite, url: raw, file: file}, nil
	case strings.HasPrefix(raw, "postgres://"), strings.HasPrefix(raw, "postgresql://"):
		return parsePostgres(raw, allowInsecure)
	}
	return Source{}, errURLKind
}

// Kind returns which database it is.
func (s Source) Kind() Kind { return s.kind }

// File returns the path of the SQLite file, "" for PostgreSQL.
func (s Source) File() string { return s.file }

// String returns the URL without its password.
func (s Source) String() string {
	if s.kind != Postgres {
		return s.url
	}
	scheme, rest, _ := strings.Cut(s.url, "://")
	address, query, hasQuery := strings.Cut(rest, "?")
	if i := strings.LastIndex(address, "@"); i >= 0 {
		if user, _, given := strings.Cut(address[:i], ":"); given {
			address = user + ":xxxxx" + address[i:]
		}
	}
	if !hasQuery {
		return scheme + "://" + address
	}
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		name, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); err != nil || plain == "password" {
			pairs[i] = "password=xxxxx"
		}
	}
	return scheme + "://" + address + "?" + strings.Join(pairs, "&")
}

// GoString returns String, so that %#v shows no password either.
func (s Source) GoString() string { return s.String() }

// HasPassword reports whether the URL holds a password.
func (s Source) HasPassword() bool { return s.String() != s.url }

var errURLKind = errors.New("database: begins with neither sqlite: nor postgres://")

// The errors of a URL are fixed texts: any part of it may be part of a password that was not encoded.
var (
	errURLEncoding = urlError("it does not parse: percent-encode special characters in user and password " +
		"(@ : / ? # % & are %40 %3A %2F %3F %23 %25 %26)")
	errURLHost = urlError("its host or port is not valid: percent-encode special characters in user and password, " +
		"and separate several hosts with commas, as in postgres://USER:PASSWORD@a:5432,b:5432/NAME")
	errURLUser     = urlError("it names no user: write postgres://USER:PASSWORD@HOST/NAME")
	errURLDatabase = urlError("it names no database, or more than one: write postgres://USER:PASSWORD@HOST/NAME")
	errURLUnknown  = urlError("it has a query parameter that keyturn does not know, or one twice: " +
		"docs/operate.md lists those that it knows; percent-encode special characters in user and password")
	errURLHosts = urlError("it names sockets and other hosts, or different numbers of hosts and addresses or ports")
	errURLCert  = urlError("sslcert and sslkey go together")
	errInsecure = errors.New("database: PostgreSQL on another host needs sslmode=verify-full in the URL " +
		"(or --allow-insecure-database, in words, to do without)")
)

func urlError(text string) error {
	return errors.New("database: the postgres:// URL cannot be used: " + text)
}

func urlValueError(name string) error {
	return urlError("the value of " + name + " in it is not valid")
}

// noFile is a path where no file can exist. lib/pq searches the home folder only for files that are not named.
const noFile = "/dev/null/none"

// sessionSettings are the URL parameters that are settings of the session, with the values that keyturn sets by
// default.
var sessionSettings = [][2]string{
	{"statement_timeout", "3000"},
	{"lock_timeout", "1000"},
	{"synchronous_commit", "on"},
	{"idle_in_transaction_session_timeout", ""},
	{"search_path", ""},
	{"role", ""},
	{"work_mem", ""},
	{"tcp_keepalives_idle", ""},
	{"tcp_keepalives_interval", ""},
	{"tcp_keepalives_count", ""},
	{"tcp_user_timeout", ""},
}

// connectionParameters are the URL parameters that control where and how to connect.
var connectionParameters = []string{
	"host", "hostaddr", "port", "dbname", "database", "user", "password", "application_name", "options",
	"connect_timeout",
	"sslmode", "sslrootcert", "sslcert", "sslkey", "sslsni", "sslnegotiation", "ssl_min_protocol_version",
	"ssl_max_protocol_version", "target_session_attrs", "load_balance_hosts", "client_encoding", "binary_parameters",
}

// enumerated lists the values of parameters that have only a few.
var enumerated = map[string][]string{
	"sslmode":                  {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
	"sslnegotiation":           {"postgres", "direct"},
	"ssl_min_protocol_version": {"TLSv1.0", "TLSv1.1", "TLSv1.2", "TLSv1.3"},
	"ssl_max_protocol_version": {"TLSv1.0", "TLSv1.1", "TLSv1.2", "TLSv1.3"},
	"target_session_attrs":     {"any", "read-write", "primary"}, // keyturn writes
	"load_balance_hosts":       {"disable", "random"},
	"client_encoding":          {"UTF8", "utf8", "UTF-8", "utf-8"},
	"binary_parameters":        {"yes", "no"},
	"sslsni":                   {"0", "1"},
}

// parsePostgres parses a postgres:// URL and refuses one that would be unsafe.
func parsePostgres(raw string, allowInsecure bool) (Source, error) {
	given, err := splitURL(raw)
	if err != nil {
		return Source{}, err
	}
	s := Source{kind: Postgres, url: raw, config: pq.Config{
		Database:        firstOf(given["dbname"], given["database"], given["user"]),
		User:            given["user"],
		Password:        given["password"],
		Passfile:        noFile,
		Options:         given["options"],
		ApplicationName: firstOf(given["application_name"], "keyturn"),
		ClientEncoding:  "UTF8",
		Datestyle:       "ISO, MDY",

		BinaryParameters:   given["binary_parameters"] != "no",
		TargetSessionAttrs: pq.TargetSessionAttrs(given["target_session_attrs"]),
		LoadBalanceHosts:   pq.LoadBalanceHosts(given["load_balance_hosts"]),
	}}
	for _, setting := range sessionSettings {
		if value := firstOf(given[setting[0]], setting[1]); value != "" {
			s.settings = append(s.settings, [2]string{setting[0], value})
		}
	}
	if s.config.User == "" {
		return Source{}, errURLUser
	}
	if err := s.setTimeout(given); err != nil {
		return Source{}, err
	}
	if err := s.setHosts(given); err != nil {
		return Source{}, err
	}
	if len(s.config.Multi) > 0 && s.config.TargetSessionAttrs == "" {
		s.config.TargetSessionAttrs = pq.TargetSessionAttrsReadWrite // the others may be standbys
	}
	if err := s.setTLS(given, allowInsecure); err != nil {
		return Source{}, err
	}
	return s, nil
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// splitURL splits a URL into parameters, named as in PostgreSQL.
func splitURL(raw string) (map[string]string, error) {
	_, rest, _ := strings.Cut(raw, "://")
	if strings.ContainsAny(rest, "#\x00") {
		return nil, errURLEncoding
	}
	authority, path, query := rest, "", ""
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority = rest[:i]
		path, query, _ = strings.Cut(rest[i:], "?")
	}
	if strings.Contains(path+query, "@") { // the authority ended inside a password
		return nil, errURLEncoding
	}
	given := map[string]string{}
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		user, password, _ := strings.Cut(authority[:i], ":")
		if !unescaped(given, "user", user) || !unescaped(given, "password", password) {
			return nil, errURLEncoding
		}
		authority = authority[i+1:]
	}
	if err := splitHosts(given, authority); err != nil {
		return nil, err
	}
	if path = strings.TrimPrefix(path, "/"); strings.Contains(path, "/") {
		return nil, errURLDatabase
	}
	if !unescaped(given, "dbname", path) {
		return nil, errURLEncoding
	}
	return given, splitQuery(given, query)
}

// unescaped stores a value unless it is empty. It returns false for invalid percent-encoding.
func unescaped(given map[string]string, name, value string) bool {
	plain, err := url.PathUnescape(value)
	if err != nil || strings.Contains(plain, "\x00") {
		return false
	}
	if plain != "" {
		given[name] = plain
	}
	return true
}

// splitHosts splits host:port pairs, as in libpq, into a list of hosts and one of ports.
func splitHosts(given map[string]string, authority string) error {
	if authority == "" {
		return nil
	}
	var hosts, ports []string
	for pair := range strings.SplitSeq(authority, ",") {
		host, port := pair, ""
		if i := strings.LastIndex(pair, ":"); i >= 0 && !strings.HasSuffix(pair, "]") {
			host, port = pair[:i], pair[i+1:]
		}
		if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
			host = host[1 : len(host)-1]
		} else if strings.Contains(host, ":") {
			return errURLHost
		}
		plain, err := url.PathUnescape(host)
		if err != nil || strings.Contains(plain, ",") {
			return errURLHost
		}
		hosts, ports = append(hosts, plain), append(ports, port)
	}
	given["host"], given["port"] = strings.Join(hosts, ","), strings.Join(ports, ",")
	return nil
}

func splitQuery(given map[string]string, query string) error {
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		escapedName, escapedValue, _ := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(escapedName)
		value, err2 := url.QueryUnescape(escapedValue)
		known := slices.Contains(connectionParameters, name) ||
			slices.ContainsFunc(sessionSettings, func(s [2]string) bool { return s[0] == name })
		switch {
		case err1 != nil, err2 != nil, strings.Contains(value, "\x00"):
			return errURLEncoding
		case !known, seen[name]:
			return errURLUnknown
		case enumerated[name] != nil && value != "" && !slices.Contains(enumerated[name], value):
			return urlValueError(name)
		}
		seen[name] = true
		if value != "" {
			given[name] = value
		}
	}
	return nil
}

func (s *Source) setTimeout(given map[string]string) error {
	seconds, err := strconv.ParseUint(firstOf(given["connect_timeout"], "2"), 10, 16)
	if err != nil {
		return urlValueError("connect_timeout")
	}
	s.config.ConnectTimeout = time.Duration(seconds) * time.Second
	return nil
}

// setHosts sets the hosts, each with its address and port.
func (s *Source) setHosts(given map[string]string) error {
	hosts := strings.Split(given["host"], ",")
	addresses := strings.Split(given["hostaddr"], ",")
	ports := strings.Split(given["port"], ",")
	n := max(len(hosts), len(addresses))
	noHost, noAddress := given["host"] == "", given["hostaddr"] == ""
	switch {
	case !noHost && len(hosts) != n:
		return errURLHosts
	case !noAddress && len(addresses) != n:
		return errURLHosts
	case len(ports) != 1 && len(ports) != n:
		return errURLHosts
	}
	var all []pq.ConfigMultihost
	for i := range n {
		var host, address string
		if !noHost {
			host = hosts[i]
		}
		if !noAddress {
			address = addresses[i]
		}
		one, err := oneHost(host, address, ports[min(i, len(ports)-1)])
		if err != nil {
			return err
		}
		all = append(all, one)
	}
	s.config.Host, s.config.Hostaddr, s.config.Port = all[0].Host, all[0].Hostaddr, all[0].Port
	s.config.Multi = all[1:]
	sockets := 0
	for _, h := range all {
		if isSocket(h) {
			sockets++
		}
	}
	if sockets != 0 && sockets != n {
		return errURLHosts
	}
	return nil
}

func oneHost(host, address, port string) (h pq.ConfigMultihost, err error) {
	number, err := strconv.ParseUint(firstOf(port, "5432"), 10, 16)
	if err != nil || number == 0 {
		return h, errURLHost
	}
	h.Host, h.Port = firstOf(host, address, "localhost"), uint16(number)
	if address != "" {
		if h.Hostaddr, err = netip.ParseAddr(address); err != nil {
			return h, urlValueError("hostaddr")
		}
	}
	_, notIP := netip.ParseAddr(h.Host)
	if !isSocket(h) && notIP != nil && strings.ContainsFunc(h.Host, notInName) {
		return h, errURLHost
	}
	return h, nil
}

// notInName reports whether no host name contains the character.
func notInName(c rune) bool {
	return c < 128 && c != '.' && c != '-' && c != '_' &&
		(c < '0' || c > '9') &&
		(c < 'a' || c > 'z') &&
		(c < 'A' || c > 'Z')
}

func isSocket(h pq.ConfigMultihost) bool {
	return !h.Hostaddr.IsValid() && (strings.HasPrefix(h.Host, "/") || strings.HasPrefix(h.Host, "@"))
}

func (s *Source) hosts() []pq.ConfigMultihost {
	first := pq.ConfigMultihost{Host: s.config.Host, Hostaddr: s.config.Hostaddr, Port: s.config.Port}
	return append([]pq.ConfigMultihost{first}, s.config.Multi...)
}

// isLocal reports whether a connection stays on this machine: by loopback address or Unix socket.
func isLocal(h pq.ConfigMultihost) bool {
	switch {
	case h.Hostaddr.IsValid():
		return h.Hostaddr.Unmap().IsLoopback()
	case isSocket(h), h.Host == "localhost":
		return true
	}
	ip := net.ParseIP(h.Host)
	return ip != nil && ip.IsLoopback()
}

// setTLS decides how to protect the connection, by the least local of its hosts.
func (s *Source) setTLS(given map[string]string, allowInsecure bool) error {
	hosts := s.hosts()
	local := !slices.ContainsFunc(hosts, func(h pq.ConfigMultihost) bool { return !isLocal(h) })
	mode := given["sslmode"]
	switch {
	case mode != "verify-full" && !local && !allowInsecure:
		return errInsecure
	case isSocket(hosts[0]), mode == "" && local:
		mode = "disable"
	case mode == "":
		mode = "require"
	}
	if (given["sslcert"] == "") != (given["sslkey"] == "") {
		return errURLCert
	}
	verified := mode == "verify-full" || mode == "verify-ca"
	if given["sslnegotiation"] == "direct" && mode != "require" && !verified {
		return urlValueError("sslnegotiation")
	}
	root := given["sslrootcert"]
	switch {
	case root == "system" && mode != "verify-full":
		return urlValueError("sslrootcert")
	case root == "" && verified:
		root = "system"
	case root == "":
		root = noFile
	}
	c := &s.config
	c.SSLMode, c.SSLNegotiation = pq.SSLMode(mode), pq.SSLNegotiation(given["sslnegotiation"])
	c.SSLRootCert, c.SSLCert, c.SSLKey = root, firstOf(given["sslcert"], noFile), firstOf(given["sslkey"], noFile)
	c.SSLSNI = given["sslsni"] != "0"
	c.SSLMinProtocolVersion = pq.SSLProtocolVersion(given["ssl_min_protocol_version"])
	c.SSLMaxProtocolVersion = pq.SSLProtocolVersion(given["ssl_max_protocol_version"])
	return nil
}

// FileProblems lists the files in the setting that cannot be read.
func (s Source) FileProblems() (problems []error) {
	if s.kind != Postgres {
		return nil
	}
	for _, f := range [][2]string{
		{"sslrootcert", s.config.SSLRootCert},
		{"sslcert", s.config.SSLCert},
		{"sslkey", s.config.SSLKey},
	} {
		if f[1] == "system" || f[1] == noFile {
			continue
		}
		if _, err := os.ReadFile(f[1]); err != nil {
			problems = append(problems, fmt.Errorf("database: %s: %w", f[0], err))
		}
	}
	return problems
}

// setup returns a statement that applies the settings to a new session. A session also hears warnings, whatever the
// role or the database says (see errUnreplicated).
func (s *Source) setup() string {
	sets := []string{"set_config('client_min_messages', 'warning', false)"}
	for _, setting := range s.settings {
		name, value := pq.QuoteLiteral(setting[0]), pq.QuoteLiteral(setting[1])
		sets = append(sets, fmt.Sprintf("set_config(%s, %s, false)", name, value))
	}
	return "SELECT " + strings.Join(sets, ", ")
}

// Target is a PostgreSQL connection, without secrets.
type Target struct {
	Hosts    []string `json:"hosts"` // with port, or the folder of a socket
	Database string   `json:"database"`
	User     string   `json:"user"`
	SSLMode  string   `json:"sslmode"`
}

// String returns the target in one line.
func (t Target) String() string {
	return fmt.Sprintf("host %s, database %s, user %s, sslmode %s",
		strings.Join(t.Hosts, " "), t.Database, t.User, t.SSLMode)
}

// Target returns where the setting leads. It returns false for SQLite.
func (s Source) Target() (t Target, ok bool) {
	if s.kind != Postgres {
		return t, false
	}
	for _, h := range s.hosts() {
		t.Hosts = append(t.Hosts, address(h))
	}
	t.Database, t.User, t.SSLMode = s.config.Database, s.config.User, string(s.config.SSLMode)
	return t, true
}
