package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/server"
)

func (a *app) keysCommand() *cobra.Command {
	return noun("keys", "Signing keys", a.keysList(), a.keysRotate())
}

func (a *app) keysList() *cobra.Command {
	return a.verb("list", "List signing keys, newest first", cobra.NoArgs, false, func(_ context.Context, admin *server.Admin, _ []string) error {
		list := admin.SigningKeys()
		return a.print(list, func() {
			var rows [][]string
			for _, k := range list {
				rows = append(rows, []string{k.KID, string(k.State), k.Alg, strconv.Itoa(k.Bits), moment(&k.PublishedAt), moment(k.ActivatedAt),
					moment(k.RetiresAt), moment(k.RevokedAt), orDash(k.Reason)})
			}
			a.table([]string{"KID", "STATE", "ALG", "BITS", "PUBLISHED", "SIGNS SINCE", "RETIRES", "REVOKED", "REASON"}, rows)
		})
	})
}

func (a *app) keysRotate() *cobra.Command {
	var dryRun, force bool
	c := a.verb("rotate", "Make the next key the current one; ends no session", cobra.NoArgs, false, func(ctx context.Context, admin *server.Admin, _ []string) error {
		if a.reason == "" && !dryRun {
			return usageError{errors.New("--reason is missing: the audit trail keeps it")}
		}
		act := admin.RotateKeys
		if dryRun {
			act = admin.PlanRotation
		}
		r, err := act(ctx, force)
		if server.ErrRefused(err) {
			a.say("keyturn: --force rotates all the same: verifiers that have cached the JWKS then refuse new tokens until they fetch it again")
		}
		if err != nil {
			return err
		}
		return a.print(r, func() {
			a.pairs([2]string{"previous", orDash(r.Previous)}, [2]string{"current", r.Current}, [2]string{"next", orDash(r.Next)})
			if dryRun {
				a.say("Nothing was changed.")
				return
			}
			a.say("Rotated. No session ends: tokens of the previous key stay valid, and its public half stays in the JWKS until the last has expired.")
		})
	})
	addSettings(c.Flags(), scopeKeys)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "tell what would be done, change nothing")
	c.Flags().BoolVar(&force, "force", false, "rotate even if verifiers may not have seen the next key yet")
	return c
}
