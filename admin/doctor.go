package admin

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// FindingStatus is the severity of a finding.
type FindingStatus string

// Severities of a finding.
const (
	FindingOK      FindingStatus = "ok"
	FindingWarning FindingStatus = "warning" // it works, but needs attention
	FindingFailed  FindingStatus = "failed"  // it does not work, or is unsafe
)

// Finding is the result of one check, with advice.
type Finding struct {
	Check  string        `json:"check"`
	Status FindingStatus `json:"status"`
	Found  string        `json:"found"`
	Advice string        `json:"advice"` // "" if there is nothing to do
}

// Patient is the installation that Doctor examines.
type Patient struct {
	Config   config.Config
	Place    keys.Place
	Problems []error  // of the configuration
	Secrets  []string // files with secrets, besides those that the configuration names
	MaxFiles int      // limit of open files of a process; 0: not checked
}

// doctor is one run of Doctor.
type doctor struct {
	Patient
	findings []Finding
}

// Doctor checks configuration, files, database, keys, clock, issuer and clients, and returns all findings, good and
// bad. It changes nothing.
func Doctor(ctx context.Context, p Patient, o Options) []Finding {
	d := &doctor{Patient: p}
	d.configuration(ctx)
	d.settings()
	d.signer()
	d.files()
	d.descriptors()
	d.anchor()
	o.Create, o.Moved = false, true
	if d.begun(ctx) {
		d.content(ctx, o)
	}
	d.issuer(ctx)
	d.server(ctx)
	return d.findings
}

// begun reports whether the database has keys: Open would make them.
func (d *doctor) begun(ctx context.Context) bool {
	if FileProblems(d.Config, d.Place) != nil {
		d.add("database", FindingFailed, "it was not opened", "correct the configuration first")
		return false
	}
	begun, err := d.Place.Begun(ctx)
	switch {
	case errors.Is(err, storage.ErrEmpty), errors.Is(err, storage.ErrNoDatabase), err == nil && !begun:
		d.add("database", FindingWarning, "it is new and empty",
			"`keyturn init`, or the first command that creates a client, initializes it")
	case err != nil:
		d.add("database", FindingFailed, err.Error()+d.target(),
			"correct this first: without it, keys, clock and clients cannot be checked")
	}
	return err == nil && begun
}

// content checks the content of the database.
func (d *doctor) content(ctx context.Context, o Options) {
	admin, err := Open(ctx, d.Config, d.Place, o)
	if err != nil {
		d.add(
			"database",
			FindingFailed,
			err.Error(),
			"correct this first: without it, keys, clock and clients cannot be checked",
		)
		return
	}
	defer admin.Close()
	d.database(ctx, admin)
	d.keys(ctx, admin)
	d.clients(ctx, admin)
	d.users(ctx, admin)
}

func (d *doctor) add(check string, status FindingStatus, found, advice string) {
	d.findings = append(d.findings, Finding{
		Check:  check,
		Status: status,
		Found:  found,
		Advice: advice,
	})
}

// warn adds a warning if bad.
func (d *doctor) warn(bad bool, check, found, advice string) {
	if bad {
		d.add(check, FindingWarning, found, advice)
	}
}

// configuration lists what would stop serve. It must agree with serve and with config validate.
func (d *doctor) configuration(ctx context.Context) {
	problems := append(d.Problems, ServeProblems(ctx, d.Config, d.Place)...)
	problems = append(problems, PortProblems(ctx, d.Config)...)
	for _, p := range problems {
		d.add(
			CheckConfiguration,
			FindingFailed,
			p.Error(),
			"serve would not start: correct it in the file, the environment or the flags (`keyturn config show "+
				"--origin` prints the source)",
		)
	}
	if len(problems) == 0 {
		d.add(CheckConfiguration, FindingOK, "settings, files and ports are as serve needs them", "")
	}
}

// CheckConfiguration is the check whose failure stops serve.
const CheckConfiguration = "configuration"

// Limits beyond which a setting is valid, but weaker than RFC 9700 and similar documents recommend.
const (
	longAccessTTL   = 15 * time.Minute
	longRefreshIdle = 30 * 24 * time.Hour
	longRefreshMax  = 180 * 24 * time.Hour
	longRetryWindow = time.Minute
	longLateRetry   = 7 * 24 * time.Hour
	goodHashMemory  = config.Size(19 << 20) // OWASP Password Storage Cheat Sheet: argon2id with t=2, p=1
)

