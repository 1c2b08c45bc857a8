package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/storage"
)

func (a *app) backupCommand() *cobra.Command {
	return a.verb(
		"backup FILE",
		"Copy the SQLite database to a new file while servers run",
		cobra.ExactArgs(1),
		false,
		func(ctx context.Context, adm *admin.Admin, args []string) error {
			if err := adm.Backup(ctx, args[0]); err != nil {
				return err
			}
			a.say("Written to %s. It is of no use without the master key, which is not in it: keep the two apart.", args[0])
			return nil
		},
	)
}

func (a *app) restoreCommand() *cobra.Command {
	var confirm bool
	c := &cobra.Command{
		Use:   "restore [FILE]",
		Short: "Put a backup in place; every login from before ends",
		Args:  cobra.MaximumNArgs(1),
	}
	addSettings(c.Flags(), config.ScopeDatabase)
	c.Flags().StringVar(&a.reason, "reason", "", "why, for the audit trail")
	c.Flags().BoolVar(&confirm, "confirm", false, "do it")
	c.RunE = func(c *cobra.Command, args []string) error {
		set, err := a.settings(c.Flags(), false)
		if err != nil {
			return err
		}
		if !confirm {
			return refusedError{
				errors.New(
					"restore: every login from before now ends, what was changed since the backup is lost, and keys that were " +
						"revoked since stay revoked: --confirm does it. Stop the servers first",
				),
			}
		}
		file := append(args, "")[0]
		kept, err := admin.Restore(
			c.Context(),
			set.Config,
			set.place,
			admin.Options{Actor: a.actor(), Reason: a.reason, Given: a.given, Say: a.say},
			file,
		)
		if kept != "" {
			a.say("The database that was there is kept as %s.", kept)
		}
		if err != nil {
			return err
		}
		a.say("Restored. Every login from before has ended. Start the servers.")
		return nil
	}
	return c
}

func (a *app) copyCommand() *cobra.Command {
	var to, toFile string
	var insecure bool
	c := &cobra.Command{
		Use:   "copy",
		Short: "Copy the SQLite database to a new PostgreSQL one; nobody is logged out",
		Args:  cobra.NoArgs,
	}
	addSettings(c.Flags(), config.ScopeDatabase)
	c.Flags().StringVar(&a.reason, "reason", "", "why, for the audit trail")
	c.Flags().
		StringVar(&to, "to", "", "URL of the PostgreSQL database, which must be new; stop the server on SQLite first")
	c.Flags().
		StringVar(&toFile, "to-file", "", "file that holds that URL: flags are seen by everybody on the machine, "+
			"passwords in them too")
	c.Flags().
		BoolVar(&insecure, "allow-insecure-target", false, "allow PostgreSQL on another host without sslmode=verify-full")
	c.RunE = func(c *cobra.Command, _ []string) error {
		set, err := a.settings(c.Flags(), false)
		if err != nil {
			return err
		}
		if to, err = urlOf(to, toFile); err != nil {
			return usageError{err}
		}
		rows := map[string]int64{}
		o := admin.Options{Actor: a.actor(), Reason: a.reason, Given: a.given, Say: a.say}
		target, err := storage.ParseSource(to, insecure)
		if err != nil {
			return fmt.Errorf("%w: %w", admin.ErrInvalid, err)
		}
		told := func(table string, n int64) { rows[table] = n }
		if err := admin.Copy(c.Context(), set.Config, set.place, o, target, told); err != nil {
			return err
		}
		a.say(
			"Copied. Start the servers with --database %s and the same master key. The database on SQLite is not served "+
				"any more.",
			target,
		)
		return a.print(rows, func() {
			var lines [][]string
			for _, table := range slices.Sorted(maps.Keys(rows)) {
				lines = append(lines, []string{table, strconv.FormatInt(rows[table], 10)})
			}
			a.table([]string{"TABLE", "ROWS"}, lines)
		})
	}
	return c
}

// urlOf is a URL that was given, or that a file holds.
func urlOf(url, file string) (string, error) {
	switch {
	case (url == "") == (file == ""):
		return "", errors.New(
			"copy: one of --to and --to-file names the PostgreSQL database, as in " +
				"postgres://keyturn@db.example.com/keyturn?sslmode=verify-full",
		)
	case url != "":
		return url, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	if err := textIn(file, text); err != nil {
		return "", usageError{err}
	}
	return strings.TrimSpace(string(text)), nil
}
