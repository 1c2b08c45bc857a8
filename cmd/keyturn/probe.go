package main

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

// probeCommand is keyturn probe.
type probeCommand struct{ *app }

// probeFailed is the outcome of a case without an answer that says anything.
const probeFailed = "failed"

// foundFault is the exit code of a probe that found something that must not be.
const foundFault = checkStatus(1)

func (p probeCommand) root() *cobra.Command {
	var spec admin.ProbeSpec
	var list bool
	var show int64
	cmd := p.verb(verb{
		use:      "probe RESOURCE",
		short:    "Ask the API of a resource server which tokens it accepts: good, wrong and forged ones",
		args:     cobra.ExactArgs(1),
		complete: completeClients,
		act: func(ctx context.Context, op *operator, args []string) error {
			spec.ID = args[0]
			switch {
			case list && show != 0, (list || show != 0) && spec.URL != "":
				return usageError{errors.New("probe: name one of --url, --reports and --report")}
			case list:
				return p.list(ctx, op, spec.ID)
			case show != 0:
				return p.show(ctx, op, spec.ID, show)
			case spec.URL == "":
				return usageError{errors.New("probe: --url is missing: the URL of the API, where a good token is " +
					"accepted")}
			}
			return p.run(ctx, op, spec)
		},
	})
	addSettings(cmd.Flags(), config.ScopeIssuer)
	f := cmd.Flags()
	f.StringVar(&spec.URL, "url", "", "URL of the API, where a good token is accepted; it gets only GET requests")
	f.StringVar(&spec.Scope, "scope", "", "scopes of the good token, separated by spaces (default: none)")
	f.BoolVar(&spec.Next, "next", false, "also present a token of the next key: accepted means that the API survives "+
		"the rotation")
	f.BoolVar(&spec.Revocation, "revocation", false, "also end a login, and measure how long its token is accepted")
	f.BoolVar(&spec.Endless, "with-endless", false, "also present a token without exp: an API that accepts it "+
		"accepts it for as long as the key is published")
	f.BoolVar(&list, "reports", false, "list the last reports instead")
	f.Int64Var(&show, "report", 0, "show the report with this number again: 1 is the last one")
	return cmd
}

func (p probeCommand) run(ctx context.Context, op *operator, spec admin.ProbeSpec) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	p.say("Probing %s: at most two requests a second.", spec.URL)
	report, err := op.Probes().Run(ctx, spec)
	if len(report.Results) > 0 && err != nil {
		p.say("The report says how far it came: `keyturn probe %s --report 1`.", spec.ID)
	}
	if err != nil {
		return err
	}
	return p.printReport(report)
}

// printReport prints a report. It returns an exit code if something is not as it must be.
func (p probeCommand) printReport(report admin.ProbeReport) error {
	if err := p.print(report, func() { p.reportText(report) }); err != nil || report.OK() {
		return err
	}
	return foundFault
}

func (p probeCommand) list(ctx context.Context, op *operator, id string) error {
	reports, err := op.Probes().Reports(ctx, id)
	if err != nil {
		return err
	}
	return p.print(reports, func() {
		var rows [][]string
		for i, r := range reports {
			rows = append(rows, []string{strconv.Itoa(i + 1), p.moment(&r.At), r.URL, p.outcome(r)})
		}
		p.table([]string{"NUMBER", "AT", "URL", "OUTCOME"}, rows)
	})
}

func (p probeCommand) show(ctx context.Context, op *operator, id string, number int64) error {
	reports, err := op.Probes().Reports(ctx, id)
	if err != nil {
		return err
	}
	if number < 1 || number > int64(len(reports)) {
		return fmt.Errorf("%w: report %d of %s: %d are kept", admin.ErrNotFound, number, id, len(reports))
	}
	return p.printReport(reports[number-1])
}

// outcome says in a few words what a run found.
func (p probeCommand) outcome(r admin.ProbeReport) string {
	switch {
	case r.Stopped != "":
		return oneLine("stopped: " + r.Stopped)
	case r.OK():
		return "as it must be"
	}
	return fmt.Sprintf("%d cases are not as they must be, %d got no answer", r.Red(), r.Failed())
}

func (p probeCommand) reportText(r admin.ProbeReport) {
	var rows [][]string
	for _, result := range r.Results {
		shape := "ok"
		switch {
		case result.Red:
			shape = "RED"
		case result.Got == probeFailed:
			shape = "?"
		case result.Mend != "":
			shape = "note"
		}
		status := "-"
		if result.Status > 0 {
			status = strconv.Itoa(result.Status)
		}
		rows = append(rows, []string{
			shape,
			result.ID,
			result.What,
			string(result.Expected),
			string(result.Got),
			status,
			orDash(result.Note),
		})
	}
	p.table([]string{"", "CASE", "TOKEN", "EXPECTED", "GOT", "STATUS", "NOTE"}, rows)
	p.measures(r)
	told := map[string]bool{}
	for _, result := range r.Results {
		if result.Mend != "" && !told[result.Mend] {
			fmt.Fprintf(p.stdout, "\n%s (%s): %s.\n", result.ID, result.What, result.Mend)
			told[result.Mend] = true
		}
	}
	fmt.Fprintf(p.stdout, "\n%s: %s, %d requests.\n", r.URL, p.outcome(r), r.Requests)
}

// measures prints what was measured beside the cases.
func (p probeCommand) measures(r admin.ProbeReport) {
	if n := r.JWKSFetches; n != nil {
		fmt.Fprintf(p.stdout, "\nFor five tokens with an unknown kid, the API fetched the keys %d times.\n", *n)
	} else if r.Stopped == "" {
		fmt.Fprintln(p.stdout, "\nHow often the API fetched the keys for an unknown kid is not known: register it "+
			"with "+
			"`keyturn verifier create`, and set its JWKS URL.")
	}
	if r.NextKID != "" && r.NextOK {
		fmt.Fprintf(p.stdout, "It accepts tokens of the next key %s: it survives the rotation.\n", r.NextKID)
		if !r.Booked {
			fmt.Fprintln(p.stdout, "`keyturn keys readiness` does not count it: the URL is not at the recorded origin "+
				"(--probe-origin).")
		}
	}
	if e := r.Revocation; e != nil {
		span := (time.Duration(e.Seconds*1000) * time.Millisecond).Round(100 * time.Millisecond)
		what := fmt.Sprintf("The token of an ended login was refused after %v", span)
		if !e.Refused {
			what = fmt.Sprintf("The token of an ended login was accepted for all of %v, until shortly before it "+
				"expired", span)
		}
		fmt.Fprintf(p.stdout, "%s. By the settings: %s.\n", what, strings.TrimSuffix(r.Promise.String(), "."))
	}
}
