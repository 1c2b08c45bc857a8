package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/keyturn/keyturn/admin"
)

// refusedError says that a safety guard of the command refused.
type refusedError struct{ error }

// revocationOrder is what keys revoke was asked for.
type revocationOrder struct {
	kid         string
	yes, dryRun bool
	storeLeaked bool
	newMaster   string // file
	sinceText   string
	since       time.Time
	endGrants   string // "", since, all
}

// revocationReport is what keys revoke prints.
type revocationReport struct {
	admin.Revocation
	Use        []admin.KeyUse `json:"use"` // null: not known
	Uncounted  bool           `json:"use_uncounted"`
	EndedCount int64          `json:"ended_grants"`
}

func (a *app) keysRevoke() *cobra.Command {
	var o revocationOrder
	c := a.keysVerb(
		"revoke KID",
		"Take a leaked key out of use at once, everywhere; KID may be all with --store-leaked",
		cobra.ExactArgs(1),
		func(ctx context.Context, adm *admin.Admin, args []string) error {
			o.kid = args[0]
			if err := a.checkRevocation(&o); err != nil {
				return err
			}
			return a.revokeKey(ctx, adm, o)
		},
	)
	f := c.Flags()
	f.BoolVar(&o.yes, "yes", false, "do not ask: act first, then report")
	f.BoolVar(&o.dryRun, "dry-run", false, "only tell what the key has signed, change nothing")
	f.BoolVar(
		&o.storeLeaked,
		"store-leaked",
		false,
		"database and master key leaked: throw every private half away and make fresh keys",
	)
	f.StringVar(
		&o.newMaster,
		"new-master-key-file",
		"",
		"with --store-leaked: file that holds a new master key, under which everything is sealed from now on",
	)
	f.StringVar(
		&o.sinceText,
		"since",
		"",
		"when the key may have leaked: count only grants used since a time (2026-01-31T12:00:00Z) or for a span (24h)",
	)
	f.StringVar(
		&o.endGrants,
		"end-grants",
		"",
		"end sessions as well: since (those used since --since) or all (all that had a token of the key)",
	)
	return c
}

func (a *app) checkRevocation(o *revocationOrder) (err error) {
	if o.since, err = parseSince(o.sinceText, time.Now()); err != nil {
		return err
	}
	if o.newMaster != "" && !o.storeLeaked {
		return usageError{
			errors.New(
				"--new-master-key-file is for --store-leaked: `keyturn keys rewrap` changes the master key without a leak",
			),
		}
	}
	if o.kid == "all" {
		if !o.storeLeaked {
			return usageError{errors.New("revoke all needs --store-leaked: it throws every private half away")}
		}
		o.kid = ""
	}
	switch o.endGrants {
	case "", "all":
	case "since":
		if o.sinceText == "" {
			return usageError{errors.New("--end-grants since needs --since")}
		}
	default:
		return usageError{fmt.Errorf("--end-grants: %q is neither since nor all", o.endGrants)}
	}
	if o.dryRun {
		return nil
	}
	return a.needReason()
}

// revokeKey previews and asks, or with --yes acts at once and reports what was concerned afterwards. Nothing is counted
// before it acts but for a preview.
func (a *app) revokeKey(ctx context.Context, adm *admin.Admin, o revocationOrder) error {
	if !o.yes {
		if done, err := a.previewRevocation(ctx, adm, o); done || err != nil {
			return err
		}
	}
	report := revocationReport{}
	var undone error // what was left undone after the revocation
	began := adm.Now()
	if report.Revocation, undone = adm.Keys().Revoke(ctx, o.kid, o.storeLeaked, o.newMaster); undone != nil &&
		report.RevokedAt.IsZero() {
		return undone
	}
	if errors.Is(undone, admin.ErrSameMaster) {
		o.newMaster = ""
	}
	if !a.json {
		a.revocationText(report.Revocation, o) // before what may take a while
	}
	if o.endGrants != "" {
		kids := report.Revoked
		if o.storeLeaked {
			kids = adm.Keys().In("revoked") // those of a run before as well
		}
		var err error
		report.EndedCount, err = a.endKeyGrants(ctx, adm, o, kids)
		undone = errors.Join(undone, err)
	}
	a.countUse(ctx, adm, o, began, &report)
	return errors.Join(undone, a.print(report, func() { a.reportText(report, o) }))
}

// previewRevocation shows what is concerned, and with a dry run is done. Otherwise it asks: that something could not be
// counted is no reason not to.
func (a *app) previewRevocation(ctx context.Context, adm *admin.Admin, o revocationOrder) (done bool, err error) {
	terminal, ok := a.stdin.(*os.File)
	if !o.dryRun && (!ok || !term.IsTerminal(int(terminal.Fd()))) {
		return false, refusedError{errors.New("keys revoke: there is no terminal to ask on: " +
			"--yes revokes without asking, --dry-run only tells what the key has signed")}
	}
	kids := []string{o.kid}
	if o.kid == "" {
		kids = adm.Keys().In("current", "previous")
	}
	use, err := adm.Keys().Use(ctx, kids, o.since, nil)
	if errors.Is(err, admin.ErrNotFound) {
		return false, err
	}
	if o.dryRun {
		if err != nil {
			return false, fmt.Errorf("what the key has signed %s, and nothing was changed: %w", uncounted(err), err)
		}
		return true, a.print(use, func() { a.useTable(a.stdout, use); a.say("Nothing was changed.") })
	}
	if err != nil {
		a.say("keyturn: what the key has signed %s: %v", uncounted(err), err)
	} else {
		a.useTable(a.stderr, use)
	}
	return false, a.confirmRevocation(o, terminal)
}