func (d *doctor) settings() {
	c, before := d.Config, len(d.findings)
	d.lifetimes()
	d.warn(
		c.PasswordGrant,
		"settings",
		"the password grant is on",
		"RFC 9700 §2.4 forbids it, because clients see passwords: allow it only for your own clients; "+
			"password_grant: false turns it off",
	)
	d.warn(
		strings.HasPrefix(c.Issuer, "http:"),
		"settings",
		"the issuer is an http URL",
		"use it only on this machine: tokens and passwords are not encrypted on the network (RFC 9700 §2.6)",
	)
	for _, w := range c.Warnings() {
		d.add("settings", FindingWarning, w.Found, w.Advice)
	}
	d.warn(c.PasswordHashMemory < goodHashMemory, "settings",
		fmt.Sprintf("a password hash takes %v of memory", c.PasswordHashMemory),
		"stolen hashes are cheap to guess: OWASP recommends at least 19MiB with two passes: "+
			"password_hash_memory: 19MiB")
	d.warn(
		c.AllowInsecureDatabase,
		"settings",
		"the connection to PostgreSQL may be unverified",
		"an attacker on the network can read and change everything: use sslmode=verify-full",
	)
	d.warn(isWide(c.AdminListen), "settings", fmt.Sprintf("admin_listen is %s, on every network of this host",
		c.AdminListen), "metrics and the reasons of failed checks are for operators: use a loopback or private "+
		"address, or let a firewall decide who may connect")
	d.warn(c.LogLevel == "debug", "settings", "the log is at level debug", "use info in normal operation")
	if len(d.findings) == before {
		d.add("settings", FindingOK, "none is unsafe", "")
	}
}

// signer says what signs. Whether it works at all is a matter of the configuration.
func (d *doctor) signer() {
	module, failed := keys.NewCryptoModule(d.Config.Signer, slog.New(slog.DiscardHandler))
	var unused error // why OpenSSL is not used
	if d.Config.Signer != keys.SignerGo {
		_, unused = keys.OpenSSL()
	}
	switch {
	case failed != nil:
		d.add("signer", FindingFailed, "nothing signs: "+failed.Error(),
			"mend what it names, or set signer: go; Go takes several times as long for a signature")
	case unused != nil && !errors.Is(unused, keys.ErrNoOpenSSL):
		d.add("signer", FindingWarning, "Go signs, since OpenSSL is not usable: "+unused.Error(),
			"install OpenSSL 3 (Debian: libssl3), or set signer: go; Go takes several times as long for a signature")
	case module.String() == keys.GoSigner:
		d.add("signer", FindingOK, "Go signs", "")
	default:
		d.add("signer", FindingOK, module.String()+" signs", "")
	}
}

// lifetimes checks the lifetimes of tokens, logins and retries.
func (d *doctor) lifetimes() {
	c := d.Config
	d.warn(
		c.AccessTTL > longAccessTTL,
		"settings",
		fmt.Sprintf("access tokens live for %s", config.FormatDuration(c.AccessTTL)),
		"offline verifiers accept a stolen or revoked token for that time (RFC 9700 §2.2.1): set 15m or less, "+
			"and refresh more often",
	)
	d.warn(
		c.RefreshIdleTTL > longRefreshIdle,
		"settings",
		fmt.Sprintf("a refresh token may stay unused for %s", config.FormatDuration(c.RefreshIdleTTL)),
		"an unused token should expire (RFC 9700 §4.14.2): set 30d or less",
	)
	d.warn(
		c.RefreshMaxTTL > longRefreshMax,
		"settings",
		fmt.Sprintf("a login may last %s", config.FormatDuration(c.RefreshMaxTTL)),
		"let people log in again at least twice a year (RFC 9700 §4.14.2)",
	)
	d.warn(
		c.RefreshRetryWindow > longRetryWindow,
		"settings",
		fmt.Sprintf("a replaced refresh token may be used again for %s", config.FormatDuration(c.RefreshRetryWindow)),
		"the use of a stolen token goes unnoticed for that time (RFC 9700 §4.14.2): the default of 10s is enough "+
			"for a retry",
	)
	d.warn(c.RefreshLateRetry > 0 && c.RefreshRetryWindow == 0, "settings",
		"refresh_late_retry is set, and refresh_retry_window is 0",
		"the server accepts late retries, but no immediate ones: set both or neither")
	d.warn(c.RefreshLateRetry > longLateRetry, "settings",
		fmt.Sprintf("a login may repeat a late retry only after %s", config.FormatDuration(c.RefreshLateRetry)),
		"phones lose answers more often: the default is 24h")
}

