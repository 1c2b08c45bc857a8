package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
)

// app is what all commands share. The commands of a noun are methods of a type of their own that embeds it.
type app struct {
	*streams
	sources
	output string // --output
	parsed bool   // arguments and flags are valid
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "keyturn",
		Short:         "An OAuth 2.0 token server that rotates its signing keys",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, "unknown command", args[0])
		},
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
		verifierCommands{a}.root(),
		probeCommand{a}.root(),
		auditCommands{a}.root(),
		adminCommands{a}.root(),
		exampleCommand{a}.root(),
		doctorCommand{a}.root(),
		healthcheckCommand(a),
		initCommand{a}.root(),
		migrateCommands{a}.root(),
		backupCommand(a),
		restoreCommand(a),
		copyCommand{a}.root(),
		configCommands{a}.root(),
		tokenCommands{a}.root(),
		versionCommand(a),
	)
	root.SetFlagErrorFunc(flagError)
	a.dress(root)
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

// flagError adds to the error of an unknown flag the flag that was meant.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return err
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := admin.Nearest(unknown.GetSpecifiedName(), names); near != "" {
		return fmt.Errorf("%w: did you mean --%s?", err, near)
	}
	return err
}

// noun makes a command that only holds verbs.
func noun(name, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: name, Short: short, Args: cobra.ArbitraryArgs}
	cmd.AddCommand(verbs...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return usageError{fmt.Errorf("%s: a verb is missing: %s", name, strings.Join(below(cmd), ", "))}
		case args[0] == "help":
			return helpOn(cmd, args[1:])
		}
		return unknownCommand(cmd, name+": unknown verb", args[0])
	}
	return cmd
}

// below lists the commands below another, in order.
func below(cmd *cobra.Command) (names []string) {
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// unknownCommand reports a word that is no command below another.
func unknownCommand(cmd *cobra.Command, what, word string) error {
	if near := admin.Nearest(word, below(cmd)); near != "" {
		return usageError{fmt.Errorf("%s %q: did you mean %q?", what, word, near)}
	}
	return usageError{fmt.Errorf("%s %q: want %s", what, word, strings.Join(below(cmd), ", "))}
}

// verb describes a command that acts on the database as an administrator.
type verb struct {
	use, short string
	args       cobra.PositionalArgs
	complete   completion
	files      bool // the arguments are names of files
	reads      bool // the command changes nothing
	create     bool // the command may create the database
	migrate    bool // the command may update the schema
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

// verb makes the command of a verb. It has the flags of the database, and those of whoever changes something.
func (a *app) verb(v verb) *cobra.Command {
	cmd := &cobra.Command{
		Use:               v.use,
		Short:             v.short,
		ValidArgsFunction: a.completeArgs(v.complete),
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := v.args(cmd, args); err != nil {
			return fmt.Errorf("want `%s`, not %d arguments", cmd.UseLine(), len(args))
		}
		return nil
	}
	if v.files {
		cmd.ValidArgsFunction = nil
	}
	addSettings(cmd.Flags(), config.ScopeDatabase)
	by := addActor(cmd, v.reads)
	yes := false
	if v.create && !v.migrate {
		cmd.Flags().BoolVar(&yes, "yes", false, "create a missing database without asking")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		set, err := a.readSettings(cmd.Flags(), false)
		if err != nil {
			return err
		}
		if !isWord(by.actor) {
			return usageError{errors.New("--actor: want a name on one line, without control characters")}
		}
		options := a.adminOptions(set, *by)
		options.Create, options.Migrate = v.create, v.migrate
		made := func() {}
		if v.create {
			if made, err = a.beforeCreation(cmd.Context(), set.place, yes || v.migrate); err != nil {
				return err
			}
		}
		opened, err := admin.Open(cmd.Context(), set.Config, set.place, options)
		if err != nil {
			return err
		}
		made()
		defer opened.Close()
		defer opened.Remember(context.WithoutCancel(cmd.Context()))
		return v.act(cmd.Context(), &operator{opened, by.reason}, args)
	}
	return cmd
}

// beforeCreation asks on a terminal before a command creates a database. made prints what was created.
func (a *app) beforeCreation(ctx context.Context, p keys.Place, yes bool) (made func(), err error) {
	fresh, err := admin.Missing(ctx, p)
	if err != nil || len(fresh) == 0 {
		return func() {}, nil // Open reports the error
	}
	if a.asks() && !yes {
		question := fmt.Sprintf("There is no %s yet. Create it? Type yes: ", strings.Join(fresh, ", and no "))
		if err := a.ask(question); err != nil {
			return nil, err
		}
	}
	return func() {
		for _, what := range fresh {
			a.say("Created %s.", what)
		}
		a.say("Back up the database and the master key, apart from each other: neither is of use without the other.")
	}, nil
}

// who is who runs a command, and why.
type who struct{ actor, reason string }

// addActor adds the flags of a command that changes something. One that only reads still accepts a reason.
func addActor(cmd *cobra.Command, reads bool) *who {
	w := &who{}
	cmd.Flags().StringVar(&w.reason, "reason", "", "reason of the change, for the audit trail")
	if reads {
		cmd.Flags().Lookup("reason").Hidden = true
		return w
	}
	cmd.Flags().StringVar(&w.actor, "actor", "", "name of the automation that makes the change, for the audit trail "+
		"(default: the person who is logged in)")
	return w
}

// adminOptions are the options of a command that somebody runs.
func (a *app) adminOptions(set settings, by who) admin.Options {
	return admin.Options{
		Actor:  a.actor(by.actor),
		Reason: by.reason,
		Given:  set.given,
		Say:    a.say,
	}
}

// isWord reports whether a text fits one line of a list.
func isWord(text string) bool {
	return api.IsText(text) && !strings.ContainsFunc(text, unicode.IsControl)
}

// actor names who runs the command in the audit trail: os:NAME for a person, whom sudo names, or else the user of the
// process. A given name stands beside the user and the user id of the process.
func (a *app) actor(given string) string {
	name := strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if given != "" {
		return fmt.Sprintf("%s (os:%s, uid %d)", given, name, os.Getuid())
	}
	if sudo := a.getenv("SUDO_USER"); sudo != "" && isWord(sudo) {
		name = sudo
	}
	return "os:" + name
}
