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
		act: func(ctx context.Context, op *operator, _ []string) error {
			n, err := op.Audit().Verify(ctx)
			if err == nil {
				a.say("%d records, all unchanged", n)
			}
			return err
		},
	})
}

func (a auditCommands) export() *cobra.Command {
	return a.verb(verb{
		use:   "export",
		short: "Print the whole trail, one JSON object on each line, oldest first",
		args:  cobra.NoArgs,
		act: func(ctx context.Context, op *operator, _ []string) error {
			lines := json.NewEncoder(a.stdout)
			lines.SetEscapeHTML(false)
			return op.Audit().Each(ctx, time.Time{}, "", func(page []admin.AuditRecord) error {
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

func (a auditCommands) list() *cobra.Command {
	var since, kind string
	act := func(ctx context.Context, op *operator, _ []string) error {
		from, err := parseSince(since, time.Now())
		if err != nil {
			return err
		}
		each := func(do func([]admin.AuditRecord) error) error { return op.Audit().Each(ctx, from, kind, do) }
		heading := []string{"SEQ", "TIME", "TYPE", "ACTOR", "TARGET", "REASON", "DETAILS"}
		return list(a.console, heading, each, auditCells)
	}
	cmd := a.verb(verb{
		use:   "list",
		short: "List the audit trail, oldest first",
		args:  cobra.NoArgs,
		act:   act,
	})
	cmd.Flags().StringVar(&since, "since", "", "only records since a time (2026-01-31T12:00:00Z) or age (24h, 7d)")
	cmd.Flags().StringVar(&kind, "type", "", "only records of this type")
	return cmd
}

func auditCells(r admin.AuditRecord) []string {
	return []string{
		strconv.FormatInt(r.Seq, 10),
		moment(&r.Time),
		r.Type,
		r.Actor,
		orDash(r.Target),
		orDash(r.Reason),
		string(r.Details),
	}
}

// parseSince parses a time, or a duration before now.
func parseSince(text string, now time.Time) (time.Time, error) {
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
			fmt.Errorf("--since: %q is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 24h", text),
		}
	}
	return now.Add(-span), nil
}
