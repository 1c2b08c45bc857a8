package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commands calls do with every command that does something.
func commands(do func(cmd *cobra.Command)) {
	a := &app{
		streams: &streams{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}},
		sources: sources{getenv: func(string) string { return "" }},
	}
	each(a.root(), func(cmd *cobra.Command) {
		ofLibrary := cmd.Name() == "help" || strings.HasPrefix(cmd.CommandPath(), "keyturn completion")
		if !ofLibrary && !cmd.HasSubCommands() {
			do(cmd)
		}
	})
}

// Each command has two to four examples, which are commands that it understands.
func TestExamplesInHelp(t *testing.T) {
	t.Parallel()
	seen := 0
	commands(func(cmd *cobra.Command) {
		seen++
		path := cmd.CommandPath()
		lines := strings.Split(strings.TrimSpace(cmd.Example), "\n")
		if len(lines) < 2 || len(lines) > 4 {
			t.Errorf("%s: %d examples", path, len(lines))
		}
		for _, line := range lines {
			line, _, _ = strings.Cut(line, " | ")
			line, _, _ = strings.Cut(line, " > ")
			line, _, _ = strings.Cut(line, " < ")
			words := splitWords(line)
			if !strings.HasPrefix(strings.Join(words, " ")+" ", path+" ") {
				t.Errorf("%s: %q is another command", path, line)
				continue
			}
			rest := words[len(strings.Fields(path)):]
			if err := cmd.ParseFlags(rest); err != nil {
				t.Errorf("%q: %v", line, err)
			} else if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
				t.Errorf("%q: %v", line, err)
			}
		}
	})
	if seen != len(verbExamples) {
		t.Errorf("%d commands, and examples of %d", seen, len(verbExamples))
	}
}

// splitWords splits a command line, as a shell does with double quotes.
func splitWords(line string) (words []string) {
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}

// Help groups the settings that find the database, and offers no reason where nothing changes.
func TestHelpHasGroups(t *testing.T) {
	t.Parallel()
	commands(func(cmd *cobra.Command) {
		var text bytes.Buffer
		cmd.SetOut(&text)
		if err := usage(cmd); err != nil {
			t.Fatal(err)
		}
		settings := false
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) { settings = settings || isSetting(f) && !f.Hidden })
		named := strings.Contains(text.String(), "Connection flags:") || strings.Contains(text.String(), "\nSettings:")
		if settings != named {
			t.Errorf("%s: settings %v, grouped %v", cmd.CommandPath(), settings, named)
		}
		reads := strings.Contains(" list show status timeline verify export inspect ", " "+cmd.Name()+" ")
		if reads && strings.Contains(text.String(), "--reason") {
			t.Errorf("%s offers a reason", cmd.CommandPath())
		}
	})
}
