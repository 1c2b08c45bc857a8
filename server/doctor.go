package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// FindingStatus is how bad a finding is.
type FindingStatus string

// What a check can find.
const (
	FindingOK      FindingStatus = "ok"
	FindingWarning FindingStatus = "warning" // it works, and should be looked at
	FindingFailed  FindingStatus = "failed"  // it does not work, or lets others in
)

// Finding is what one check found, and what to do about it.
type Finding struct {
	Check  string        `json:"check"`
	Status FindingStatus `json:"status"`
	Found  string        `json:"found"`
	Advice string        `json:"advice"` // "" if there is nothing to do
}

// doctor looks at everything and changes nothing.
type doctor struct {
	config   Config
	secrets  []string // files that hold secrets, beside those that the configuration names
	findings []Finding
}

// Doctor checks configuration, files, database, keys, clock, issuer and clients, and tells all that it finds, good or bad. secrets are files that hold
// settings which nobody else should read.
func Doctor(ctx context.Context, c Config, o AdminOptions, secrets []string) []Finding {
	d := &doctor{config: c, secrets: secrets}
	d.configuration()
	d.settings()
	d.files()
	o.Create, o.Moved = false, true
	c.Migrate = false
	if d.begun(ctx, c) {
		d.content(ctx, c, o)
	}
	d.issuer(ctx)
	return d.findings
}

// begun tells whether there are keys in the database: to open it as commands do would make them.
func (d *doctor) begun(ctx context.Context, c Config) bool {
	db, err := storage.Open(ctx, storage.Options{URL: c.Database, AllowInsecure: c.AllowInsecureDatabase})
	var keys []storage.SecretKey
	if err == nil {
		keys, err = db.SecretKeys(ctx)
		err = errors.Join(err, db.Close())
	}
	switch {
	case err != nil:
		d.add("database", FindingFailed, err.Error()+d.target(),
			"mend this first: keys, clock and clients cannot be looked at without it")
	case len(keys) == 0:
		d.add("database", FindingWarning, "it is new: nothing has been written to it", "`keyturn init`, or the first command that makes a client, begins")
	}
	return err == nil && len(keys) > 0
}

// content looks at what is in the database.
func (d *doctor) content(ctx context.Context, c Config, o AdminOptions) {
	admin, err := OpenAdmin(ctx, c, o)
	if err != nil {
		d.add("database", FindingFailed, err.Error(), "mend this first: keys, clock and clients cannot be looked at without it")
		return
	}
	defer admin.Close()
	d.database(ctx, admin)
	d.keys(ctx, admin)
	d.clients(ctx, admin)
	d.users(ctx, admin)
}

func (d *doctor) add(check string, status FindingStatus, found, advice string) {
	d.findings = append(d.findings, Finding{check, status, found, advice})
}

// warn adds a finding if there is something to warn of.
func (d *doctor) warn(bad bool, check, found, advice string) {
	if bad {
		d.add(check, FindingWarning, found, advice)
	}
}

func (d *doctor) configuration() {
	problems := append(d.config.Problems(true), d.config.FileProblems()...)
	for _, p := range problems {
		d.add("configuration", FindingFailed, p.Error(), "serve would not start: mend it in the file, the environment or the flags (`keyturn config show --origin` tells where it comes from)")
	}
	if len(problems) == 0 {
		d.add("configuration", FindingOK, "serve would start with it", "")
	}
}

// Settings that are allowed, and further than RFC 9700 and its kin would go.
const (
	longAccessTTL   = Duration(15 * time.Minute)
	longRefreshIdle = Duration(30 * 24 * time.Hour)
	longRefreshMax  = Duration(180 * 24 * time.Hour)
	longRetryWindow = Duration(time.Minute)
)

