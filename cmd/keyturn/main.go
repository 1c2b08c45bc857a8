// Command keyturn is an OAuth 2.0 token server: `keyturn dev` to try it, `keyturn serve` to run it, and a noun and a
// verb for everything that people change: clients, users, grants, keys.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"os/user"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
)

// Exit codes.
const (
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitRefused  = 4 // by a safety guard; --force overrides
	exitConflict = 5
	exitConfig   = 78
)

func main() {
	if err := noCore(); err != nil {
		fmt.Fprintf(os.Stderr, "keyturn: %v\n", err)
		os.Exit(exitFailed)
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Getenv, os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program: it returns the exit code.
func run(
	ctx context.Context,
	args []string,
	getenv func(string) string,
	environ []string,
	stdin io.Reader,
	stdout, stderr io.Writer,
) int {
	a := &app{getenv: getenv, environ: environ, stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	defer a.flush()
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	a.explain(err)
	return a.exitCode(err)
}

// app is what the commands share.
type app struct {
	getenv         func(string) string
	environ        []string // NAME=VALUE, what getenv knows
	stdin          io.Reader
	stdout, stderr io.Writer
	began          bool // arguments and flags were understood
	json           bool
	output         string
	reason         string
	given          map[string]bool   // settings that were given, by whatever source
	origins        map[string]string // of those: which
	typed          *bufio.Reader     // what a person types
}

// usageError says that a command was given something that it does not take.
type usageError struct{ error }

func (a *app) explain(err error) {
	var bad *config.Error
	var told checkStatus
	if errors.As(err, &told) {
		return
	}
	if errors.As(err, &bad) {
		for _, problem := range bad.Problems {
			fmt.Fprintf(a.stderr, "keyturn: %v\n", problem)
		}
		return
	}
	fmt.Fprintf(a.stderr, "keyturn: %v\n", err)
	if a.exitCode(err) == exitUsage {
		fmt.Fprintln(a.stderr, "keyturn: `keyturn help COMMAND` tells what a command takes")
	}
}

func (a *app) exitCode(err error) int {
	var bad *config.Error
	var unfit *keys.UnfitError
	var usage usageError
	var refused refusedError
	var check checkStatus
	switch {
	case errors.As(err, &check):
		return int(check)
	case errors.As(err, &bad), errors.As(err, &unfit):
		return exitConfig
	case !a.began, errors.As(err, &usage), errors.Is(err, admin.ErrInvalid):
		return exitUsage
	case errors.Is(err, admin.ErrNotFound):
		return exitNotFound
	case admin.ErrRefused(err), errors.As(err, &refused):
		return exitRefused
	case errors.Is(err, admin.ErrConflict):
		return exitConflict
	default:
		return exitFailed
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "keyturn",
		Short:         "An OAuth 2.0 token server whose signing keys turn",
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(c *cobra.Command, args []string) error {
			if err := checkCommandLine(c, args); err != nil {
				return err
			}
			if a.output != "" && a.output != "json" && a.output != "text" {
				return usageError{fmt.Errorf("--output: %q is neither text nor json", a.output)}
			}
			a.json = a.json || a.output == "json"
			a.began = true
			return nil
		},
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print data as JSON")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "", "how to print data: text or json")
	root.AddCommand(
		a.devCommand(),
		a.serveCommand(),
		a.clientCommand(),
		a.userCommand(),
		a.grantCommand(),
		a.keysCommand(),
		a.auditCommand(),
		a.exampleCommand(),
		a.doctorCommand(),
		a.healthcheckCommand(),
		a.initCommand(),
		a.migrateCommand(),
		a.backupCommand(),
		a.restoreCommand(),
		a.copyCommand(),
		a.configCommand(),
		a.versionCommand(),
	)
	return root
}

// noun makes a command that only holds verbs.
func noun(name, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		return usageError{fmt.Errorf("%s: a verb is missing", name)}
	}}
	c.AddCommand(verbs...)
	return c
}

// verb makes a command that acts on database and keys as an administrator. With create it may make a database that is
// not there yet.
func (a *app) verb(
	use, short string,
	args cobra.PositionalArgs,
	create bool,
	act func(context.Context, *admin.Admin, []string) error,
) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: args}
	addSettings(c.Flags(), config.ScopeDatabase)
	c.Flags().StringVar(&a.reason, "reason", "", "why, for the audit trail")
	c.RunE = func(c *cobra.Command, args []string) error {
		set, err := a.settings(c.Flags(), false)
		if err != nil {
			return err
		}
		adm, err := admin.Open(
			c.Context(),
			set.Config,
			set.place,
			admin.Options{Actor: a.actor(), Reason: a.reason, Create: create, Given: a.given, Say: a.say},
		)
		if err != nil {
			return err
		}
		defer adm.Close()
		defer adm.Remember(context.WithoutCancel(c.Context()))
		return act(c.Context(), adm, args)
	}
	return c
}

// actor is the operating-system user.
func (a *app) actor() string {
	u, err := user.Current()
	if err != nil {
		return fmt.Sprintf("os:%d", os.Getuid())
	}
	return "os:" + u.Username
}

// readSecret reads one secret: all of standard input with fromStdin, else a prompt without echo.
func (a *app) readSecret(fromStdin bool, flag, prompt string) (string, error) {
	if fromStdin {
		return readLine(a.stdin)
	}
	f, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return "", usageError{fmt.Errorf("there is no terminal to ask on: pipe the secret in with --%s", flag)}
	}
	var typed [2]string
	for i, again := range []string{"", " again"} {
		fmt.Fprintf(a.stderr, "%s%s: ", prompt, again)
		b, err := readUnseen(int(f.Fd()))
		fmt.Fprintln(a.stderr)
		if err != nil {
			return "", err
		}
		if err := checkText(b); err != nil {
			return "", usageError{fmt.Errorf("%s: %w; a terminal in UTF-8 types it so", prompt, err)}
		}
		typed[i] = string(b)
	}
	if typed[0] != typed[1] {
		return "", errors.New("the two are not the same")
	}
	return typed[0], nil
}

// readUnseen reads a line without echo. Whoever interrupts it finds the terminal as it was.
func readUnseen(fd int) ([]byte, error) {
	state, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	defer func() {
		signal.Stop(interrupted)
		close(interrupted)
	}()
	go func() {
		if _, ok := <-interrupted; ok {
			term.Restore(fd, state)
			os.Exit(130)
		}
	}()
	return term.ReadPassword(fd)
}

// maxSecretInput bounds what is read of standard input.
const maxSecretInput = 4096

// readLine reads standard input to its end, without the line end that echo and editors leave.
func readLine(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSecretInput+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxSecretInput {
		return "", usageError{errors.New("standard input holds more than a secret")}
	}
	if err := checkText(b); err != nil {
		return "", usageError{fmt.Errorf("standard input: %w", err)}
	}
	s := string(b)
	if n := len(s); n > 0 && s[n-1] == '\n' {
		s = s[:n-1]
		if n := len(s); n > 0 && s[n-1] == '\r' {
			s = s[:n-1]
		}
	}
	if s == "" {
		return "", usageError{errors.New("standard input is empty")}
	}
	return s, nil
}
