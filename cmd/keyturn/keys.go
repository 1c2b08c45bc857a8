package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

func (a *app) keysCommand() *cobra.Command {
	return noun(
		"keys",
		"Signing keys",
		a.keysList(),
		a.keysStatus(),
		a.keysTimeline(),
		a.keysRotate(),
		a.keysRevoke(),
		a.keysRewrap(),
	)
}

// keysVerb is a verb that knows the schedule of the keys.
func (a *app) keysVerb(
	use, short string,
	args cobra.PositionalArgs,
	act func(context.Context, *admin.Admin, []string) error,
) *cobra.Command {
	c := a.verb(use, short, args, false, act)
	addSettings(c.Flags(), config.ScopeKeys)
	return c
}

// keyRow is a key as keys list prints it.
type keyRow struct {
	admin.SigningKey
	LiveTokens *int64 `json:"live_tokens"` // null: not known
	Uncounted  bool   `json:"live_tokens_uncounted"`
}

// liveTokens are the live tokens of each key; nil, and a word, if they could not be counted.
func (a *app) liveTokens(ctx context.Context, adm *admin.Admin) map[string]int64 {
	tokens, err := adm.Keys().LiveTokens(ctx)
	if err != nil {
		a.say("keyturn: live tokens %s: %v", uncounted(err), err)
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

func (a *app) keysList() *cobra.Command {
	return a.keysVerb(
		"list",
		"List signing keys, newest first",
		cobra.NoArgs,
		func(ctx context.Context, adm *admin.Admin, _ []string) error {
			if err := adm.Keys().Intact(); err != nil {
				a.say("keyturn: %v: `keyturn keys status` tells what to do", err)
			}
			list := []keyRow{}
			tokens := a.liveTokens(ctx, adm)
			for _, k := range adm.Keys().List() {
				row := keyRow{SigningKey: k, Uncounted: tokens == nil}
				if n := tokens[k.KID]; tokens != nil {
					row.LiveTokens = &n
				}
				list = append(list, row)
			}
			return a.print(list, func() { a.keyTable(list, adm.Keys().Lives()) })
		},
	)
}

// keyTable prints keys for people: what each is by shape and word, and how long it counts.
func (a *app) keyTable(list []keyRow, lives []admin.KeyLife) {
	byKID := map[string]admin.KeyLife{}
	for _, l := range lives {
		byKID[l.KID] = l
	}
	var rows [][]string
	for _, k := range list {
		l := byKID[k.KID]
		private, tokens := "sealed", "?"
		if k.PrivateKey == "" {
			private = "destroyed"
		}
		if k.LiveTokens != nil {
			tokens = strconv.FormatInt(*k.LiveTokens, 10)
		}
		rows = append(
			rows,
			[]string{
				keyShape(string(k.State)),
				k.KID,
				point(l.Signs),
				point(&l.Leaves),
				tokens,
				private,
				fmt.Sprint(k.Alg, " ", k.Bits),
				orDash(k.Reason),
			},
		)
	}
	a.table(
		[]string{"STATE", "KID", "SIGNS SINCE", "VERIFIES UNTIL", "LIVE TOKENS", "PRIVATE HALF", "ALG", "REASON"},
		rows,
	)
	if len(rows) > 0 {
		a.say("~ is planned")
	}
}

// keyShape is the state of a key as a shape, which needs no colour, and a word.
func keyShape(state string) string {
	return map[string]string{"next": "○", "current": "●", "previous": "◐", "retired": "·", "revoked": "✕"}[state] + " " +
		state
}

// point is a moment of a life for people.
func point(m *admin.KeyMoment) string {
	if m == nil || m.At.IsZero() {
		return "-"
	}
	t := admin.Time{Time: m.At}
	if m.Planned {
		return "~" + moment(&t)
	}
	return moment(&t)
}

func (a *app) keysStatus() *cobra.Command {
	var check bool
	c := a.keysVerb(
		"status",
		"Tell the health of the signing keys in a sentence, and each problem with advice",
		cobra.NoArgs,
		func(ctx context.Context, adm *admin.Admin, _ []string) error {
			s, err := adm.Keys().Status(ctx)
			if err != nil {
				return err
			}
			if err := a.print(s, func() { a.keyStatusText(s) }); err != nil || !check {
				return err
			}
			return checkStatus(s.Level.Rank())
		},
	)
	c.Flags().
		BoolVar(&check, "check", false, "exit with 0 for ok, 1 for a warning, 2 for anything critical, as cron and "+
			"Nagios want it")
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		err := run(c, args)
		var told checkStatus
		var bad *config.Error
		if !check || err == nil || errors.As(err, &told) || errors.As(err, &bad) {
			return err
		}
		fmt.Fprintf(a.stdout, "Critical: the keys cannot be judged: %v\n", err)
		return checkStatus(2)
	}
	return c
}

// checkStatus is an exit code whose reason has been told.
type checkStatus int

func (checkStatus) Error() string { return "the check found problems" }

func (a *app) keyStatusText(s admin.KeyStatus) {
	fmt.Fprintln(a.stdout, s.Sentence)
	if e := s.NextEvent; e != nil {
		fmt.Fprintf(a.stdout, "Next: at %s key %s %s.\n", moment(&admin.Time{Time: e.At}), e.KID, e.What)
	}
	for _, p := range s.Problems {
		fmt.Fprintf(a.stdout, "%s: %s\n  advice: %s\n", p.Level, p.Problem, p.Advice)
	}
}

func (a *app) keysRotate() *cobra.Command {
	var dryRun, force bool
	c := a.keysVerb(
		"rotate",
		"Make the next key the current one; ends no session",
		cobra.NoArgs,
		func(ctx context.Context, adm *admin.Admin, _ []string) error {
			if dryRun {
				return a.planRotation(ctx, adm, force)
			}
			if err := a.needReason(); err != nil {
				return err
			}
			if _, err := adm.Keys().PlanRotation(ctx, false); force && admin.ErrRefused(err) {
				a.say("keyturn: forced: %v", err)
			}
			r, err := adm.Keys().Rotate(ctx, force)
			if err != nil {
				return a.explainForce(err)
			}
			return a.print(r, func() {
				a.rotationText(r)
				a.say(
					"Rotated. No session ends: tokens of the previous key stay valid, and its public half stays in the JWKS " +
						"until the last has expired.",
				)
			})
		},
	)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "tell what would be done and the timeline to come, change nothing")
	c.Flags().BoolVar(&force, "force", false, "rotate even if verifiers may not have seen the next key yet")
	return c
}

