package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

func backupCommand(a *app) *cobra.Command {
	return a.verb(verb{
		use:   "backup FILE",
		short: "Copy the SQLite database to a new file while servers run",
		args:  cobra.ExactArgs(1),
		act: func(ctx context.Context, op *operator, args []string) error {
			if err := op.Backup(ctx, args[0]); err != nil {
				return err
			}
			a.say("Written to %s. The backup needs the master key, which it does not have. Store the two apart, so "+
				"that one theft does not yield both.", args[0])
			return nil
		},
	})
}

func restoreCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore [FILE]",
		Short: "Restore a backup; every login ends",
		Args:  cobra.MaximumNArgs(1),
	}
	addSettings(cmd.Flags(), config.ScopeDatabase)
	reason := addReason(cmd)
	confirm := cmd.Flags().Bool("confirm", false, "restore")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		set, err := a.readSettings(cmd.Flags(), false)
		if err != nil {
			return err
		}
		if !*confirm {
			return refusedError{errors.New("restore: it ends every login and loses every change since the backup; " +
				"keys that were revoked since stay revoked. Stop the servers first, then confirm with --confirm")}
		}
		file := append(args, "")[0]
		kept, err := admin.Restore(cmd.Context(), set.Config, set.place, a.adminOptions(set, *reason), file)
		if kept != "" {
			a.say("The old database is kept as %s.", kept)
		}
		if err != nil {
			return err
		}
		a.say("Restored. Every login has ended. Start the servers.")
		return nil
	}
	return cmd
}