// files checks the permissions of files with secrets.
func (d *doctor) files() {
	before := len(d.findings)
	secret := append([]string{d.Place.MasterKeyFile, d.Config.TLSKeyFile}, d.Secrets...)
	if path := d.Place.Database.File(); path != "" {
		secret = append(secret, path, path+"-wal", path+"-shm")
	}
	for _, path := range secret {
		info, err := os.Stat(path)
		if path == "" || errors.Is(err, os.ErrNotExist) {
			continue // another check reports a missing file
		}
		if err != nil {
			d.add("files", FindingFailed, err.Error(), "the user that runs keyturn must be able to read it")
		} else if mode := info.Mode().Perm(); mode&0o077 != 0 {
			d.add("files", FindingFailed, fmt.Sprintf("%s can be read or written by others (mode %04o)", path, mode),
				"chmod 600 "+path)
		}
		if folder, err := os.Stat(filepath.Dir(path)); err == nil &&
			folder.Mode().Perm()&0o002 != 0 &&
			folder.Mode()&os.ModeSticky == 0 {
			d.add(
				"files",
				FindingFailed,
				fmt.Sprintf("everybody can replace files in %s", filepath.Dir(path)),
				"chmod o-w "+filepath.Dir(path),
			)
		}
	}
	if len(d.findings) == before {
		d.add("files", FindingOK, "nobody else can read the secrets", "")
	}
}

// fewFiles is the limit of open files below which Doctor warns: each connection takes a descriptor.
const fewFiles = 1024

// descriptors checks the limit of open files of a process that this user starts.
func (d *doctor) descriptors() {
	limit := d.MaxFiles
	switch found := fmt.Sprintf("a process may open %d files and connections", limit); {
	case limit == 0:
	case limit < fewFiles:
		d.add("descriptors", FindingWarning, found, fmt.Sprintf("allow at least %d, also for the server: each "+
			"connection takes one (LimitNOFILE= in its systemd unit, ulimits: nofile in a compose file, ulimit -Hn "+
			"in a shell)", fewFiles))
	default:
		d.add("descriptors", FindingOK, found, "")
	}
}

// anchor checks that the folder of the anchor is writable, by a temporary file.
func (d *doctor) anchor() {
	path := d.Place.AnchorFile
	if err := keys.TryAnchor(path); err != nil {
		d.add("anchor", FindingWarning, err.Error(), "servers record the progress of the database in "+path+
			": without it they do not detect an old backup or a truncated audit trail. Let the user of the server "+
			"write to the folder, or name another file with anchor_file")
		return
	}
	d.add("anchor", FindingOK, path+" can be written by this user", "")
}

func (d *doctor) database(ctx context.Context, a *Admin) {
	s, err := a.SchemaStatus(ctx)
	switch {
	case err != nil:
		d.add("database", FindingFailed, err.Error(), "")
		return
	case s.Pending > 0:
		d.add("database", FindingFailed, fmt.Sprintf("%d migrations are pending", s.Pending), "`keyturn migrate up`")
	}
	if err := a.db.Ping(ctx); err != nil {
		d.add("database", FindingFailed, fmt.Sprintf("it takes no writes: %v", err), "check whether it is a standby, "+
			"or its disk is full")
		return
	}
	if err := errors.Join(a.store.CheckPurpose(ctx, false), a.ring.Anchor(d.Place.AnchorFile).Check(ctx)); err != nil {
		d.add("database", FindingFailed, err.Error(), "serve would not start on it")
		return
	}
	d.add("database", FindingOK, fmt.Sprintf("%s, schema %d, takes writes", a.db.Kind(), s.Version)+d.target(), "")
}

// target describes the target of a PostgreSQL URL.
func (d *doctor) target() string {
	if t, ok := d.Place.Database.Target(); ok {
		return " (" + t.String() + ")"
	}
	return ""
}

