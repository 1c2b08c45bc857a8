package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyturn/keyturn/server"
)

// dress gives all commands their examples, one form of help, and --version.
func (a *app) dress(root *cobra.Command) {
	root.Version = server.Version().Version
	root.SetVersionTemplate("keyturn {{.Version}}\n")
	root.SetUsageFunc(usage)
	root.SetHelpCommand(&cobra.Command{
		Use:               "help [COMMAND]",
		Short:             "Print the help of a command",
		ValidArgsFunction: completeCommands,
		RunE:              func(cmd *cobra.Command, args []string) error { return helpOn(cmd.Root(), args) },
	})
	a.completeWord(root, "output", "text", "json")
	root.InitDefaultCompletionCmd("completion")
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		completion.Args = cobra.ArbitraryArgs
		completion.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{fmt.Errorf("completion: name a shell: %s", strings.Join(below(cmd), ", "))}
			}
			return unknownCommand(cmd, "completion: unknown shell", args[0])
		}
	}
	each(root, func(cmd *cobra.Command) {
		path := strings.TrimPrefix(cmd.CommandPath(), "keyturn ")
		cmd.Example = indent(verbExamples[path])
	})
}

// each calls do with a command and all below it.
func each(cmd *cobra.Command, do func(*cobra.Command)) {
	do(cmd)
	for _, c := range cmd.Commands() {
		each(c, do)
	}
}

func indent(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(text, "\n", "\n  ")
}

// helpOn prints the help of the command that the words name, below another.
func helpOn(cmd *cobra.Command, words []string) error {
	found, rest, err := cmd.Find(words)
	if err != nil || found == nil || len(rest) > 0 {
		return usageError{fmt.Errorf("help: there is no command %q", strings.Join(words, " "))}
	}
	found.InitDefaultHelpFlag()
	return found.Help()
}

func completeCommands(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	found, _, err := cmd.Root().Find(args)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, c := range found.Commands() {
		if c.IsAvailableCommand() && strings.HasPrefix(c.Name(), toComplete) {
			names = append(names, c.Name()+"\t"+c.Short)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// usage prints the usage of a command: its line, examples and verbs, then its own flags, and the settings by which it
// finds the database in a group of their own.
func usage(cmd *cobra.Command) error {
	w := cmd.OutOrStderr()
	fmt.Fprintln(w, "Usage:")
	if cmd.Runnable() && !cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "  %s\n", cmd.UseLine())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "  %s COMMAND\n\nCommands:\n", cmd.CommandPath())
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() || c.Name() == "help" {
				fmt.Fprintf(w, "  %-14s %s\n", c.Name(), c.Short)
			}
		}
	}
	if cmd.Example != "" {
		fmt.Fprintf(w, "\nExamples:\n%s\n", cmd.Example)
	}
	own, settings := pflag.NewFlagSet("", 0), pflag.NewFlagSet("", 0)
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if isSetting(f) || f.Name == "config" {
			settings.AddFlag(f)
		} else if cmd.InheritedFlags().Lookup(f.Name) == nil {
			own.AddFlag(f)
		}
	})
	printFlags(w, "Flags", own)
	printFlags(w, settingsHeading(cmd), settings)
	printFlags(w, "Flags of every command", cmd.InheritedFlags())
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "\n`%s help COMMAND` prints more about a command.\n", cmd.CommandPath())
	}
	return nil
}

// settingsHeading names the settings of a command: a server has all, other commands need them to find the database.
func settingsHeading(cmd *cobra.Command) string {
	if cmd.LocalFlags().Lookup("listen") != nil {
		return "Settings"
	}
	return "Connection flags"
}

func printFlags(w io.Writer, heading string, flags *pflag.FlagSet) {
	if text := flags.FlagUsagesWrapped(120); strings.TrimSpace(text) != "" {
		fmt.Fprintf(w, "\n%s:\n%s", heading, text)
	}
}

// hint names the help of the command that a wrong command line meant.
func hint(root *cobra.Command, args []string) string {
	found, _, err := root.Find(args)
	if err != nil || found == root {
		return "keyturn help"
	}
	if parent := found.Parent(); parent != root {
		return parent.CommandPath() + " help " + found.Name()
	}
	if found.HasAvailableSubCommands() {
		return found.CommandPath() + " help"
	}
	return "keyturn help " + found.Name()
}

// plainTerminal reports whether the environment asks for text without control sequences (https://no-color.org).
func plainTerminal() bool { return os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" }
