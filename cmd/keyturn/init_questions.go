package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/keyturn/keyturn/config"
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

// check checks one answer by itself.
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
	return text
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
func (i initCommand) ask(flags *pflag.FlagSet, folder string) error {
	set, _ := i.readSettings(flags, false) // the caller reports problems once it has all answers
	for _, q := range questions(folder) {
		if set.given[q.key] {
			continue
		}
		value, err := i.answer(q)
		if err != nil {
			return err
		}
		if err := flags.Set(q.flag(), value); err != nil {
			return usageError{err}
		}
	}
	return nil
}

// answer asks one question on the terminal until the answer is valid.
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
		fmt.Fprint(i.stderr, q.prompt())
		line, err := i.typed.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("init: %w", err)
		}
		text := q.value(strings.TrimSpace(line))
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
