package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

// app is what all commands share. The commands of a noun are methods of a type of their own that embeds it.
type app struct {
	*console
	sources
	output string // --output
	parsed bool   // arguments and flags are valid
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:               "keyturn",
		Short:             "An OAuth 2.0 token server that rotates its signing keys",
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: a.parse,
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print data as JSON")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "", "format of data: text or json")
	root.AddCommand(
		devCommand{a}.root(),
		serveCommand{a}.root(),
		clientCommands{a}.root(),
		userCommands{a}.root(),
		grantCommands{a}.root(),
		keyCommands{a}.root(),
		auditCommands{a}.root(),
		exampleCommand{a}.root(),
		doctorCommand{a}.root(),
		healthcheckCommand(a),
		initCommand{a}.root(),
		migrateCommands{a}.root(),
		backupCommand(a),
		restoreCommand(a),
		copyCommand{a}.root(),
		configCommands{a}.root(),
		versionCommand(a),
	)
	return root
}

// parse checks what every command line must keep, before its command runs.
func (a *app) parse(cmd *cobra.Command, args []string) error {
	if err := checkCommandLine(cmd, args); err != nil {
		return err
	}
	if a.output != "" &&
		a.output != "json" &&
		a.output != "text" {
		return usageError{fmt.Errorf("--output: %q is neither text nor json", a.output)}
	}
	a.json = a.json || a.output == "json"
	a.parsed = true
	return nil
}

// noun makes a command that only holds verbs.
func noun(name, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   name,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usageError{fmt.Errorf("%s: a verb is missing", name)}
		},
	}
	cmd.AddCommand(verbs...)
	return cmd
}

// verb describes a command that acts on the database as an administrator.
type verb struct {
	use, short string
	args       cobra.PositionalArgs
	create     bool // the command may create the database
	act        func(ctx context.Context, op *operator, args []string) error
}

// operator is the administrator that runs one command.
type operator struct {
	*admin.Admin
	reason string // --reason
}

// needReason requires --reason.
func (o *operator) needReason() error {
	if o.reason == "" {
		return usageError{errors.New("--reason is missing: the audit trail keeps it")}
	}
	return nil
}

// verb makes the command of a verb. It has the flags of the database and --reason.
func (a *app) verb(v verb) *cobra.Command {
	cmd := &cobra.Command{Use: v.use, Short: v.short, Args: v.args}
	addSettings(cmd.Flags(), config.ScopeDatabase)
	reason := addReason(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		set, err := a.readSettings(cmd.Flags(), false)
		if err != nil {
			return err
		}
		options := a.adminOptions(set, *reason)
		options.Create = v.create
		opened, err := admin.Open(cmd.Context(), set.Config, set.place, options)
		if err != nil {
			return err
		}
		defer opened.Close()
		defer opened.Remember(context.WithoutCancel(cmd.Context()))
		return v.act(cmd.Context(), &operator{opened, *reason}, args)
	}
	return cmd
}

// addReason adds the flag --reason.
func addReason(cmd *cobra.Command) *string {
	return cmd.Flags().String("reason", "", "reason of the change, for the audit trail")
}

// adminOptions are the options of a command that the operating-system user runs.
func (a *app) adminOptions(set settings, reason string) admin.Options {
	return admin.Options{
		Actor:  actor(),
		Reason: reason,
		Given:  set.given,
		Say:    a.say,
	}
}

// actor is the operating-system user.
func actor() string {
	u, err := user.Current()
	if err != nil {
		return fmt.Sprintf("os:%d", os.Getuid())
	}
	return "os:" + u.Username
}
