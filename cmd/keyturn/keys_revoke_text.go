package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn/keyturn/admin"
)

// reportText prints the use of the revoked keys and the state of the sessions.
func (k keyCommands) reportText(report admin.RevocationReport, o revocationOrder) {
	k.aftermathText(report.Verifiers)
	if o.yes && !report.Uncounted { // without --yes the preview has shown it
		useTable(k.stdout, report.Use)
	}
	if o.endGrants != "" {
		k.say("Ended %d grants: their refresh tokens are dead.", report.EndedCount)
		return
	}
	how := "repeat the command with --end-grants all"
	if o.storeLeaked {
		how = "run `keyturn grant revoke --all` (do not repeat this command: it would destroy the new keys)"
	}
	k.say("No session has ended: the next refresh of each gets a token of another key. To end them, %s.", how)
}

// aftermathText names the verifiers that need somebody to act.
func (k keyCommands) aftermathText(verifiers []admin.Aftermath) {
	until := func(t *time.Time) string {
		if t == nil {
			return "it is restarted"
		}
		return k.when(&admin.Time{Time: *t})
	}
	for _, v := range verifiers {
		if v.Trusts && (v.Stuck || v.TrustsUntil == nil) {
			k.say("Verifier %s is stuck: it will go on trusting the leaked key until %s.", v.Verifier,
				until(v.TrustsUntil))
		} else if v.Trusts {
			k.say("Verifier %s trusts the leaked key until it fetches the keys again: by its habit, at %s.",
				v.Verifier, until(v.TrustsUntil))
		}
		if v.RefusesFrom != nil {
			from := k.when(&admin.Time{Time: *v.RefusesFrom})
			k.say("Verifier %s: if it reads the keys only on a timer, and not at an unknown kid, it will refuse good "+
				"tokens from %s until %s.", v.Verifier, from, until(v.RefusesUntil))
		}
	}
}

// useTable prints what a key has signed.
func useTable(w io.Writer, use []admin.KeyUse) {
	if len(use) == 0 {
		fmt.Fprintln(w, "No live grant can have a token of the key.")
		return
	}
	var rows [][]string
	var grants, tokens int64
	for _, u := range use {
		rows = append(rows, []string{
			u.ClientID,
			u.Audience,
			strconv.FormatInt(u.Grants, 10),
			strconv.FormatInt(u.Users, 10),
			strconv.FormatInt(u.Tokens, 10),
		})
		grants, tokens = grants+u.Grants, tokens+u.Tokens
	}
	rows = append(rows, []string{
		"all",
		"",
		strconv.FormatInt(grants, 10),
		"",
		strconv.FormatInt(tokens, 10),
	})
	table(w, []string{"CLIENT", "AUDIENCE", "GRANTS", "USERS", "LIVE TOKENS"}, rows)
	told := map[string]bool{}
	for _, u := range use {
		if !told[u.ClientID] {
			fmt.Fprintf(w, "An ended login of %s is accepted for %s.\n", u.ClientID, u.EndedLogin)
		}
		told[u.ClientID] = true
	}
}

// revocationText prints the result of a revocation, how long verifiers may still accept forged tokens, and what to do
// about it.
func (k keyCommands) revocationText(r admin.Revocation, o revocationOrder) {
	at := func(t time.Time) string { return k.when(&admin.Time{Time: t}) }
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
	k.pairs(pairs)
	if r.Already {
		k.say("The key was already revoked: nothing was changed.")
	} else {
		k.say("Revoked. Within two seconds the key leaves the JWKS of every replica, and introspection refuses its " +
			"tokens.")
	}
	k.say("Exposure: verifiers that respect the lifetime of the JWKS may accept forged tokens until %s. "+
		"Those that introspect do not accept them any more.", at(r.ExposedUntil))
	switch {
	case r.SecondRotation != nil:
		k.say("At %s servers start to sign with key %s, which no verifier has cached. Verifiers that fetch the JWKS "+
			"only at an unknown kid (coreos/go-oidc) drop the leaked key then.", at(*r.SecondRotation), r.Next)
	case !r.Already:
		k.say("Key %s signs now. No verifier has cached it. Verifiers that fetch the JWKS only at an unknown kid "+
			"(coreos/go-oidc) drop the leaked key at the first token of it.", r.Current)
	}
	if o.storeLeaked && o.newMaster == "" {
		k.say("The new keys are sealed under the same master key. If it has leaked, repeat the command with " +
			"--new-master-key-file, which makes other keys under a new one.")
	}
	if o.newMaster != "" {
		k.say("Everything is sealed under the new master key, and the master key file of this host has it. Servers " +
			"on other hosts stop signing, and still publish the leaked keys, until their file has it. Now, on every " +
			"host, stop the server, replace the old key by the new one, and start the server. The exposure counts " +
			"from the last of them.")
	}
	k.say("Restart verifiers that keep keys longer (24 h, or as long as they run) now. " +
		"Stop any replica that is cut off from the database: it still publishes the leaked key.")
}
