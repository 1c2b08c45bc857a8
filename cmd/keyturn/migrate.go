package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

func (a *app) migrateCommand() *cobra.Command {
	up := a.verb(
		"up",
		"Make the database if there is none, and bring its schema up to date",
		cobra.NoArgs,
		true,
		func(ctx context.Context, adm *admin.Admin, _ []string) error {
			status, err := adm.SchemaStatus(ctx)
			if err != nil {
				return err
			}
			return a.printSchema(status)
		},
	)
	status := &cobra.Command{
		Use:   "status",
		Short: "Tell the version of the schema, and how many steps are pending",
		Args:  cobra.NoArgs,
	}
	addSettings(status.Flags(), config.ScopeDatabase)
	status.RunE = func(c *cobra.Command, _ []string) error {
		set, err := a.settings(c.Flags(), false)
		if err != nil {
			return err
		}
		status, err := admin.SchemaOf(c.Context(), set.place.Database)
		if err != nil {
			return err
		}
		return a.printSchema(status)
	}
	return noun("migrate", "The database schema", up, status)
}

func (a *app) printSchema(s admin.SchemaStatus) error {
	return a.print(s, func() {
		a.pairs([2]string{"version", strconv.FormatInt(s.Version, 10)}, [2]string{"known", strconv.FormatInt(s.Known, 10)},
			[2]string{"pending", strconv.FormatInt(s.Pending, 10)})
	})
}
