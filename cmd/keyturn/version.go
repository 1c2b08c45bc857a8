package main

import (
	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/server"
)

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := server.Version()
			v.OpenSSL, _ = keys.OpenSSL() // where it is not usable, doctor says why
			return a.print(v, func() {
				pairs := [][2]string{
					{"version", v.Version},
					{"commit", orDash(v.Commit)},
					{"date", orDash(v.Date)},
					{"go", v.Go},
				}
				if v.OpenSSL != "" {
					pairs = append(pairs, [2]string{"openssl", v.OpenSSL})
				}
				a.pairs(pairs)
			})
		},
	}
}
