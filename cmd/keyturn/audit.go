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

func (a *app) auditCommand() *cobra.Command {
	verify := a.verb(
		"verify",
		"Check that no record of the trail was changed or removed",
		cobra.NoArgs,
		false,
		func(ctx context.Context, adm *admin.Admin, _ []string) error {
			n, err := adm.Audit().Verify(ctx)
			if err == nil {
				a.say("%d records, each as it was written", n)
			}
			return err
		},
	)
	export := a.verb(
		"export",
		"Print the whole trail, a JSON object in a line, oldest first",
		cobra.NoArgs,
		false,
		func(ctx context.Context, adm *admin.Admin, _ []string) error {
			lines := json.NewEncoder(a.stdout)
			lines.SetEscapeHTML(false)
			return adm.Audit().Each(ctx, time.Time{}, "", func(page []admin.AuditRecord) error {
				for _, r := range page {
					if err := lines.Encode(r); err != nil {
						return err
					}
				}
				return nil
			})
		},
	)
	return noun("audit", "The trail of what was changed, by whom and why", a.auditList(), verify, export)
}

func (a *app) auditList() *cobra.Command {
	var since, kind string
	c := a.verb(
		"list",
		"List the audit trail, oldest first",
		cobra.NoArgs,
		false,
		func(ctx context.Context, adm *admin.Admin, _ []string) error {
			from, err := parseSince(since, time.Now())
			if err != nil {
				return err
			}
			each := func(do func([]admin.AuditRecord) error) error { return adm.Audit().Each(ctx, from, kind, do) }
			heading := []string{"SEQ", "TIME", "TYPE", "ACTOR", "TARGET", "REASON", "DETAILS"}
			return list(a, heading, each, func(r admin.AuditRecord) []string {
				return []string{
					strconv.FormatInt(r.Seq, 10),
					moment(&r.Time),
					r.Type,
					r.Actor,
					orDash(r.Target),
					orDash(r.Reason),
					string(r.Details),
				}
			})
		},
	)
	c.Flags().StringVar(&since, "since", "", "only records since a time (2026-01-31T12:00:00Z) or for a span (24h, 7d)")
	c.Flags().StringVar(&kind, "type", "", "only records of this type")
	return c
}

// parseSince reads a moment, or a span before now.
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
			fmt.Errorf("--since: %q is neither a time such as 2026-01-31T12:00:00Z nor a span such as 24h", text),
		}
	}
	return now.Add(-span), nil
}
