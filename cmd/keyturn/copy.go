package main

import (
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

// copyCommand is keyturn copy.
type copyCommand struct{ *app }

// copyTarget is the database that keyturn copy writes.
type copyTarget struct {
	url, file string // one of them
	insecure  bool
}

func (c copyCommand) root() *cobra.Command {
	var target copyTarget
	cmd := &cobra.Command{
		Use:   "copy",
		Short: "Copy the SQLite database to a new PostgreSQL database; no login ends",
		Args:  cobra.NoArgs,
	}
	addSettings(cmd.Flags(), config.ScopeDatabase)
	by := addActor(cmd, false)
	f := cmd.Flags()
	f.StringVar(&target.url, "to", "", "URL of the new PostgreSQL database; first stop the server on SQLite")
	f.StringVar(&target.file, "to-file", "",
		"file with that URL: every user of the machine can read flags, and a password in them")
	f.BoolVar(&target.insecure, "allow-insecure-target", false,
		"allow PostgreSQL on another host without sslmode=verify-full")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return c.run(cmd, target, *by)
	}
	return cmd
}

func (c copyCommand) run(cmd *cobra.Command, to copyTarget, by who) error {
	set, err := c.readSettings(cmd.Flags(), false)
	if err != nil {
		return err
	}
	url, err := to.read()
	if err != nil {
		return usageError{err}
	}
	target, err := storage.ParseSource(url, to.insecure)
	if err != nil {
		return fmt.Errorf("%w: %w", admin.ErrInvalid, err)
	}
	rows := map[string]int64{}
	count := func(table string, n int64) { rows[table] = n }
	options := c.adminOptions(set, by)
	if err := admin.Copy(cmd.Context(), set.Config, set.place, options, target, count); err != nil {
		return err
	}
	c.say("Copied. Start the servers with --database %s and the same master key. Servers refuse the SQLite database "+
		"from now on.", target)
	return c.print(rows, func() {
		var lines [][]string
		for _, table := range slices.Sorted(maps.Keys(rows)) {
			lines = append(lines, []string{table, strconv.FormatInt(rows[table], 10)})
		}
		c.table([]string{"TABLE", "ROWS"}, lines)
	})
}

// read returns the URL of the target.
func (t copyTarget) read() (string, error) {
	if (t.url == "") == (t.file == "") {
		return "", errors.New("copy: set either --to or --to-file to the PostgreSQL database, as in " +
			"postgres://keyturn@db.example.com/keyturn?sslmode=verify-full")
	}
	if t.url != "" {
		return t.url, nil
	}
	text, err := os.ReadFile(t.file)
	if err != nil {
		return "", err
	}
	if err := checkFileText(t.file, text); err != nil {
		return "", err
	}
	return strings.TrimSpace(string(text)), nil
}
