package main

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/server"
)

func (a *app) backupCommand() *cobra.Command {
	return a.verb(
		"backup FILE",
		"Copy the SQLite database to a new file while servers run",
		cobra.ExactArgs(1),
		false,
		func(ctx context.Context, admin *server.Admin, args []string) error {
			if err := admin.Backup(ctx, args[0]); err != nil {
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
	addSettings(c.Flags(), scopeDatabase)
	c.Flags().StringVar(&a.reason, "reason", "", "why, for the audit trail")
	c.Flags().BoolVar(&confirm, "confirm", false, "do it")
	c.RunE = func(c *cobra.Command, args []string) error {
		config, err := a.config(c.Flags(), false)
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
		kept, err := server.Restore(
			c.Context(),
			config,
			server.AdminOptions{Actor: a.actor(), Reason: a.reason, Given: a.given, Say: a.say},
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
	addSettings(c.Flags(), scopeDatabase)
	c.Flags().StringVar(&a.reason, "reason", "", "why, for the audit trail")
	c.Flags().
		StringVar(&to, "to", "", "URL of the PostgreSQL database, which must be new; stop the server on SQLite first")
	c.Flags().
		StringVar(&toFile, "to-file", "", "file that holds that URL: flags are seen by everybody on the machine, "+
			"passwords in them too")
	c.Flags().
		BoolVar(&insecure, "allow-insecure-target", false, "allow PostgreSQL on another host without sslmode=verify-full")
	c.RunE = func(c *cobra.Command, _ []string) error {
		config, err := a.config(c.Flags(), false)
		if err != nil {
			return err
		}
		if to, err = urlOf(to, toFile); err != nil {
			return usageError{err}
		}
		rows := map[string]int64{}
		o := server.AdminOptions{Actor: a.actor(), Reason: a.reason, Given: a.given, Say: a.say}
		if err := server.Copy(c.Context(), config, o, to, insecure,
			func(table string, n int64) { rows[table] = n }); err != nil {
			return err
		}
		a.say(
			"Copied. Start the servers with --database %s and the same master key. The database on SQLite is not served "+
				"any more.",
			server.WithoutPassword(to),
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
