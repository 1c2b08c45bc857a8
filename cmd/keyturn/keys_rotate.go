package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
)

func (k keyCommands) rotate() *cobra.Command {
	var dryRun bool
	var g admin.Gate
	rotate := func(ctx context.Context, op *operator, _ []string) error {
		switch {
		case g.Force && g.WhenReady:
			return usageError{errors.New("--force and --when-ready contradict each other: name one")}
		case len(g.Except) > 0 && !g.WhenReady:
			return usageError{errors.New("--except needs --when-ready")}
		case dryRun:
			return k.planRotation(ctx, op, g)
		}
		if err := errors.Join(k.askReason(op), op.needReason()); err != nil {
			return err
		}
		if _, err := op.Keys().PlanRotation(ctx, admin.Gate{}); g.Force && admin.ErrRefused(err) {
			k.say("keyturn: forced: %v", err)
		}
		r, err := op.Keys().Rotate(ctx, g)
		if err != nil && g.WhenReady {
			return err
		}
		if err != nil {
			return k.explainForce(err)
		}
		if g.WhenReady {
			k.sayIfNobody(ctx, op)
		}
		return k.print(r, func() {
			k.rotationText(r)
			k.say("Rotated. No session ends: tokens of the previous key stay valid, and its public half stays in the " +
				"JWKS until the last of them expires.")
		})
	}
	cmd := k.verb(verb{
		use:   "rotate",
		short: "Make the next key current; no session ends",
		args:  cobra.NoArgs,
		act:   rotate,
	})
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show the rotation and the new timeline, and change nothing")
	cmd.Flags().BoolVar(&g.Force, "force", false, "rotate even if verifiers may not have seen the next key yet")
	cmd.Flags().BoolVar(&g.WhenReady, "when-ready", false,
		"refuse while a registered verifier is not ready, as keyturn keys readiness says")
	cmd.Flags().StringSliceVar(&g.Except, "except", nil, "with --when-ready: do not wait for this verifier")
	return cmd
}

// sayIfNobody says that no verifier is registered.
func (k keyCommands) sayIfNobody(ctx context.Context, op *operator) {
	none := true
	err := op.Verifiers().List(ctx, "", func([]admin.Verifier) error { none = false; return errEnough })
	if none && err == nil {
		k.say("keyturn: no verifier is registered, so nobody was waited for: `keyturn verifier create` registers one")
	}
}

func (k keyCommands) rotationText(r admin.Rotation) {
	k.pairs([][2]string{
		{"previous", orDash(r.Previous)},
		{"current", r.Current},
		{"next", orDash(r.Next)},
	})
}

// explainForce prints the risk of --force if --force would help.
func (k keyCommands) explainForce(err error) error {
	if admin.ErrRefused(err) && !admin.NotReady(err) {
		k.say("keyturn: --force rotates nevertheless: verifiers that have cached the JWKS then refuse new tokens " +
			"until they fetch it again")
	}
	return err
}

// planRotation prints what a rotation would do.
func (k keyCommands) planRotation(ctx context.Context, op *operator, g admin.Gate) error {
	plan, err := op.Keys().PlanRotation(ctx, g)
	if err != nil {
		return k.explainForce(err)
	}
	return k.print(plan, func() {
		tokens := k.liveTokens(ctx, op)
		k.rotationText(plan.Rotation)
		fmt.Fprintln(k.stdout)
		k.timelineText(plan.Lives, tokens, admin.WholeView(plan.Lives, op.Now()))
		k.say("Nothing was changed. A rotation ends no session: live tokens verify until they expire, " +
			"whichever key signed them.")
	})
}

func (k keyCommands) rewrap() *cobra.Command {
	var file string
	var force bool
	rewrap := func(ctx context.Context, op *operator, _ []string) error {
		if file == "" {
			return usageError{errors.New("--new-master-key-file is missing: `openssl rand -base64 32` makes a key")}
		}
		done, plan, err := op.Keys().Rewrap(ctx, file, force)
		if plan.Appended {
			k.say("keyturn: added the new master key to %s: servers with this file can use both keys",
				plan.MasterKeyFile)
		}
		if err != nil {
			return err
		}
		return k.print(done, func() {
			k.rewrappedText(done)
			if plan.ReadOnly {
				k.say("Everything is sealed under the new master key. Now remove every other line from the source of "+
					"%s, which this host cannot write. Keep the old key as long as you keep backups that need it.",
					plan.MasterKeyFile)
				return
			}
			k.say("Everything is sealed under the new master key. Now run `cp %s %s` on every host. Restart the "+
				"servers if the old key has leaked. Keep the old key as long as you keep backups that need "+
				"it.", file, plan.MasterKeyFile)
		})
	}
	cmd := k.verb(verb{
		use:   "rewrap",
		short: "Seal everything under a new master key; no session ends, and an interrupted run can be repeated",
		args:  cobra.NoArgs,
		act:   rewrap,
	})
	cmd.Flags().StringVar(&file, "new-master-key-file", "",
		"file with the new master key; first add the key as another line to the master key file of every host")
	cmd.Flags().BoolVar(&force, "force", false, "with PostgreSQL: do not check whether other hosts have the new key")
	return cmd
}

func (k keyCommands) rewrappedText(done admin.Rewrapped) {
	k.pairs([][2]string{
		{"master key", done.MasterKey},
		{"signing keys sealed", strconv.Itoa(done.SigningKeys)},
		{"symmetric keys sealed", strconv.Itoa(done.SecretKeys)},
		{"left under another", strconv.Itoa(done.Left)},
	})
}