func (a *app) needReason() error {
	if a.reason == "" {
		return usageError{errors.New("--reason is missing: the audit trail keeps it")}
	}
	return nil
}

func (a *app) rotationText(r admin.Rotation) {
	a.pairs([2]string{"previous", orDash(r.Previous)}, [2]string{"current", r.Current}, [2]string{"next", orDash(r.Next)})
}

// explainForce says what force would risk, where it would help.
func (a *app) explainForce(err error) error {
	if admin.ErrRefused(err) {
		a.say(
			"keyturn: --force rotates all the same: verifiers that have cached the JWKS then refuse new tokens until they " +
				"fetch it again",
		)
	}
	return err
}

// planRotation prints what a rotation would do.
func (a *app) planRotation(ctx context.Context, adm *admin.Admin, force bool) error {
	plan, err := adm.Keys().PlanRotation(ctx, force)
	if err != nil {
		return a.explainForce(err)
	}
	return a.print(plan, func() {
		tokens := a.liveTokens(ctx, adm)
		a.rotationText(plan.Rotation)
		fmt.Fprintln(a.stdout)
		a.timelineText(plan.Lives, tokens, adm.Now())
		a.say(
			"Nothing was changed. A rotation ends no session: live tokens verify until they expire, whichever key signed them.",
		)
	})
}

func (a *app) keysRewrap() *cobra.Command {
	var file string
	var force bool
	c := a.keysVerb(
		"rewrap",
		"Seal everything under a new master key; ends no session, and can be interrupted",
		cobra.NoArgs,
		func(ctx context.Context, adm *admin.Admin, _ []string) error {
			if file == "" {
				return usageError{errors.New("--new-master-key-file is missing: `openssl rand -base64 32` makes a key")}
			}
			done, plan, err := adm.Keys().Rewrap(ctx, file, force)
			if plan.Appended {
				a.say(
					"keyturn: added the new master key to %s: servers that read it open what is sealed under either",
					plan.MasterKeyFile,
				)
			}
			if err != nil {
				return err
			}
			return a.print(done, func() {
				a.pairs(
					[2]string{"master key", done.MasterKey},
					[2]string{"signing keys sealed", strconv.Itoa(done.SigningKeys)},
					[2]string{
						"symmetric keys sealed",
						strconv.Itoa(done.SecretKeys),
					},
					[2]string{"left under another", strconv.Itoa(done.Left)},
				)
				a.say(
					"Everything is sealed under the new master key. Now, on every host: cp %s %s, and restart the servers if the "+
						"old key has leaked. Keep the old key as long as backups from before are kept.",
					file,
					plan.MasterKeyFile,
				)
			})
		},
	)
	c.Flags().
		StringVar(&file, "new-master-key-file", "", "file that holds the new master key; every host's master key file "+
			"needs it as a further line first")
	c.Flags().BoolVar(&force, "force", false, "with PostgreSQL: go on without asking whether other hosts have the new key")
	return c
}