// clockTolerance is the clock difference above which Doctor warns.
const clockTolerance = time.Second

func (d *doctor) keys(ctx context.Context, a *Admin) {
	status, err := a.Keys().Status(ctx)
	if err != nil {
		d.add("keys", FindingFailed, err.Error(), "")
		return
	}
	for _, p := range status.Problems {
		severity := FindingWarning
		if p.Level == keys.LevelCritical {
			severity = FindingFailed
		}
		d.add("keys", severity, p.Problem, p.Advice)
	}
	if status.Healthy {
		d.add("keys", FindingOK, status.Sentence, "")
	}
	if a.db.Kind() == storage.SQLite { // it has no clock of its own
		return
	}
	off, err := a.ring.ClockOff(ctx)
	if err != nil {
		d.add("clock", FindingFailed, err.Error(), "")
		return
	}
	d.clock(off, "that of the database", clockTolerance)
}

// clock checks the difference between the local clock and another.
func (d *doctor) clock(off time.Duration, other string, tolerance time.Duration) {
	if off.Abs() > tolerance {
		d.add("clock", FindingWarning, fmt.Sprintf("the local clock is %v off %s", off.Round(time.Millisecond), other),
			"run an NTP client on both hosts (chrony, systemd-timesyncd); at 30 s a replica stops rotating keys")
		return
	}
	d.add("clock", FindingOK, fmt.Sprintf("%v off %s", off.Abs().Round(time.Millisecond), other), "")
}

func (d *doctor) clients(ctx context.Context, a *Admin) {
	before, n, public := len(d.findings), 0, 0
	endings := map[string][]string{} // clients, by how long their ended logins are accepted
	err := a.Clients().Each(ctx, func(page []Client) error {
		n += len(page)
		for _, c := range page {
			if c.DisabledAt != nil {
				continue
			}
			d.client(c, a.Now())
			if len(c.Grants) > 0 {
				ending := a.endedLogin(c).String()
				endings[ending] = append(endings[ending], c.ID)
			}
			if size, tooLarge := a.tooLargeAlone(c); tooLarge {
				d.add("clients", FindingWarning,
					fmt.Sprintf("an access token of client %s with all its scope would have %d bytes", c.ID, size),
					fmt.Sprintf("the limit is %d: the server answers invalid_scope. Shorten it with client update %s "+
						"--scope …",
						api.MaxAccessToken, c.ID))
			}
			if c.Public && slices.Contains(c.Grants, api.GrantRefreshToken) {
				public++
			}
		}
		return nil
	})
	if err != nil {
		d.add("clients", FindingFailed, err.Error(), "")
		return
	}
	if len(d.findings) == before {
		d.add("clients", FindingOK, fmt.Sprintf("%d clients, none of them unsafe", n), "")
	}
	d.lateRetries(public)
	d.endedLogins(endings)
}

// endedLogins says for each client how long an ended login is still accepted.
func (d *doctor) endedLogins(endings map[string][]string) {
	const most = 10 // clients to name
	for _, ending := range slices.Sorted(maps.Keys(endings)) {
		clients := endings[ending]
		more := ""
		if len(clients) > most {
			clients, more = clients[:most], fmt.Sprintf(" and %d more", len(clients)-most)
		}
		d.add("ended logins", FindingOK, fmt.Sprintf("an ended login is accepted for %s: clients %s%s",
			ending, strings.Join(clients, ", "), more), "")
	}
}

// lateRetries explains late retries of public clients, whose refresh tokens work for every holder.
func (d *doctor) lateRetries(public int) {
	late := d.Config.RefreshLateRetry
	if public == 0 || late == 0 {
		return
	}
	d.add("late retry", FindingOK,
		fmt.Sprintf("%d public clients: once in %s, a login may use a refresh token that was just replaced",
			public, config.FormatDuration(late)),
		"a thief with a copy of that token can also get its successor, until somebody uses the successor. Nobody "+
			"notices it while the owner refreshes less often. refresh_late_retry: 0 turns it off, but logs out "+
			"devices whose answers are lost")
}

