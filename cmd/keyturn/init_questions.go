package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/storage"
)

// question asks for a setting of a first configuration.
type question struct{ key, ask, standard string }

// flag is the flag of the setting.
func (q question) flag() string { return strings.ReplaceAll(q.key, "_", "-") }

// prompt is the question with its standard answer.
func (q question) prompt() string {
	if q.standard == "" {
		return q.ask + ": "
	}
	return q.ask + " [" + q.standard + "]: "
}

// check checks one answer by itself. The answers together are checked at the end.
func (q question) check(text string) error {
	switch q.key {
	case "issuer":
		return config.CheckIssuer(text)
	case "behind_proxy":
		if text != "true" && text != "false" {
			return errors.New("want yes or no")
		}
	case "database":
		source, err := storage.ParseSource(text, false)
		if err == nil && source.File() != "" {
			_, err = os.Stat(filepath.Dir(source.File()))
		}
		return err
	}
	return nil
}

var yesNo = map[string]string{
	"yes": "true",
	"y":   "true",
	"no":  "false",
	"n":   "false",
}

// value converts an answer to the value of the setting.
func (q question) value(text string) string {
	if answer, ok := yesNo[strings.ToLower(text)]; ok && q.key == "behind_proxy" {
		return answer
	}
	if q.key == "issuer" {
		return asURL(text)
	}
	return text
}

// asURL adds the scheme to a host, as people type it.
func asURL(text string) string {
	if text == "" || strings.Contains(text, "://") {
		return text
	}
	host, _, _ := strings.Cut(text, "/")
	for _, scheme := range []string{"http://", "https://"} { // http is for a loopback host only
		if config.CheckIssuer(scheme+host) == nil {
			return scheme + text
		}
	}
	return "https://" + text
}

func questions(folder string) []question {
	return []question{
		{"issuer", "URL under which clients and resource servers reach this server", ""},
		{"listen", "Address of the public listener", "127.0.0.1:8080"},
		{"behind_proxy", "Does a proxy in front terminate TLS (yes, no)", "no"},
		{
			"database",
			"Database, sqlite:FILE or postgres://USER@HOST/NAME?sslmode=verify-full",
			"sqlite:" + filepath.Join(folder, "keyturn.db"),
		},
		{"master_key_file", "File of the master key", filepath.Join(folder, "keyturn-master.key")},
	}
}

// ask asks for each setting that has no value yet, and sets its flag. Without a terminal it takes the standard answers.
// On a terminal it asks again for what is wrong, until nothing is.
func (i initCommand) ask(flags *pflag.FlagSet, folder string) error {
	if issuer := flags.Lookup("issuer"); issuer.Changed {
		if err := flags.Set("issuer", asURL(issuer.Value.String())); err != nil {
			return err
		}
	}
	set, _ := i.readSettings(flags, false) // the caller reports problems once it has all answers
	open := questions(folder)
	open = slices.DeleteFunc(open, func(q question) bool { return set.given[q.key] })
	for again := open; len(again) > 0; {
		for _, q := range again {
			value, err := i.answer(q)
			if err != nil {
				return err
			}
			if err := flags.Set(q.flag(), value); err != nil {
				i.say("%s: %v", q.ask, err)
			}
		}
		if !i.asks() {
			return nil
		}
		again = i.wrong(flags, open)
	}
	return nil
}

// wrong prints the problems of the answers, and returns the questions to ask again.
func (i initCommand) wrong(flags *pflag.FlagSet, asked []question) (again []question) {
	_, err := i.readSettings(flags, true)
	var bad *config.Error
	if !errors.As(err, &bad) {
		return nil
	}
	for _, problem := range bad.Problems {
		i.say("%v", problem)
		for _, q := range asked {
			if namesKey(problem.Error(), q.key) && !slices.Contains(again, q) {
				again = append(again, q)
			}
		}
	}
	return again
}

// answer asks one question on the terminal.
func (i initCommand) answer(q question) (string, error) {
	f, ok := i.terminal()
	if !ok {
		if q.standard == "" {
			return "", usageError{fmt.Errorf("init: no terminal for questions: set --%s, or --answers FILE", q.flag())}
		}
		return q.value(q.standard), nil
	}
	if i.typed == nil {
		i.typed = bufio.NewReader(f)
	}
	for {
		line, err := i.typeLine(q.prompt())
		if err != nil {
			return "", fmt.Errorf("init: %w", err)
		}
		text := q.value(line)
		switch err := errors.Join(checkWord(text), q.check(text)); {
		case text == "" && q.standard != "":
			return q.value(q.standard), nil
		case text == "":
		case err != nil:
			i.say("%v", err)
		default:
			return i.withPassword(text)
		}
	}
}

// withPassword asks, without echo, for the password of a PostgreSQL URL that names a user and no password.
func (i initCommand) withPassword(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil ||
		u.User == nil ||
		u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return text, nil
	}
	if _, given := u.User.Password(); given {
		return text, nil
	}
	f, _ := i.terminal()
	fmt.Fprintf(i.stderr, "Password of %s (Enter for none): ", u.User.Username())
	password, err := readUnseen(f)
	fmt.Fprintln(i.stderr)
	if err != nil {
		return "", err
	}
	if err := checkText(password); err != nil {
		return "", fmt.Errorf("init: password of the database: %w", err)
	}
	if len(password) > 0 {
		u.User = url.UserPassword(u.User.Username(), string(password))
	}
	return u.String(), nil
}
