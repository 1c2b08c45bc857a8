package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
	"golang.org/x/term"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

func (a *app) initCommand() *cobra.Command {
	var path, answers string
	c := &cobra.Command{
		Use:   "init",
		Short: "Write a configuration and a master key, and check the database; what is there already stays",
		Args:  cobra.NoArgs,
	}
	addSettings(c.Flags(), config.ScopeServe)
	c.Flags().StringVar(&path, "file", "keyturn.yaml", "the configuration to write")
	c.Flags().StringVar(&answers, "answers", "", "YAML file with settings, in place of questions")
	c.RunE = func(c *cobra.Command, _ []string) error {
		path, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		written := false
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
			if err := a.firstConfiguration(c.Flags(), path, answers); err != nil {
				return err
			}
			written = true
		}
		return a.finishInit(c.Context(), path, written)
	}
	return c
}

// firstConfiguration asks for what flags, environment and answers do not say, and writes the file.
func (a *app) firstConfiguration(flags *pflag.FlagSet, path, answers string) error {
	if _, _, problems := readConfigFile(answers); problems != nil { // before anything is asked
		return &config.Error{Problems: problems}
	}
	if err := flags.Set("config", answers); err != nil {
		return err
	}
	if err := a.answer(flags, filepath.Dir(path)); err != nil {
		return err
	}
	set, err := a.settings(flags, true)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, a.commented(set.Config))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	a.say("%s: written", path)
	return nil
}

// question is a setting that a first configuration needs.
type question struct{ key, ask, standard string }

// check looks at one answer; all of them together are looked at later.
func (q question) check(text string) error {
	switch q.key {
	case "issuer":
		return config.CheckIssuer(text)
	case "behind_proxy":
		if text != "true" && text != "false" {
			return errors.New("yes or no")
		}
	}
	return nil
}

// withPassword asks, without echo, for the password of a PostgreSQL database that names a user and no password.
func (a *app) withPassword(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.User == nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return text, nil
	}
	if _, given := u.User.Password(); given {
		return text, nil
	}
	f := a.stdin.(*os.File) // a terminal, since somebody has typed
	fmt.Fprintf(a.stderr, "Password of %s (Enter for none): ", u.User.Username())
	password, err := readUnseen(int(f.Fd()))
	fmt.Fprintln(a.stderr)
	if bad := checkText(password); err == nil && bad != nil {
		return "", fmt.Errorf("init: password of the database: %w", bad)
	}
	if err == nil && len(password) > 0 {
		u.User = url.UserPassword(u.User.Username(), string(password))
	}
	return u.String(), err
}

// answer asks on the terminal for what has no answer yet, and without a terminal takes what is usual.
func (a *app) answer(flags *pflag.FlagSet, folder string) error {
	a.settings(flags, false) // its problems are told once all answers are there
	for _, q := range []question{
		{"issuer", "URL under which clients and resource servers reach this server", ""},
		{"listen", "Address of the public listener", "127.0.0.1:8080"},
		{"behind_proxy", "Does a proxy in front end TLS (yes, no)", "no"},
		{"database", "Database, sqlite:FILE or postgres://USER@HOST/NAME?sslmode=verify-full",
			"sqlite:" + filepath.Join(folder, "keyturn.db")},
		{"master_key_file", "File of the master key", filepath.Join(folder, "keyturn-master.key")},
	} {
		if a.given[q.key] {
			continue
		}
		text, err := a.askOnTerminal(q)
		if err != nil {
			return err
		}
		if err := flags.Set(strings.ReplaceAll(q.key, "_", "-"), text); err != nil {
			return usageError{err}
		}
	}
	return nil
}

// askOnTerminal asks a person. Where there is none, an answer that is usual will do.
func (a *app) askOnTerminal(q question) (string, error) {
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		if q.standard == "" {
			return "", usageError{
				fmt.Errorf("init: there is no terminal to ask on: --%s, or --answers FILE", strings.ReplaceAll(q.key, "_", "-")),
			}
		}
		return plainAnswer(q.standard), nil
	}
	if a.typed == nil {
		a.typed = bufio.NewReader(f)
	}
	for {
		prompt := q.ask
		if q.standard != "" {
			prompt += " [" + q.standard + "]"
		}
		fmt.Fprint(a.stderr, prompt+": ")
		line, err := a.typed.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("init: %w", err)
		}
		text := strings.TrimSpace(line)
		if answer, ok := map[string]string{"yes": "true", "y": "true", "no": "false",
			"n": "false"}[strings.ToLower(text)]; ok &&
			q.key == "behind_proxy" {
			text = answer
		}
		if err := errors.Join(checkWord(text), q.check(text)); text != "" && err != nil {
			a.say("%v", err)
			continue
		}
		if text != "" {
			return a.withPassword(text)
		}
		if q.standard != "" {
			return plainAnswer(q.standard), nil
		}
	}
}

// plainAnswer is an answer as settings have it.
func plainAnswer(text string) string {
	if text == "no" {
		return "false"
	}
	return text
}

// commented is the configuration as a file that explains itself: every setting, those with their default as comments.
func (a *app) commented(c config.Config) string {
	var b strings.Builder
	b.WriteString("# Configuration of keyturn. A flag or KEYTURN_* in the environment wins over it.\n")
	for _, s := range config.Settings {
		text, _ := yaml.Marshal(map[string]any{s.Key: textOf(s.Value(c))})
		line := strings.TrimRight(string(text), "\n")
		if s.Key == "database" && strings.HasPrefix(a.origins[s.Key], "file ") { // its password stays where it is
			line = "# database: from " + a.origins[s.Key] + ", which must stay set"
		} else if !a.given[s.Key] {
			line = "# " + line
		}
		reload := ""
		if s.Reload {
			reload = " (SIGHUP reads it again)"
		}
		fmt.Fprintf(&b, "\n# %s%s\n%s\n", s.Help, reload, line)
	}
	return b.String()
}

// finishInit makes the master key if there is none, opens the database, and tells what to do next.
func (a *app) finishInit(ctx context.Context, path string, written bool) error {
	flags := pflag.NewFlagSet("init", pflag.ContinueOnError)
	addSettings(flags, config.ScopeServe)
	if err := flags.Set("config", path); err != nil {
		return err
	}
	set, err := a.settings(flags, true)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	made, err := set.place.MakeMasterKey()
	if err != nil {
		return err
	}
	if made {
		a.say("%s: made, mode 0600: keep a copy apart from the database", set.place.MasterKeyFile)
	}
	_, missing := os.Stat(set.place.Database.File())
	adm, err := admin.Open(
		ctx,
		set.Config,
		set.place,
		admin.Options{Actor: a.actor(), Reason: "init", Create: true, Given: a.given},
	)
	if err != nil {
		return fmt.Errorf(
			"%s and the master key are there, but the database is not ready: %w; then run init again",
			path,
			err,
		)
	}
	defer adm.Close()
	schema, err := adm.SchemaStatus(ctx)
	if err != nil {
		return err
	}
	a.say("%s: schema %d", set.place.Database, schema.Version)
	if !written && !made && (missing == nil || set.place.Database.File() == "") {
		a.say("%s was there, and everything it names: nothing was changed", path)
	}
	a.nextCommands(path)
	return nil
}

func (a *app) nextCommands(path string) {
	fmt.Fprintf(a.stdout, `# Next: a client, a resource server and a user, then the server.
export KEYTURN_CONFIG=%s
keyturn client create app --grant password --grant refresh_token --scope "read write" --audience https://api.example.com
keyturn client create api --resource https://api.example.com
keyturn user create alice --role admin
keyturn serve
keyturn doctor
`, path)
}
