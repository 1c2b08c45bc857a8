package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

func backupCommand(a *app) *cobra.Command {
	return a.verb(verb{
		use:   "backup FILE",
		short: "Copy the SQLite database to a new file while servers run",
		args:  cobra.ExactArgs(1),
		files: true,
		reads: true,
		act: func(ctx context.Context, op *operator, args []string) error {
			if err := op.Backup(ctx, args[0]); err != nil {
				return err
			}
			a.say("Written to %s. The backup needs the master key, which it does not have. Store the two apart, so "+
				"that one theft does not yield both.", args[0])
			return a.print(map[string]string{"file": args[0]}, func() {})
		},
	})
}

// restored is the output of restore.
type restored struct {
	RestoredAt admin.Time `json:"restored_at"`
	KeptFile   *string    `json:"kept_file"` // the old SQLite database; null: there is none
}

func restoreCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore [FILE]",
		Short: "Restore a backup; every login ends",
		Args:  cobra.MaximumNArgs(1),
	}
	addSettings(cmd.Flags(), config.ScopeDatabase)
	by := addActor(cmd, false)
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
		kept, err := admin.Restore(cmd.Context(), set.Config, set.place, a.adminOptions(set, *by), file)
		if kept != "" {
			a.say("The old database is kept as %s.", kept)
		}
		if err != nil {
			return err
		}
		a.say("Restored. Every login has ended. Start the servers.")
		done := restored{RestoredAt: admin.Time{Time: time.Now().UTC().Truncate(time.Second)}}
		if kept != "" {
			done.KeptFile = &kept
		}
		return a.print(done, func() {})
	}
	return cmd
}
