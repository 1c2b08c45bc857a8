package main

import (
	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/server"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Tell the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := server.Version()
			return a.print(v, func() {
				a.pairs(
					[2]string{"version", v.Version},
					[2]string{"commit", orDash(v.Commit)},
					[2]string{"date", orDash(v.Date)},
					[2]string{"go", v.Go},
				)
			})
		},
	}
}
