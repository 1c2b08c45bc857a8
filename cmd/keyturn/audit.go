package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

// auditCommands are the verbs of keyturn audit.
type auditCommands struct{ *app }

func (a auditCommands) root() *cobra.Command {
	return noun("audit", "Read the audit trail: what changed, who changed it and why", a.list(), a.verify(), a.export())
}

func (a auditCommands) verify() *cobra.Command {
	return a.verb(verb{
		use:   "verify",
		short: "Check that no record of the trail was changed or removed",
		args:  cobra.NoArgs,
		reads: true,
		act: func(ctx context.Context, op *operator, _ []string) error {
			n, err := op.Audit().Verify(ctx)
			if err != nil {
				return err
			}
			return a.print(map[string]int64{"records": n}, func() { a.say("%d records, all unchanged", n) })
		},
	})
}

func (a auditCommands) export() *cobra.Command {
	return a.verb(verb{
		use:   "export",
		short: "Print the whole trail, one JSON object on each line, oldest first",
		args:  cobra.NoArgs,
		reads: true,
		act: func(ctx context.Context, op *operator, _ []string) error {
			lines := json.NewEncoder(a.stdout)
			lines.SetEscapeHTML(false)
			return op.Audit().Each(ctx, admin.AuditFilter{}, func(page []admin.AuditRecord) error {
				for _, r := range page {
					if err := lines.Encode(r); err != nil {
						return err
					}
				}
				return nil
			})
		},
	})
}

// auditFilter are the flags of audit list.
type auditFilter struct {
	listFlags
	admin.AuditFilter
	since, until string
}

// read completes the filter. On a terminal, without a beginning, the list is that of the newest records.
func (f *auditFilter) read(ctx context.Context, c *streams, op *operator) (err error) {
	if f.Since, err = parseSince("since", f.since, time.Now()); err != nil {
		return err
	}
	if f.Until, err = parseSince("until", f.until, time.Now()); err != nil {
		return err
	}
	if f.after != "" {
		if f.After, err = strconv.ParseInt(f.after, 10, 64); err != nil || f.After < 0 {
			return usageError{fmt.Errorf("--after: %q is not the number of a record", f.after)}
		}
		return nil
	}
	if f.fixed() || !c.printsToTerminal() || f.AuditFilter != (admin.AuditFilter{}) {
		return nil
	}
	newest, err := op.Audit().Newest(ctx)
	if f.After = max(0, newest-shortList); f.After > 0 {
		c.say("These are the newest %d of %d records: --limit 0 lists all.", shortList, newest)
	}
	return err
}

func (a auditCommands) list() *cobra.Command {
	var f auditFilter
	act := func(ctx context.Context, op *operator, _ []string) error {
		if err := f.read(ctx, a.streams, op); err != nil {
			return err
		}
		each := func(do func([]admin.AuditRecord) error) error { return op.Audit().Each(ctx, f.AuditFilter, do) }
		heading := []string{"SEQ", "TIME", "TYPE", "ACTOR", "TARGET", "REASON", "DETAILS"}
		return limited(a.streams, &f.listFlags, heading, each, a.auditCells,
			func(r admin.AuditRecord) any { return r.Seq })
	}
	cmd := a.verb(verb{
		use:   "list",
		short: "List the audit trail, oldest first",
		args:  cobra.NoArgs,
		reads: true,
		act:   act,
	})
	f.add(cmd, "number")
	flags := cmd.Flags()
	flags.StringVar(&f.since, "since", "", "only records since a time (2026-01-31T12:00:00Z) or age (24h, 7d)")
	flags.StringVar(&f.until, "until", "", "only records before a time or age")
	flags.StringVar(&f.Type, "type", "", "only records of this type")
	flags.StringVar(&f.Actor, "actor", "", "only records of this actor, for instance os:root")
	flags.StringVar(&f.Target, "target", "", "only records of this client, username, sub, grant or key")
	a.completeFlag(cmd, "type", completeAuditTypes)
	return cmd
}

func (a auditCommands) auditCells(r admin.AuditRecord) []string {
	return []string{
		strconv.FormatInt(r.Seq, 10),
		a.moment(&r.Time),
		r.Type,
		r.Actor,
		orDash(r.Target),
		orDash(r.Reason),
		string(r.Details),
	}
}

// parseSince parses the value of a flag: a time, or a duration before now.
func parseSince(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	span, err := config.ParseDuration(text)
	if err != nil {
		return time.Time{}, usageError{
			fmt.Errorf("--%s: %q is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 24h", flag,
				text),
		}
	}
	return now.Add(-span), nil
}
