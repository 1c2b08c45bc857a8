package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
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

// Patient is what Doctor examines.
type Patient struct {
	Config   config.Config
	Place    keys.Place
	Problems []error  // of the configuration
	Secrets  []string // files that hold secrets, besides those that the configuration names
	MaxFiles int      // descriptors that a process may have open; 0: they are not judged
}

// doctor examines everything and changes nothing.
type doctor struct {
	Patient
	findings []Finding
}

// Doctor checks configuration, files, database, keys, clock, issuer and clients, and returns all that it finds, good or
// bad.
func Doctor(ctx context.Context, p Patient, o Options) []Finding {
	d := &doctor{Patient: p}
	d.configuration()
	d.settings()
	d.files()
	d.descriptors()
	d.anchor()
	o.Create, o.Moved = false, true
	d.Config.Migrate = false
	if d.begun(ctx) {
		d.content(ctx, o)
	}
	d.issuer(ctx)
	d.server(ctx)
	return d.findings
}

// begun reports whether there are keys in the database: to open it as commands do would make them.
func (d *doctor) begun(ctx context.Context) bool {
	db, err := storage.Open(ctx, storage.Options{Source: d.Place.Database})
	var secrets []storage.SecretKey
	if err == nil {
		secrets, err = db.SecretKeys().All(ctx)
		err = errors.Join(err, db.Close())
	}
	switch {
	case err != nil:
		d.add("database", FindingFailed, err.Error()+d.target(),
			"mend this first: keys, clock and clients cannot be looked at without it")
	case len(secrets) == 0:
		d.add(
			"database",
			FindingWarning,
			"it is new: nothing has been written to it",
			"`keyturn init`, or the first command that makes a client, begins",
		)
	}
	return err == nil && len(secrets) > 0
}

// content looks at what is in the database.
func (d *doctor) content(ctx context.Context, o Options) {
	admin, err := Open(ctx, d.Config, d.Place, o)
	if err != nil {
		d.add(
			"database",
			FindingFailed,
			err.Error(),
			"mend this first: keys, clock and clients cannot be looked at without it",
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
	d.findings = append(d.findings, Finding{check, status, found, advice})
}

// warn adds a finding if there is something to warn of.
func (d *doctor) warn(bad bool, check, found, advice string) {
	if bad {
		d.add(check, FindingWarning, found, advice)
	}
}

func (d *doctor) configuration() {
	problems := append(d.Problems, FileProblems(d.Config, d.Place)...)
	for _, p := range problems {
		d.add(
			"configuration",
			FindingFailed,
			p.Error(),
			"serve would not start: mend it in the file, the environment or the flags (`keyturn config show --origin` "+
				"tells where it comes from)",
		)
	}
	if len(problems) == 0 {
		d.add("configuration", FindingOK, "serve would start with it", "")
	}
}

// FileProblems lists what is wrong with the files that serve reads besides the master key. It says nothing of files that
// this user may not read.
func FileProblems(c config.Config, p keys.Place) []error {
	_, err := c.Certificate()
	var problems []error
	for _, err := range append(p.Database.FileProblems(), err) {
		if err != nil && !errors.Is(err, os.ErrPermission) {
			problems = append(problems, err)
		}
	}
	return problems
}

// Settings that are allowed, and further than RFC 9700 and its kin would go.
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
		"RFC 9700 §2.4 says that it must not be used, since clients see passwords: only your own clients should have "+
			"it; password_grant: false turns it off",
	)
	d.warn(
		strings.HasPrefix(c.Issuer, "http:"),
		"settings",
		"the issuer is an http URL",
		"that is for this machine alone: tokens and passwords travel in the clear (RFC 9700 §2.6)",
	)
	for _, w := range c.Warnings() {
		d.add("settings", FindingWarning, w.Found, w.Advice)
	}
	d.warn(c.PasswordHashMemory < goodHashMemory, "settings",
		fmt.Sprintf("a password hash takes %v of memory", c.PasswordHashMemory),
		"stolen hashes are cheap to guess then: OWASP wants 19MiB or more with two passes: password_hash_memory: 19MiB")
	d.warn(
		c.AllowInsecureDatabase,
		"settings",
		"the connection to PostgreSQL need not be verified",
		"whoever is on the way can read and change everything: use sslmode=verify-full",
	)
	d.warn(c.LogLevel == "debug", "settings", "the log is at level debug", "info is meant for every day")
	if len(d.findings) == before {
		d.add("settings", FindingOK, "none is unsafe", "")
	}
}

