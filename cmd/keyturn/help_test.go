package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
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
			if is, err := understands(cmd, line); err != nil || !is {
				t.Errorf("%s: %q: is it %v, error %v", path, line, is, err)
			}
		}
	})
	if seen != len(verbExamples) {
		t.Errorf("%d commands, and examples of %d", seen, len(verbExamples))
	}
}

// understands reports whether a line is for a command, and what is wrong with its flags and arguments.
func understands(cmd *cobra.Command, line string) (is bool, err error) {
	words, path := splitWords(line), cmd.CommandPath()
	if !strings.HasPrefix(strings.Join(words, " ")+" ", path+" ") {
		return false, nil
	}
	if err := cmd.ParseFlags(words[len(strings.Fields(path)):]); err != nil {
		return true, err
	}
	return true, cmd.ValidateArgs(cmd.Flags().Args())
}

// Each form of the console shows the line that does the same, and it is one that keyturn understands.
func TestLinesInTheConsole(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../console/pages/*.html")
	if err != nil || len(files) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	shown := regexp.MustCompile(`template "(cli|cli-change)" \(?(?:printf )?"(keyturn [^"]*)"`)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range strings.Split(string(text), `$.Form `)[1:] {
			if !strings.Contains(form, `template "cli-change"`) {
				t.Errorf("%s: a form without the line that does the same: %.60s", file, form)
			}
		}
		for _, found := range shown.FindAllStringSubmatch(string(text), -1) {
			line := strings.ReplaceAll(found[2], "%s", "x")
			if found[1] == "cli-change" {
				line += ` --reason "x"`
			}
			known := false
			commands(func(cmd *cobra.Command) {
				is, err := understands(cmd, line)
				if known = known || is; err != nil {
					t.Errorf("%s: %q: %v", file, line, err)
				}
			})
			if !known {
				t.Errorf("%s: %q is no command", file, line)
			}
		}
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
