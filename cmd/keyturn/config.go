package main

import (
	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

func (a *app) configCommand() *cobra.Command {
	validate := &cobra.Command{
		Use:   "validate",
		Short: "Tell everything that is wrong with the configuration of serve",
		Args:  cobra.NoArgs,
	}
	addSettings(validate.Flags(), config.ScopeServe)
	validate.RunE = func(c *cobra.Command, _ []string) error {
		s, err := a.settings(c.Flags(), true)
		if err != nil {
			return err
		}
		if problems := admin.FileProblems(s.Config, s.place); problems != nil {
			return &config.Error{Problems: problems}
		}
		for _, w := range s.Warnings() {
			a.say("keyturn: warning: %v", w)
		}
		a.say("the configuration is valid")
		return nil
	}
	return noun("config", "The configuration", validate, a.configShow())
}
