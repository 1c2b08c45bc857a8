package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/storage"
)

// initCommand is keyturn init.
type initCommand struct{ *app }

func (i initCommand) root() *cobra.Command {
	var path, answers string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a configuration and a master key, and check the database; existing files stay",
		Args:  cobra.NoArgs,
	}
	addSettings(cmd.Flags(), config.ScopeServe)
	cmd.Flags().StringVar(&path, "file", "keyturn.yaml", "configuration file to write")
	cmd.Flags().StringVar(&answers, "answers", "", "YAML file with settings that answer the questions")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		written := false
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
			if err := i.writeConfiguration(cmd.Flags(), path, answers); err != nil {
				i.keepAnswers(cmd.Flags(), err)
				return err
			}
			written = true
		} else if err := i.differences(cmd.Flags(), path, answers); err != nil {
			return err
		}
		err = i.finish(cmd.Context(), path, written)
		if err != nil && written && i.asks() {
			i.say("Your answers are in %s: correct them there and run init again, or remove the file to answer again.",
				path)
		}
		return err
	}
	return cmd
}

// writeConfiguration asks for the settings that flags, environment and answers lack, and writes the file.
func (i initCommand) writeConfiguration(flags *pflag.FlagSet, path, answers string) error {
	if problems := readConfigFile(answers).problems; problems != nil { // before the first question
		return &config.Error{Problems: problems}
	}
	if err := flags.Set("config", answers); err != nil {
		return err
	}
	if err := i.ask(flags, filepath.Dir(path)); err != nil {
		return err
	}
	set, err := i.readSettings(flags, true)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, set.commented())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	i.say("%s: written", path)
	return nil
}

// keepAnswers prints the command that gives the same answers again, after a failure that they did not cause.
func (i initCommand) keepAnswers(flags *pflag.FlagSet, err error) {
	var bad *config.Error
	var usage usageError
	if !i.asks() || errors.As(err, &bad) || errors.As(err, &usage) {
		return
	}
	words := []string{"keyturn", "init"}
	flags.Visit(func(f *pflag.Flag) {
		value := f.Value.String()
		if f.Name == "database" {
			if source, err := storage.ParseSource(value, true); err == nil {
				value = source.String() // without its password
			}
		}
		if value != "" {
			words = append(words, "--"+f.Name, "'"+strings.ReplaceAll(value, "'", `'\''`)+"'")
		}
	})
	i.say("Your answers, for another try: %s", strings.Join(words, " "))
}

// differences prints the answers of this run that an existing configuration file does not have.
func (i initCommand) differences(flags *pflag.FlagSet, path, answers string) error {
	given := newLayers()
	given.add(readConfigFile(answers))
	given.add(i.environment())
	given.add(flagLayer(flags))
	if given.problems != nil {
		return &config.Error{Problems: given.problems}
	}
	in := readConfigFile(path)
	wanted, _ := config.Parse(given.values)
	have, _ := config.Parse(in.values)
	for _, s := range config.Settings {
		if _, ok := given.values[s.Key]; !ok || s.Key == "database" && wanted.Database == have.Database {
			continue
		}
		before, after := s.Value(have), s.Value(wanted)
		if s.Key == "database" {
			before, after = withoutPassword(have.Database), withoutPassword(wanted.Database)
		}
		if s.Key == "issuer" {
			after = asURL(wanted.Issuer)
		}
		if !reflect.DeepEqual(before, after) {
			i.say("%s: %s has %v, and %s has %v. The file stays: edit it if you want the other value.",
				s.Key, path, before, given.origins[s.Key], after)
		}
	}
	return nil
}

// withoutPassword returns the setting of a database without its password.
func withoutPassword(database string) string {
	source, err := storage.ParseSource(database, true)
	if err != nil {
		return "another database"
	}
	return source.String()
}

// commented is a configuration file with all settings and their manual. Settings with their default are comments.
func (s settings) commented() string {
	var b strings.Builder
	b.WriteString("# Configuration of keyturn. Flags and KEYTURN_* variables override it.\n")
	for _, setting := range config.Settings {
		key := setting.Key
		line := yamlLine(key, setting.Value(s.Config))
		if key == "database" && strings.HasPrefix(s.origins[key], "file ") { // do not copy its password
			line = "# database: from " + s.origins[key] + ", which must stay set"
		} else if !s.given[key] {
			line = "# " + line
		}
		reload := ""
		if setting.Reload {
			reload = " (SIGHUP reads it again)"
		}
		fmt.Fprintf(&b, "\n# %s%s\n%s\n", setting.Help, reload, line)
	}
	return b.String()
}

// finish makes the master key if there is none, opens the database, and prints the next commands.
func (i initCommand) finish(ctx context.Context, path string, written bool) error {
	flags := pflag.NewFlagSet("init", pflag.ContinueOnError)
	addSettings(flags, config.ScopeServe)
	if err := flags.Set("config", path); err != nil {
		return err
	}
	set, err := i.readSettings(flags, true)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	made, err := set.place.MakeMasterKey()
	if err != nil {
		return err
	}
	if made {
		i.say("%s: created with mode 0600; keep a copy apart from the database", set.place.MasterKeyFile)
	}
	file := set.place.Database.File()
	_, missing := os.Stat(file)
	opened, err := admin.Open(ctx, set.Config, set.place, admin.Options{
		Actor:   i.actor(""),
		Reason:  "init",
		Create:  true,
		Migrate: true,
		Given:   set.given,
	})
	if err != nil {
		return fmt.Errorf("%s and the master key exist, but the database is not ready; run init again: %w", path, err)
	}
	defer opened.Close()
	schema, err := opened.SchemaStatus(ctx)
	if err != nil {
		return err
	}
	i.say("%s: schema %d", set.place.Database, schema.Version)
	if databaseExisted := missing == nil || file == ""; databaseExisted &&
		!written &&
		!made {
		i.say("%s and everything that it names exist: nothing was changed", path)
	}
	i.nextCommands(path)
	return nil
}

func (i initCommand) nextCommands(path string) {
	fmt.Fprintf(i.stdout, `# Next: a client, a resource server and a user, then the server.
export KEYTURN_CONFIG=%s
keyturn client create app --grant password --grant refresh_token --scope "read write" --audience https://api.example.com
keyturn client create api --resource https://api.example.com
keyturn user create alice --role admin
keyturn serve
keyturn doctor
`, path)
}