// client checks a client that is not disabled.
func (d *doctor) client(c Client, now time.Time) {
	d.warn(c.Public && slices.Contains(c.Grants, api.GrantPassword), "clients",
		fmt.Sprintf("client %s is public and may use the password grant", c.ID),
		"anybody can impersonate it and ask people for their passwords (RFC 9700 §2.4): give it a secret if it "+
			"has a server of its own")
	d.warn(!c.RefreshRotation, "clients", fmt.Sprintf("refresh tokens of client %s do not rotate", c.ID),
		"nobody can notice the use of a stolen one (RFC 9700 §4.14.2): client update "+c.ID+" --refresh-rotation on, "+
			"unless the client cannot store a new token")
	d.warn(time.Duration(c.AccessTTL) > longAccessTTL, "clients",
		fmt.Sprintf("access tokens of client %s live for %s", c.ID, config.FormatDuration(time.Duration(c.AccessTTL))),
		"shorten it as for access_ttl: client update "+c.ID+" --access-ttl 10m")
	d.warn(slices.Contains(c.Grants, api.GrantPassword) && c.Scope == "", "clients",
		fmt.Sprintf("client %s has no scope", c.ID),
		"its tokens do not limit their use (RFC 9700 §2.3): client update "+c.ID+" --scope …")
	d.warn(len(c.Audiences) > 5, "clients",
		fmt.Sprintf("client %s may get tokens for %d resources", c.ID, len(c.Audiences)),
		"a thief of its secret can use all of them (RFC 9700 §2.3): create a client for each task")
	if until := c.PreviousExpiresAt; until != nil && until.Sub(now) > 7*24*time.Hour {
		d.add("clients", FindingWarning,
			fmt.Sprintf("the previous secret of client %s works until %s", c.ID, until.UTC().Format(time.RFC3339)),
			"end it when all hosts have the new one: client rotate-secret "+c.ID+" --keep 0s")
	}
}

// longRoles checks for users whose roles are older than the limit and make access tokens too large.
func (d *doctor) longRoles(ctx context.Context, a *Admin) {
	limit, err := a.roleLimit(ctx)
	if err != nil {
		return // clients reports it
	}
	long, err := a.db.Users().Count(ctx, storage.UserFilter{RolesOver: limit.most()}, a.count)
	d.warn(err == nil && long > 0, "users", fmt.Sprintf("%d have roles of more than %d bytes", long, limit.most()),
		fmt.Sprintf("with all its scope, their access tokens of client %s would be larger than 8 KiB: the server "+
			"answers invalid_scope. Give them fewer roles", limit.client))
}

// users checks for imported hashes that no login has replaced yet.
func (d *doctor) users(ctx context.Context, a *Admin) {
	d.longRoles(ctx, a)
	old, err := a.db.Users().Count(ctx, storage.UserFilter{OtherHashThan: "$argon2id$"}, a.count)
	switch {
	case errors.Is(err, ErrTooSlow):
		d.add("users", FindingWarning,
			fmt.Sprintf("users with a hash of another system could not be counted within %v", a.count),
			"this does no harm: repeat the check when the database is less busy")
	case err != nil:
		d.add("users", FindingFailed, err.Error(), "")
	case old > 0:
		d.add(
			"users",
			FindingWarning,
			fmt.Sprintf("%d have a password hash of another system", old),
			"their next login replaces it; disable users who never log in",
		)
	default:
		d.add("users", FindingOK, "all password hashes are argon2id", "")
	}
}

// issuerTimeout bounds each request to the issuer.
const issuerTimeout = 5 * time.Second

// issuer fetches the metadata and keys of the issuer, as clients and verifiers do.
func (d *doctor) issuer(ctx context.Context) {
	if config.CheckIssuer(d.Config.Issuer) != nil {
		return // configuration reports it
	}
	var metadata api.Metadata
	url := api.MetadataURL(d.Config.Issuer)
	off, err := fetch(ctx, url, &metadata)
	if err != nil {
		d.add(
			"issuer",
			FindingWarning,
			err.Error(),
			"check that the server runs, and that "+d.Config.Issuer+" leads to it, also from here",
		)
		return
	}
	if metadata.Issuer != d.Config.Issuer {
		d.add(
			"issuer",
			FindingFailed,
			fmt.Sprintf("the issuer in %s is %s", url, metadata.Issuer),
			"set issuer to exactly that of the server: verifiers compare every character",
		)
		return
	}
	var set struct{ Keys []struct{ KID string } }
	if _, err := fetch(ctx, metadata.JWKSURI, &set); err != nil || len(set.Keys) == 0 {
		d.add("issuer", FindingFailed, fmt.Sprintf("no keys at %s: %v", metadata.JWKSURI, err),
			"verifiers need them there")
		return
	}
	if off != nil && d.Place.Database.File() != "" {
		d.clock(*off, "that of the server", 2*clockTolerance) // the Date header has whole seconds
	}
	d.add("issuer", FindingOK, d.Config.Issuer+" leads to a server that publishes its keys", "")
}