func (d *doctor) settings() {
	c, before := d.config, len(d.findings)
	d.warn(c.AccessTTL > longAccessTTL, "settings", fmt.Sprintf("access tokens live for %v", c.AccessTTL),
		"who verifies offline accepts a stolen or revoked token for as long (RFC 9700 §2.2.1): 15m or less, and refresh more often")
	d.warn(c.RefreshIdleTTL > longRefreshIdle, "settings", fmt.Sprintf("a refresh token may rest for %v", c.RefreshIdleTTL),
		"a token that nobody uses any more should expire (RFC 9700 §4.14.2): 30d or less")
	d.warn(c.RefreshMaxTTL > longRefreshMax, "settings", fmt.Sprintf("a login may last %v", c.RefreshMaxTTL), "have people log in again twice a year at least (RFC 9700 §4.14.2)")
	d.warn(c.RefreshRetryWindow > longRetryWindow, "settings", fmt.Sprintf("a replaced refresh token may be used again for %v", c.RefreshRetryWindow),
		"so long is a stolen one not noticed (RFC 9700 §4.14.2): the ten seconds of the default are enough for a retry")
	d.warn(c.PasswordGrant, "settings", "the password grant is on", "RFC 9700 §2.4 says that it must not be used, since clients see passwords: only your own clients should have it; password_grant: false turns it off")
	d.warn(strings.HasPrefix(c.Issuer, "http:"), "settings", "the issuer is an http URL", "that is for this machine alone: tokens and passwords travel in the clear (RFC 9700 §2.6)")
	d.warn(c.BehindProxy && len(c.TrustedProxy) == 0, "settings", "behind_proxy is on, and no proxy is trusted", "all clients share the proxy's address in log and throttle: name it in trusted_proxies")
	d.warn(c.AllowInsecureDatabase, "settings", "the connection to PostgreSQL need not be verified", "whoever is on the way can read and change everything: use sslmode=verify-full")
	d.warn(c.LogLevel == "debug", "settings", "the log is at level debug", "info is meant for every day")
	if len(d.findings) == before {
		d.add("settings", FindingOK, "none is unsafe", "")
	}
}

// files looks at who else can read what nobody else should.
func (d *doctor) files() {
	before := len(d.findings)
	secret := append([]string{d.config.masterKeyPath(), d.config.TLSKeyFile}, d.secrets...)
	if path := storage.SQLitePath(d.config.Database); path != "" {
		secret = append(secret, path, path+"-wal", path+"-shm")
	}
	for _, path := range secret {
		info, err := os.Stat(path)
		if path == "" || errors.Is(err, os.ErrNotExist) {
			continue // what is missing is told by who needs it
		}
		if err != nil {
			d.add("files", FindingFailed, err.Error(), "the user that runs keyturn must be able to read it")
		} else if mode := info.Mode().Perm(); mode&0o077 != 0 {
			d.add("files", FindingFailed, fmt.Sprintf("%s can be read or written by others (mode %04o)", path, mode), "chmod 600 "+path)
		}
		if folder, err := os.Stat(filepath.Dir(path)); err == nil && folder.Mode().Perm()&0o002 != 0 && folder.Mode()&os.ModeSticky == 0 {
			d.add("files", FindingFailed, fmt.Sprintf("everybody may replace files in %s", filepath.Dir(path)), "chmod o-w "+filepath.Dir(path))
		}
	}
	if len(d.findings) == before {
		d.add("files", FindingOK, "nobody else can read the secrets", "")
	}
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
		d.add("database", FindingFailed, fmt.Sprintf("it takes no writes: %v", err), "is it a standby, or the disk full?")
		return
	}
	if err := errors.Join(checkStamp(ctx, a.db, false), a.ring.CheckAnchor(ctx, d.config.anchorPath())); err != nil {
		d.add("database", FindingFailed, err.Error(), "serve would not start on it")
		return
	}
	d.add("database", FindingOK, fmt.Sprintf("%s, schema %d, takes writes", a.db.Kind(), s.Version)+d.target(), "")
}

// target says where the database setting leads to, if that is PostgreSQL.
func (d *doctor) target() string {
	if t := DatabaseTarget(d.config); t != nil {
		return " (" + t.String() + ")"
	}
	return ""
}

// clockTolerance is how far the clock may be off without a word.
const clockTolerance = time.Second

func (d *doctor) keys(ctx context.Context, a *Admin) {
	status, err := a.KeyStatus(ctx)
	if err != nil {
		d.add("keys", FindingFailed, err.Error(), "")
		return
	}
	for _, p := range status.Problems {
		worst := map[keys.Level]FindingStatus{keys.LevelWarning: FindingWarning, keys.LevelCritical: FindingFailed}[p.Level]
		d.add("keys", worst, p.Problem, p.Advice)
	}
	if status.Healthy {
		d.add("keys", FindingOK, status.Sentence, "")
	}
	if a.db.Kind() == storage.SQLite { // which has no clock of its own
		return
	}
	off, err := a.ring.ClockOff(ctx)
	if err != nil {
		d.add("clock", FindingFailed, err.Error(), "")
		return
	}
	d.clock(off, "that of the database", clockTolerance)
}

// clock judges how far the clock here is off another.
func (d *doctor) clock(off time.Duration, other string, tolerance time.Duration) {
	if off.Abs() > tolerance {
		d.add("clock", FindingWarning, fmt.Sprintf("the clock here is %v off %s", off.Round(time.Millisecond), other),
			"run an NTP client on both (chrony, systemd-timesyncd); from 30 s on a replica takes no step of a key")
		return
	}
	d.add("clock", FindingOK, fmt.Sprintf("%v off %s", off.Abs().Round(time.Millisecond), other), "")
}

