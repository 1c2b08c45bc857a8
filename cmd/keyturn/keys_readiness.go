package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
)

func (k keyCommands) readiness() *cobra.Command {
	var check bool
	cmd := k.verb(verb{
		use:   "readiness",
		short: "Say which registered verifiers have the next key, with the evidence",
		args:  cobra.NoArgs,
		reads: true,
		act: func(ctx context.Context, op *operator, _ []string) error {
			r, err := op.Keys().Readiness(ctx)
			if err != nil {
				return err
			}
			if err := k.print(r, func() { k.readinessText(r) }); err != nil || !check {
				return err
			}
			return checkStatus(r.Worst().Rank())
		},
	})
	cmd.Flags().BoolVar(&check, "check", false,
		"exit with 0 if all are ready, 1 if one waits or is silent, 2 if one is stuck")
	return cmd
}

// shownUnnamed is the number of unnamed sources that the text shows.
const shownUnnamed = 10

func (k keyCommands) readinessText(r admin.Readiness) {
	switch {
	case r.Next == "":
		fmt.Fprintln(k.stdout, "No next key is published yet.")
	default:
		fmt.Fprintf(k.stdout, "The next key is %s, published at %s.\n", r.Next,
			k.when(&admin.Time{Time: *r.PublishedAt}))
	}
	if len(r.Verifiers) == 0 {
		fmt.Fprintln(k.stdout, "No verifier is registered: `keyturn verifier create NAME --resource URI` registers "+
			"one.")
	} else {
		k.verifierTable(r.Verifiers)
	}
	if len(r.Unnamed) > 0 {
		fmt.Fprintln(k.stdout, "\nUnnamed sources, which no verdict counts:")
		k.unnamedTable(r.Unnamed)
	}
	for i, audience := range r.UnnamedAudiences {
		if i == 0 {
			fmt.Fprintln(k.stdout, "\nAudiences of tokens of the last week, without a registered verifier:")
		}
		fmt.Fprintln(k.stdout, "  "+oneLine(audience))
	}
	for _, note := range r.Notes {
		k.say("Note: %s.", note)
	}
}

func (k keyCommands) verifierTable(readings []admin.VerifierReading) {
	var rows [][]string
	for _, v := range readings {
		evidence := v.Evidence
		if v.Verdict != admin.VerdictReady && v.LastRotation != "" {
			evidence += "; " + v.LastRotation
		}
		rows = append(rows, []string{v.Name, v.Resource, evidence, k.verdict(v)})
	}
	k.table([]string{"VERIFIER", "RESOURCE", "EVIDENCE", "VERDICT"}, rows)
}

// verdict is the verdict on a verifier, with the time by which a waiting one will be ready.
func (k keyCommands) verdict(v admin.VerifierReading) string {
	if v.By == nil {
		return string(v.Verdict)
	}
	return string(v.Verdict) + ", expected by " + v.By.Format(time.RFC3339)
}

func (k keyCommands) unnamedTable(unnamed []admin.UnnamedFetches) {
	var rows [][]string
	for _, u := range unnamed[:min(len(unnamed), shownUnnamed)] {
		has := "no"
		if u.HasNext {
			has = "yes"
		}
		rows = append(rows, []string{
			u.Source,
			orDash(u.Agent),
			has,
			strconv.FormatInt(u.Count, 10),
			k.moment(&u.LastAt),
		})
	}
	k.table([]string{"SOURCE", "AGENT", "HAS NEXT KEY", "FETCHES", "LAST"}, rows)
	if more := len(unnamed) - shownUnnamed; more > 0 {
		fmt.Fprintf(k.stdout, "and %d more: --json lists all\n", more)
	}
}
