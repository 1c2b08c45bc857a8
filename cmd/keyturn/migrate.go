package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

// migrateCommands are the verbs of keyturn migrate.
type migrateCommands struct{ *app }

func (m migrateCommands) root() *cobra.Command {
	return noun("migrate", "Manage the database schema", m.up(), m.status())
}

func (m migrateCommands) up() *cobra.Command {
	return m.verb(verb{
		use:     "up",
		short:   "Create the database if there is none, and update its schema",
		args:    cobra.NoArgs,
		create:  true,
		migrate: true,
		act: func(ctx context.Context, op *operator, _ []string) error {
			status, err := op.SchemaStatus(ctx)
			if err != nil {
				return err
			}
			return m.printStatus(status)
		},
	})
}

func (m migrateCommands) status() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the version of the schema and the number of pending steps",
		Args:  cobra.NoArgs,
	}
	addSettings(cmd.Flags(), config.ScopeDatabase)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		set, err := m.readSettings(cmd.Flags(), false)
		if err != nil {
			return err
		}
		status, err := admin.SchemaOf(cmd.Context(), set.place.Database)
		if err != nil {
			return err
		}
		return m.printStatus(status)
	}
	return cmd
}

func (m migrateCommands) printStatus(s admin.SchemaStatus) error {
	return m.print(s, func() {
		m.pairs([][2]string{
			{"version", strconv.FormatInt(s.Version, 10)},
			{"known", strconv.FormatInt(s.Known, 10)},
			{"pending", strconv.FormatInt(s.Pending, 10)},
		})
	})
}
