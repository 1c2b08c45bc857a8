package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

// doctorCommand is keyturn doctor.
type doctorCommand struct{ *app }

func (d doctorCommand) root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find problems and risks, with advice",
		Args:  cobra.NoArgs,
	}
	addSettings(cmd.Flags(), config.ScopeServe)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		findings, err := d.examine(cmd)
		if err != nil {
			return err
		}
		if err := d.print(findings, func() { d.printFindings(findings) }); err != nil {
			return err
		}
		failed, unfit := 0, false
		for _, f := range findings {
			if f.Status == admin.FindingFailed {
				failed++
				unfit = unfit || f.Check == admin.CheckConfiguration
			}
		}
		switch {
		case unfit:
			return &config.Error{Problems: []error{fmt.Errorf("doctor: %d checks failed, and serve would not start",
				failed)}}
		case failed > 0:
			return fmt.Errorf("doctor: %d checks failed", failed)
		}
		return nil
	}
	return cmd
}

// examine runs all checks. Without a valid configuration it can only list the problems of the configuration.
func (d doctorCommand) examine(cmd *cobra.Command) (findings []admin.Finding, err error) {
	set, err := d.readSettings(cmd.Flags(), false)
	var bad *config.Error
	if errors.As(err, &bad) {
		for _, problem := range bad.Problems {
			findings = append(findings, admin.Finding{
				Check:  "configuration",
				Status: admin.FindingFailed,
				Found:  problem.Error(),
				Advice: "correct this first: every command needs a valid configuration",
			})
		}
		return findings, nil
	}
	if err != nil {
		return nil, err
	}
	files, err := raiseFiles()
	if err != nil {
		return nil, err
	}
	_, problems := check(set.Config, true)
	patient := admin.Patient{
		Config:   set.Config,
		Place:    set.place,
		Problems: problems,
		Secrets:  d.secretFiles(set, cmd.Flags()),
		MaxFiles: files,
	}
	return admin.Doctor(cmd.Context(), patient, admin.Options{Actor: d.actor(""), Given: set.given}), nil
}

// secretFiles lists the files of settings with a secret.
func (d doctorCommand) secretFiles(set settings, flags *pflag.FlagSet) (files []string) {
	if !set.place.Database.HasPassword() {
		return nil
	}
	if file := d.getenv("KEYTURN_DATABASE_FILE"); file != "" {
		return []string{file}
	}
	if path := d.configPath(flags); strings.HasPrefix(set.origins["database"], path+":") {
		return []string{path}
	}
	return nil
}

func (d doctorCommand) printFindings(findings []admin.Finding) {
	for _, f := range findings {
		fmt.Fprintf(d.stdout, "%-8s %s: %s\n", f.Status, f.Check, f.Found)
		if f.Advice != "" {
			fmt.Fprintf(d.stdout, "         -> %s\n", f.Advice)
		}
	}
}
