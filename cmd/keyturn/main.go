// Command keyturn is an OAuth 2.0 token server. `keyturn dev` tries it and `keyturn serve` runs it. Everything that
// people change has a noun and verbs: clients, users, grants, keys.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// Exit codes.
const (
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitRefused  = 4 // a safety check refused; --force overrides it
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

// run is the whole program. It returns the exit code.
func run(
	ctx context.Context,
	args []string,
	getenv func(string) string,
	environ []string,
	stdin io.Reader,
	stdout, stderr io.Writer,
) int {
	a := &app{
		streams: &streams{stdin: stdin, stdout: stdout, stderr: stderr},
		sources: sources{getenv: getenv, environ: environ},
	}
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
	a.explain(err, hint(root, args))
	return a.exitCode(err)
}

// usageError reports wrong usage of a command.
type usageError struct{ error }

// refusedError reports that a safety check of a command refused.
type refusedError struct{ error }

// checkStatus is an exit code. The command has already printed the reason.
type checkStatus int

func (checkStatus) Error() string { return "the check found problems" }

// explain prints an error to standard error. hint is a command that helps with wrong usage.
func (a *app) explain(err error, hint string) {
	var printed checkStatus
	var bad *config.Error
	if errors.As(err, &printed) {
		return
	}
	if errors.As(err, &bad) {
		for _, problem := range bad.Problems {
			a.say("keyturn: %v", problem)
		}
		return
	}
	a.say("keyturn: %v", err)
	if a.exitCode(err) == exitUsage {
		a.say("keyturn: `%s` prints the arguments and flags", hint)
	}
}

func (a *app) exitCode(err error) int {
	var check checkStatus
	var bad *config.Error
	var unfit *keys.UnfitError
	var usage usageError
	var refused refusedError
	switch {
	case errors.As(err, &check):
		return int(check)
	case errors.As(err, &bad), errors.As(err, &unfit):
		return exitConfig
	case !a.parsed, errors.As(err, &usage), errors.Is(err, admin.ErrInvalid):
		return exitUsage
	case errors.Is(err, admin.ErrNotFound):
		return exitNotFound
	case admin.ErrRefused(err), errors.As(err, &refused):
		return exitRefused
	case errors.Is(err, admin.ErrConflict), errors.Is(err, storage.ErrBehind), errors.Is(err, storage.ErrEmpty):
		return exitConflict
	default:
		return exitFailed
	}
}