// lifetimes warns of tokens, logins and retries that live for too long.
func (d *doctor) lifetimes() {
	c := d.Config
	d.warn(
		c.AccessTTL > longAccessTTL,
		"settings",
		fmt.Sprintf("access tokens live for %s", config.FormatDuration(c.AccessTTL)),
		"who verifies offline accepts a stolen or revoked token for as long (RFC 9700 §2.2.1): 15m or less, and refresh "+
			"more often",
	)
	d.warn(
		c.RefreshIdleTTL > longRefreshIdle,
		"settings",
		fmt.Sprintf("a refresh token may rest for %s", config.FormatDuration(c.RefreshIdleTTL)),
		"a token that nobody uses any more should expire (RFC 9700 §4.14.2): 30d or less",
	)
	d.warn(
		c.RefreshMaxTTL > longRefreshMax,
		"settings",
		fmt.Sprintf("a login may last %s", config.FormatDuration(c.RefreshMaxTTL)),
		"have people log in again twice a year at least (RFC 9700 §4.14.2)",
	)
	d.warn(
		c.RefreshRetryWindow > longRetryWindow,
		"settings",
		fmt.Sprintf("a replaced refresh token may be used again for %s", config.FormatDuration(c.RefreshRetryWindow)),
		"so long is a stolen one not noticed (RFC 9700 §4.14.2): the ten seconds of the default are enough for a retry",
	)
	d.warn(c.RefreshLateRetry > 0 && c.RefreshRetryWindow == 0, "settings",
		"refresh_late_retry is set, and refresh_retry_window is 0",
		"late retries are accepted, and immediate ones are not: set both or neither")
	d.warn(c.RefreshLateRetry > longLateRetry, "settings",
		fmt.Sprintf("a login that has taken a late retry takes the next only after %s", config.FormatDuration(c.RefreshLateRetry)),
		"phones lose answers more often than that: 24h is the default")
}

// files looks at who else can read what nobody else should.
func (d *doctor) files() {
	before := len(d.findings)
	secret := append([]string{d.Place.MasterKeyFile, d.Config.TLSKeyFile}, d.Secrets...)
	if path := d.Place.Database.File(); path != "" {
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
			d.add("files", FindingFailed, fmt.Sprintf("%s can be read or written by others (mode %04o)", path, mode),
				"chmod 600 "+path)
		}
		if folder, err := os.Stat(filepath.Dir(path)); err == nil && folder.Mode().Perm()&0o002 != 0 &&
			folder.Mode()&os.ModeSticky == 0 {
			d.add(
				"files",
				FindingFailed,
				fmt.Sprintf("everybody may replace files in %s", filepath.Dir(path)),
				"chmod o-w "+filepath.Dir(path),
			)
		}
	}
	if len(d.findings) == before {
		d.add("files", FindingOK, "nobody else can read the secrets", "")
	}
}

// fewFiles is how many descriptors are too few for a busy server: each connection takes one.
const fewFiles = 1024

// descriptors judges how many files and connections a process that is started here may have open.
func (d *doctor) descriptors() {
	limit := d.MaxFiles
	switch found := fmt.Sprintf("a process that is started here may open %d files and connections", limit); {
	case limit == 0:
	case limit < fewFiles:
		d.add("descriptors", FindingWarning, found, fmt.Sprintf("allow %d or more, for the server too: each connection "+
			"takes one (LimitNOFILE= in its systemd unit, ulimits: nofile in a compose file, ulimit -Hn in a shell)", fewFiles))
	default:
		d.add("descriptors", FindingOK, found, "")
	}
}