// server asks the server of this configuration, if it runs on this host, whether it is ready. It may know of problems
// that are invisible from outside, for instance that its database file was replaced.
func (d *doctor) server(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+local(d.Config.AdminListen)+readinessPath, nil)
	if err != nil {
		return // configuration reports it
	}
	answer, text, err := askReadiness(r)
	if err != nil || !strings.HasPrefix(text, "serving ") {
		return // none runs here; configuration reports another program
	}
	if answer.StatusCode == http.StatusOK {
		d.add("server", FindingOK, "the server at "+d.Config.AdminListen+" is ready", "")
		return
	}
	var failed []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.Contains(line, " failed") {
			failed = append(failed, line)
		}
	}
	d.add("server", FindingFailed,
		fmt.Sprintf("the server at %s is not ready: %s", d.Config.AdminListen, strings.Join(failed, "; ")),
		"it answers 503 until this is corrected; its checks are at most one second old")
}

// askReadiness sends a request and reads its short response.
func askReadiness(r *http.Request) (answer *http.Response, text string, err error) {
	// The certificate does not matter: it only asks whether a keyturn is there.
	direct := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer direct.CloseIdleConnections()
	if answer, err = (&http.Client{Transport: direct}).Do(r); err != nil {
		return nil, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	return answer, string(body), err
}

// answersAsKeyturn reports whether a keyturn answers at an address, with or without TLS.
func answersAsKeyturn(ctx context.Context, address string) bool {
	serving := func(text string) bool { return strings.HasPrefix(text, "serving ") }
	return askNeighbour(ctx, address, readinessPath, serving)
}

// servesIssuer reports whether a server of an issuer, "" for any, answers at the public listener.
func servesIssuer(ctx context.Context, c config.Config, issuer string) bool {
	metadata, err := url.Parse(api.MetadataURL(c.Issuer))
	if err != nil {
		return false
	}
	return askNeighbour(ctx, c.Listen, metadata.EscapedPath(), func(text string) bool {
		var m api.Metadata
		return json.Unmarshal([]byte(text), &m) == nil && m.Issuer != "" && (issuer == "" || m.Issuer == issuer)
	})
}

// askNeighbour sends a request to a listener of this host, with or without TLS.
func askNeighbour(ctx context.Context, address, path string, right func(text string) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, neighbourTimeout)
	defer cancel()
	for _, scheme := range []string{"http://", "https://"} {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+local(address)+path, nil)
		if err != nil {
			return false
		}
		if _, text, err := askReadiness(r); err == nil && right(text) {
			return true
		}
	}
	return false
}

// neighbourTimeout bounds the question whether a keyturn answers on this host.
const neighbourTimeout = 2 * time.Second

// local returns the address of a listener as seen from this host.
func local(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err == nil && isWide(listen) {
		if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
			return net.JoinHostPort("::1", port)
		}
		return net.JoinHostPort("127.0.0.1", port)
	}
	return listen
}

// readinessPath asks a server for the results of its checks.
const readinessPath = api.PathReadyz + "?verbose"

// isWide reports whether an address is that of every network.
func isWide(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	ip, bad := netip.ParseAddr(host)
	return err == nil && (host == "" || bad == nil && ip.IsUnspecified())
}

// fetch fetches JSON as a verifier does, without redirects. off is how far the local clock is ahead of the Date of the
// answer, if it has one.
func fetch(ctx context.Context, url string, into any) (off *time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return off, err
	}
	stay := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := stay.Do(r)
	if err != nil {
		return off, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return off, fmt.Errorf("%s answers %s", url, answer.Status)
	}
	if date, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		since := time.Since(date)
		off = &since
	}
	return off, json.NewDecoder(http.MaxBytesReader(nil, answer.Body, 1<<20)).Decode(into)
}
