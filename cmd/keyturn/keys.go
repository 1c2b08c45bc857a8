package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

// keyCommands are the verbs of keyturn keys.
type keyCommands struct{ *app }

func (k keyCommands) root() *cobra.Command {
	return noun(
		"keys",
		"Manage signing keys",
		k.list(),
		k.status(),
		k.timeline(),
		k.readiness(),
		k.rotate(),
		k.revoke(),
		k.rewrap(),
	)
}

// verb makes a command with the settings of the key schedule.
func (k keyCommands) verb(v verb) *cobra.Command {
	cmd := k.app.verb(v)
	addSettings(cmd.Flags(), config.ScopeKeys)
	return cmd
}

// liveTokens counts the live tokens of each key. If that fails, it prints why and returns nil.
func (k keyCommands) liveTokens(ctx context.Context, op *operator) map[string]int64 {
	tokens, err := op.Keys().LiveTokens(ctx)
	if err != nil {
		k.say("keyturn: live tokens %s: %v", uncounted(err), err)
	}
	return tokens
}

// uncounted says why a number is missing.
func uncounted(err error) string {
	if errors.Is(err, admin.ErrTooSlow) {
		return "could not be counted in time"
	}
	return "could not be counted"
}

func (k keyCommands) list() *cobra.Command {
	list := func(ctx context.Context, op *operator, _ []string) error {
		if err := op.Keys().Intact(); err != nil {
			k.say("keyturn: %v: `keyturn keys status` gives advice", err)
		}
		rows := op.Keys().Rows(k.liveTokens(ctx, op))
		return k.print(rows, func() { k.keyTable(rows, op.Keys().Lives()) })
	}
	return k.verb(verb{
		use:   "list",
		short: "List signing keys, newest first",
		args:  cobra.NoArgs,
		reads: true,
		act:   list,
	})
}

func (k keyCommands) keyTable(listed []admin.KeyRow, lives []admin.KeyLife) {
	byKID := map[string]admin.KeyLife{}
	for _, l := range lives {
		byKID[l.KID] = l
	}
	var rows [][]string
	for _, key := range listed {
		rows = append(rows, k.keyCells(key, byKID[key.KID]))
	}
	k.table([]string{
		"STATE",
		"KID",
		"SIGNS SINCE",
		"VERIFIES UNTIL",
		"LIVE TOKENS",
		"PRIVATE HALF",
		"ALG",
		"REASON",
	}, rows)
	if len(rows) > 0 {
		k.say("~ is planned")
	}
}

func (k keyCommands) keyCells(key admin.KeyRow, life admin.KeyLife) []string {
	private, tokens := "sealed", "?"
	if key.PrivateKey == "" {
		private = "destroyed"
	}
	if key.State == revokedState {
		tokens = "-"
	} else if key.LiveTokens != nil {
		tokens = strconv.FormatInt(*key.LiveTokens, 10)
	}
	return []string{
		keyShape(key.State),
		key.KID,
		k.point(life.Signs),
		k.point(&life.Leaves),
		tokens,
		private,
		fmt.Sprint(key.Alg, " ", key.Bits),
		orDash(key.Reason),
	}
}

const revokedState = admin.KeyState("revoked")

// keyShape shows the state of a key by shape and word, so that nothing depends on colour.
func keyShape(state admin.KeyState) string { return admin.KeyShapes[state] + " " + string(state) }

// point formats a moment in the life of a key.
func (k keyCommands) point(m *admin.KeyMoment) string {
	if m == nil || m.At.IsZero() {
		return "-"
	}
	t := admin.Time{Time: m.At}
	if m.Planned {
		return "~" + k.moment(&t)
	}
	return k.moment(&t)
}

func (k keyCommands) status() *cobra.Command {
	var check bool
	cmd := k.verb(verb{
		use:   "status",
		short: "Summarize the health of the signing keys in a sentence, and list each problem with advice",
		args:  cobra.NoArgs,
		reads: true,
		act: func(ctx context.Context, op *operator, _ []string) error {
			s, err := op.Keys().Status(ctx)
			if err != nil {
				return err
			}
			if err := k.print(s, func() { k.statusText(s) }); err != nil || !check {
				return err
			}
			return checkStatus(s.Level.Rank())
		},
	})
	cmd.Flags().BoolVar(&check, "check", false,
		"exit with 0 for ok, 1 for a warning, 2 for critical, for cron and Nagios")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := run(cmd, args)
		var printed checkStatus
		var bad *config.Error
		if !check ||
			err == nil ||
			errors.As(err, &printed) ||
			errors.As(err, &bad) {
			return err
		}
		fmt.Fprintf(k.stdout, "Critical: the keys could not be checked: %v\n", err)
		return checkStatus(2)
	}
	return cmd
}

func (k keyCommands) statusText(s admin.KeyStatus) {
	told := func(at time.Time) bool { return s.Healthy && at.Equal(*s.NextRotationAt) }
	if s.Healthy {
		fmt.Fprintln(k.stdout, s.Sentence)
	}
	if e := s.NextEvent; e != nil && !told(e.At) {
		fmt.Fprintf(k.stdout, "Next: at %s key %s %s.\n", k.when(&admin.Time{Time: e.At}), e.KID, e.What)
	}
	for _, p := range s.Problems {
		level := strings.ToUpper(string(p.Level[:1])) + string(p.Level[1:])
		fmt.Fprintf(k.stdout, "%s: %s\n  advice: %s\n", level, p.Problem, p.Advice)
	}
}
