package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
)

// revocationOrder is the input of keys revoke.
type revocationOrder struct {
	kid         string // "": all keys
	yes, dryRun bool
	storeLeaked bool
	newMaster   string // file
	sinceText   string
	since       time.Time
	endGrants   string // "", since, all
}

func (k keyCommands) revoke() *cobra.Command {
	var o revocationOrder
	cmd := k.verb(verb{
		use:      "revoke KID",
		short:    "Revoke a leaked key at once, on every server; with --store-leaked KID may be all",
		args:     cobra.ExactArgs(1),
		complete: completeKeys,
		act: func(ctx context.Context, op *operator, args []string) error {
			o.kid = args[0]
			if err := o.check(time.Now()); err != nil {
				return err
			}
			if o.kid != "" {
				kid, err := op.Keys().Resolve(o.kid)
				if err != nil {
					return err
				}
				o.kid = kid
			}
			if !o.dryRun {
				if err := k.askReason(op); err != nil {
					return err
				}
				if err := op.needReason(); err != nil {
					return err
				}
			}
			return k.revokeKey(ctx, op, o)
		},
	})
	f := cmd.Flags()
	f.BoolVar(&o.yes, "yes", false, "do not ask: revoke first, then report")
	f.BoolVar(&o.dryRun, "dry-run", false, "only show what the key has signed, and change nothing")
	f.BoolVar(&o.storeLeaked, "store-leaked", false,
		"database and master key have leaked: destroy every private half and make new keys")
	f.StringVar(&o.newMaster, "new-master-key-file", "",
		"with --store-leaked: file with a new master key, which seals everything from now on")
	f.StringVar(&o.sinceText, "since", "",
		"time of the leak: count only grants used since a time (2026-01-31T12:00:00Z) or age (24h)")
	f.StringVar(&o.endGrants, "end-grants", "",
		"also end sessions: since (used since --since) or all (every session that had a token of the key)")
	k.completeWord(cmd, "end-grants", "since", "all")
	return cmd
}

// check validates an order and completes it.
func (o *revocationOrder) check(now time.Time) (err error) {
	if o.since, err = parseSince("since", o.sinceText, now); err != nil {
		return err
	}
	if o.since.After(now) {
		return usageError{errors.New("--since lies in the future: no login was used then")}
	}
	if o.newMaster != "" && !o.storeLeaked {
		return usageError{errors.New("--new-master-key-file needs --store-leaked; " +
			"without a leak, change the master key with `keyturn keys rewrap`")}
	}
	if o.kid == "" {
		return usageError{errors.New("keys revoke: name a key: by its kid, or as current or next")}
	}
	if o.kid == "all" {
		if !o.storeLeaked {
			return usageError{errors.New("revoke all needs --store-leaked: it destroys every private half")}
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
	return nil
}

// revokeKey shows a preview and asks, or with --yes revokes at once. It reports the affected clients afterwards: only a
// preview counts anything before the revocation.
func (k keyCommands) revokeKey(ctx context.Context, op *operator, o revocationOrder) error {
	if !o.yes {
		if done, err := k.previewRevocation(ctx, op, o); done || err != nil {
			return err
		}
	}
	told := func(r admin.Revocation) {
		if !k.json {
			k.revocationText(r, o) // before counts that may be slow
		}
	}
	report, undone := op.Keys().Execute(ctx, admin.RevocationOrder{
		KID:         o.kid,
		StoreLeaked: o.storeLeaked,
		NewMaster:   o.newMaster,
		Since:       o.since,
		EndGrants:   o.endGrants,
	}, told)
	if undone != nil && report.RevokedAt.IsZero() {
		return undone
	}
	return errors.Join(undone, k.print(report, func() { k.reportText(report, o) }))
}

// previewRevocation shows the use of a key. With --dry-run that is all. Otherwise it asks, also if the use could not be
// counted.
func (k keyCommands) previewRevocation(ctx context.Context, op *operator, o revocationOrder) (done bool, err error) {
	if !o.dryRun && !k.asks() {
		return false, refusedError{errors.New("keys revoke: no terminal for the question: " +
			"--yes revokes without asking, --dry-run only shows what the key has signed")}
	}
	kids := []string{o.kid}
	if o.kid == "" {
		kids = op.Keys().In("current", "previous")
	}
	use, err := op.Keys().Use(ctx, kids, o.since, nil)
	if errors.Is(err, admin.ErrNotFound) {
		return false, err
	}
	if o.dryRun {
		if err != nil {
			return false, fmt.Errorf("the use of the key %s, and nothing was changed: %w", uncounted(err), err)
		}
		return true, k.print(use, func() {
			useTable(k.stdout, use)
			k.say("Nothing was changed.")
		})
	}
	if err != nil {
		k.say("keyturn: the use of the key %s: %v", uncounted(err), err)
	} else {
		useTable(k.stderr, use)
	}
	return false, k.confirmRevocation(o)
}

// confirmRevocation asks on a terminal.
func (k keyCommands) confirmRevocation(o revocationOrder) error {
	keys, tokens := "all keys", "every token"
	if o.kid != "" {
		keys, tokens = "key "+o.kid, "every token of it"
	}
	return k.ask(fmt.Sprintf("Revoke %s? Introspection then refuses %s, and clients must refresh. Type yes: ",
		keys, tokens))
}