// anchor writes beside the anchor, where a server writes each minute, and takes it away again.
func (d *doctor) anchor() {
	path := d.Place.AnchorFile
	if err := keys.TryAnchor(path); err != nil {
		d.add("anchor", FindingWarning, err.Error(), "servers note in "+path+" how far the database has come: without "+
			"it an old backup in its place, or an audit trail that was cut off, is not noticed. The user that runs the "+
			"server must be able to write to the folder, or name another with anchor_file")
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
		d.add("database", FindingFailed, fmt.Sprintf("it takes no writes: %v", err), "is it a standby, or the disk full?")
		return
	}
	if err := errors.Join(a.store.CheckPurpose(ctx, false), a.ring.Anchor(d.Place.AnchorFile).Check(ctx)); err != nil {
		d.add("database", FindingFailed, err.Error(), "serve would not start on it")
		return
	}
	d.add("database", FindingOK, fmt.Sprintf("%s, schema %d, takes writes", a.db.Kind(), s.Version)+d.target(), "")
}

// target says where the database setting leads to, if that is PostgreSQL.
func (d *doctor) target() string {
	if t, ok := d.Place.Database.Target(); ok {
		return " (" + t.String() + ")"
	}
	return ""
}

// clockTolerance is how far the clock may be off without a word.
const clockTolerance = time.Second