// countUse counts what was concerned, also of the grants that have ended with it.
func (a *app) countUse(
	ctx context.Context, adm *admin.Admin, o revocationOrder, began time.Time, report *revocationReport,
) {
	kids := []string{o.kid}
	if o.kid == "" {
		kids = report.Revoked
	}
	var err error
	if report.Use, err = adm.Keys().Use(ctx, kids, o.since, &began); err != nil {
		report.Use, report.Uncounted = nil, true
		a.say("keyturn: the key is revoked, but what it signed %s: %v", uncounted(err), err)
	}
}

// reportText tells what was concerned, and of the sessions.
func (a *app) reportText(report revocationReport, o revocationOrder) {
	if o.yes && !report.Uncounted { // else it was shown before, or is not known
		a.useTable(a.stdout, report.Use)
	}
	if o.endGrants != "" {
		a.say("Ended %d grants: their refresh tokens are dead.", report.EndedCount)
		return
	}
	how := "the same command with --end-grants all"
	if o.storeLeaked {
		how = "`keyturn grant revoke --all` (not this command again, which would throw the fresh keys away)"
	}
	a.say("No session has ended: the next refresh of each gets a token of another key. To end them: %s.", how)
}

// endKeyGrants ends the grants of all keys that were revoked together.
func (a *app) endKeyGrants(
	ctx context.Context,
	adm *admin.Admin,
	o revocationOrder,
	kids []string,
) (ended int64, err error) {
	since := o.since
	if o.endGrants == "all" {
		since = time.Time{}
	}
	for _, kid := range kids {
		n, err := adm.Keys().EndGrants(ctx, kid, since)
		ended += n
		if err != nil {
			return ended, fmt.Errorf(
				"the key is revoked, but of its grants only %d were ended: `keyturn grant revoke --all` ends every one: %w",
				ended,
				err,
			)
		}
	}
	return ended, nil
}

// confirmRevocation asks on a terminal.
func (a *app) confirmRevocation(o revocationOrder, terminal *os.File) error {
	what := "all keys: every token"
	if o.kid != "" {
		what = "key " + o.kid + ": every token of it"
	}
	fmt.Fprintf(a.stderr, "Revoke %s is refused from now on, its holders must refresh. Type yes: ", what)
	line, err := bufio.NewReader(terminal).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "yes" {
		return refusedError{errors.New("keys revoke: not confirmed, nothing was changed")}
	}
	return nil
}

// useTable prints what a key has signed.
func (a *app) useTable(w io.Writer, use []admin.KeyUse) {
	if len(use) == 0 {
		fmt.Fprintln(w, "No live grant can have a token of the key.")
		return
	}
	var rows [][]string
	var grants, tokens int64
	for _, u := range use {
		rows = append(
			rows,
			[]string{
				u.ClientID,
				u.Audience,
				strconv.FormatInt(u.Grants, 10),
				strconv.FormatInt(u.Users, 10),
				strconv.FormatInt(u.Tokens, 10),
			},
		)
		grants, tokens = grants+u.Grants, tokens+u.Tokens
	}
	rows = append(rows, []string{"all", "", strconv.FormatInt(grants, 10), "", strconv.FormatInt(tokens, 10)})
	table(w, []string{"CLIENT", "AUDIENCE", "GRANTS", "USERS", "LIVE TOKENS"}, rows)
}

// revocationText tells what was done, for how long forged tokens may still be accepted somewhere, and what to do about
// it.
func (a *app) revocationText(r admin.Revocation, o revocationOrder) {
	at := func(t time.Time) string { return moment(&admin.Time{Time: t}) }
	pairs := [][2]string{
		{"revoked", strings.Join(r.Revoked, " ")},
		{"revoked at", at(r.RevokedAt)},
		{"current", r.Current},
		{"next", r.Next},
		{"exposed until", at(r.ExposedUntil)},
	}
	if r.SecondRotation != nil {
		pairs = append(pairs, [2]string{"second rotation", at(*r.SecondRotation)})
	}
	a.pairs(pairs...)
	if r.Already {
		a.say("The key was revoked before: nothing was changed.")
	} else {
		a.say("Revoked. The key leaves the JWKS of every replica within a second or two, and introspection refuses its " +
			"tokens.")
	}
	a.say(
		"Exposure: verifiers that keep the JWKS for as long as they are told may accept forged tokens until %s; those "+
			"that introspect do not any more.",
		at(r.ExposedUntil),
	)
	switch {
	case r.SecondRotation != nil:
		a.say(
			"At %s servers turn to key %s, which no verifier has cached: those that fetch the JWKS only at an unknown kid "+
				"(coreos/go-oidc) drop the leaked key then.",
			at(*r.SecondRotation),
			r.Next,
		)
	case !r.Already:
		a.say(
			"Key %s signs now, which no verifier has cached: those that fetch the JWKS only at an unknown kid "+
				"(coreos/go-oidc) drop the leaked key when they meet it.",
			r.Current,
		)
	}
	if o.storeLeaked && o.newMaster == "" {
		a.say(
			"The fresh keys are sealed under the same master key: if it leaked, run this again with --new-master-key-file, " +
				"which makes others under a new one.",
		)
	}
	if o.newMaster != "" {
		a.say(
			"Everything is sealed under the new master key, which was added to the master key file of this host. Servers " +
				"on other hosts stop signing, and go on serving the leaked keys, until their file has it: now, on every host, " +
				"stop the server, put the new key in the place of the old one, and start it again. The exposure counts from " +
				"the last of them.",
		)
	}
	a.say(
		"Verifiers that keep keys longer (for 24 h, or while they run): restart them now. A replica that is cut off " +
			"from the database still serves the leaked key: stop it.",
	)
}