func (d *doctor) clients(ctx context.Context, a *Admin) {
	clients, err := a.Clients(ctx)
	if err != nil {
		d.add("clients", FindingFailed, err.Error(), "")
		return
	}
	before := len(d.findings)
	for _, c := range clients {
		if c.DisabledAt != nil {
			continue
		}
		d.warn(c.Public && hasGrant(c, api.GrantPassword), "clients", fmt.Sprintf("client %s is public and may use the password grant", c.ID),
			"anybody can take itself for it and ask people for their passwords (RFC 9700 §2.4): give it a secret if it has a server of its own")
		d.warn(Duration(c.AccessTTL) > longAccessTTL, "clients", fmt.Sprintf("access tokens of client %s live for %v", c.ID, Duration(c.AccessTTL)), "see access_ttl: client update "+c.ID+" --access-ttl 10m")
		d.warn(hasGrant(c, api.GrantPassword) && c.Scope == "", "clients", fmt.Sprintf("client %s has no scope", c.ID), "its tokens say nothing of what they are for (RFC 9700 §2.3): client update "+c.ID+" --scope …")
		d.warn(len(c.Audiences) > 5, "clients", fmt.Sprintf("client %s may get tokens for %d resources", c.ID, len(c.Audiences)), "one that is stolen opens them all (RFC 9700 §2.3): a client for each task")
		if until := c.PreviousExpiresAt; until != nil && until.Sub(a.Now()) > 7*24*time.Hour {
			d.add("clients", FindingWarning, fmt.Sprintf("the former secret of client %s works until %s", c.ID, until.UTC().Format(time.RFC3339)),
				"end it when the new one is everywhere: client rotate-secret "+c.ID+" --keep 0s")
		}
	}
	if len(d.findings) == before {
		d.add("clients", FindingOK, fmt.Sprintf("%d, none of them unsafe", len(clients)), "")
	}
}

// users tells of hashes that came with an import and have not been replaced yet.
func (d *doctor) users(ctx context.Context, a *Admin) {
	old, err := a.db.UsersWithout(ctx, "$argon2id$")
	switch {
	case err != nil:
		d.add("users", FindingFailed, err.Error(), "")
	case old > 0:
		d.add("users", FindingWarning, fmt.Sprintf("%d have a password hash of their former system", old), "it is replaced when they log in; those who never do should be disabled")
	default:
		d.add("users", FindingOK, "all password hashes are argon2id", "")
	}
}

// issuerTimeout bounds each request to the issuer.
const issuerTimeout = 5 * time.Second

// issuer asks the server as clients and verifiers see it.
func (d *doctor) issuer(ctx context.Context) {
	if CheckIssuer(d.config.Issuer) != nil {
		return // told already
	}
	var metadata api.Metadata
	url := metadataURL(d.config.Issuer)
	off, err := fetch(ctx, url, &metadata)
	if err != nil {
		d.add("issuer", FindingWarning, err.Error(), "does the server run, and does "+d.config.Issuer+" lead to it, from here too?")
		return
	}
	if metadata.Issuer != d.config.Issuer {
		d.add("issuer", FindingFailed, fmt.Sprintf("%s says that its issuer is %s", url, metadata.Issuer), "verifiers compare to the letter: the issuer here must be that of the server")
		return
	}
	var set struct{ Keys []struct{ KID string } }
	if _, err := fetch(ctx, metadata.JWKSURI, &set); err != nil || len(set.Keys) == 0 {
		d.add("issuer", FindingFailed, fmt.Sprintf("no keys at %s: %v", metadata.JWKSURI, err), "verifiers fetch them there")
		return
	}
	if off != nil && storage.SQLitePath(d.config.Database) != "" {
		d.clock(*off, "that of the server", 2*clockTolerance) // of which HTTP tells whole seconds
	}
	d.add("issuer", FindingOK, d.config.Issuer+" leads to a server that publishes its keys", "")
}

// metadataURL is where RFC 8414 §3.1 has the metadata of an issuer.
func metadataURL(issuer string) string {
	scheme, rest, _ := strings.Cut(issuer, "://")
	host, path, found := strings.Cut(rest, "/")
	if found {
		path = "/" + path
	}
	return scheme + "://" + host + api.PathMetadata + path
}

// fetch reads JSON as a verifier would, which follows no redirect, and tells how far the clock here is ahead of that of whoever
// answers, if that is said.
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