func (d *doctor) keys(ctx context.Context, a *Admin) {
	status, err := a.Keys().Status(ctx)
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
	before, n, public := len(d.findings), 0, 0
	err := a.Clients().Each(ctx, func(page []Client) error {
		n += len(page)
		for _, c := range page {
			if c.DisabledAt != nil {
				continue
			}
			d.client(c, a.Now())
			if size, tooLarge := a.tooLargeAlone(c); tooLarge {
				d.add("clients", FindingWarning,
					fmt.Sprintf("an access token with all scope of client %s would have %d bytes", c.ID, size),
					fmt.Sprintf("the limit is %d: such a request is invalid_scope. client update %s --scope …",
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
		d.add("clients", FindingOK, fmt.Sprintf("%d, none of them unsafe", n), "")
	}
	d.lateRetries(public)
}

// lateRetries says what they mean for public clients, whose refresh tokens work for whoever holds one.
func (d *doctor) lateRetries(public int) {
	late := d.Config.RefreshLateRetry
	if public == 0 || late == 0 {
		return
	}
	d.add("late retry", FindingOK,
		fmt.Sprintf("%d public clients: once in %s, a login takes a refresh token that was just replaced",
			public, config.FormatDuration(late)),
		"a thief with a copy of that token can get its successor, too, until somebody uses the successor, and is not "+
			"noticed while the owner refreshes less often than that. refresh_late_retry: 0 turns it off, and logs out "+
			"devices whose answers get lost")
}

// client looks at one that is not disabled.
func (d *doctor) client(c Client, now time.Time) {
	d.warn(c.Public && slices.Contains(c.Grants, api.GrantPassword), "clients",
		fmt.Sprintf("client %s is public and may use the password grant", c.ID),
		"anybody can take itself for it and ask people for their passwords (RFC 9700 §2.4): "+
			"give it a secret if it has a server of its own")
	d.warn(time.Duration(c.AccessTTL) > longAccessTTL, "clients",
		fmt.Sprintf("access tokens of client %s live for %s", c.ID, config.FormatDuration(time.Duration(c.AccessTTL))),
		"see access_ttl: client update "+c.ID+" --access-ttl 10m")
	d.warn(slices.Contains(c.Grants, api.GrantPassword) && c.Scope == "", "clients", fmt.Sprintf("client %s has no scope", c.ID),
		"its tokens say nothing of what they are for (RFC 9700 §2.3): client update "+c.ID+" --scope …")
	d.warn(len(c.Audiences) > 5, "clients",
		fmt.Sprintf("client %s may get tokens for %d resources", c.ID, len(c.Audiences)),
		"one that is stolen opens them all (RFC 9700 §2.3): a client for each task")
	if until := c.PreviousExpiresAt; until != nil && until.Sub(now) > 7*24*time.Hour {
		d.add("clients", FindingWarning,
			fmt.Sprintf("the former secret of client %s works until %s", c.ID, until.UTC().Format(time.RFC3339)),
			"end it when the new one is everywhere: client rotate-secret "+c.ID+" --keep 0s")
	}
}

// longRoles tells of users from before there was a limit, whose access tokens would be too large.
func (d *doctor) longRoles(ctx context.Context, a *Admin) {
	limit, err := a.roleLimit(ctx)
	if err != nil {
		return // told of with the clients
	}
	long, err := a.db.Users().Count(ctx, storage.UserFilter{RolesOver: limit.most()}, a.count)
	d.warn(err == nil && long > 0, "users", fmt.Sprintf("%d have roles of more than %d bytes", long, limit.most()),
		fmt.Sprintf("with all its scope, their access tokens of client %s would be larger than 8 KiB: such a login or "+
			"refresh is invalid_scope. Give them fewer roles", limit.client))
}

// users tells of hashes that came with an import and have not been replaced yet.
func (d *doctor) users(ctx context.Context, a *Admin) {
	d.longRoles(ctx, a)
	old, err := a.db.Users().Count(ctx, storage.UserFilter{OtherHashThan: "$argon2id$"}, a.count)
	switch {
	case errors.Is(err, ErrTooSlow):
		d.add("users", FindingWarning,
			fmt.Sprintf("those with a hash of their former system could not be counted within %v", a.count),
			"that harms nothing: look again when the database has less to do")
	case err != nil:
		d.add("users", FindingFailed, err.Error(), "")
	case old > 0:
		d.add(
			"users",
			FindingWarning,
			fmt.Sprintf("%d have a password hash of their former system", old),
			"it is replaced when they log in; those who never do should be disabled",
		)
	default:
		d.add("users", FindingOK, "all password hashes are argon2id", "")
	}
}

// issuerTimeout bounds each request to the issuer.
const issuerTimeout = 5 * time.Second

// issuer asks the server as clients and verifiers see it.
func (d *doctor) issuer(ctx context.Context) {
	if config.CheckIssuer(d.Config.Issuer) != nil {
		return // told already
	}
	var metadata api.Metadata
	url := api.MetadataURL(d.Config.Issuer)
	off, err := fetch(ctx, url, &metadata)
	if err != nil {
		d.add(
			"issuer",
			FindingWarning,
			err.Error(),
			"does the server run, and does "+d.Config.Issuer+" lead to it, from here too?",
		)
		return
	}
	if metadata.Issuer != d.Config.Issuer {
		d.add(
			"issuer",
			FindingFailed,
			fmt.Sprintf("%s says that its issuer is %s", url, metadata.Issuer),
			"verifiers compare to the letter: the issuer here must be that of the server",
		)
		return
	}
	var set struct{ Keys []struct{ KID string } }
	if _, err := fetch(ctx, metadata.JWKSURI, &set); err != nil || len(set.Keys) == 0 {
		d.add("issuer", FindingFailed, fmt.Sprintf("no keys at %s: %v", metadata.JWKSURI, err), "verifiers fetch them there")
		return
	}
	if off != nil && d.Place.Database.File() != "" {
		d.clock(*off, "that of the server", 2*clockTolerance) // of which HTTP tells whole seconds
	}
	d.add("issuer", FindingOK, d.Config.Issuer+" leads to a server that publishes its keys", "")
}

// server asks the server of this configuration, if one runs here, whether it is ready: it may see what nobody else
// does, as that its database file is not the one that lies there now.
func (d *doctor) server(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	url := "http://" + d.Config.AdminListen + api.PathReadyz + "?verbose"
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return // told already
	}
	answer, err := (&http.Client{Transport: &http.Transport{}}).Do(r)
	if err != nil {
		return // none runs here
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if err != nil || !strings.HasPrefix(string(text), "serving ") {
		d.add("server", FindingWarning, "something else than keyturn answers at "+d.Config.AdminListen,
			"serve could not listen there: set admin_listen to a free port, or end that program")
		return
	}
	if answer.StatusCode == http.StatusOK {
		d.add("server", FindingOK, "the server at "+d.Config.AdminListen+" is ready", "")
		return
	}
	var failed []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); strings.Contains(line, " failed") {
			failed = append(failed, line)
		}
	}
	d.add("server", FindingFailed,
		fmt.Sprintf("the server at %s is not ready: %s", d.Config.AdminListen, strings.Join(failed, "; ")),
		"it answers 503 until that is mended; it goes by what it saw within the last second")
}

// fetch reads JSON as a verifier would, which follows no redirect, and tells how far the clock here is ahead of that of
// whoever answers, if that is said.
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
