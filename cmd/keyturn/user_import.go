package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/keyturn/keyturn/admin"
)

func (a *app) userImport() *cobra.Command {
	var format string
	var options admin.ImportOptions
	roles := map[string]string{}
	c := a.verb(
		"import FILE",
		"Make users with the password hashes that they have elsewhere (- reads standard input)",
		cobra.ExactArgs(1),
		true,
		func(ctx context.Context, adm *admin.Admin, args []string) error {
			users, err := a.readImport(args[0], format, roles)
			if err != nil {
				return err
			}
			options.Told = a.progress("users")
			done, err := adm.Users().Import(ctx, users, options)
			if printed := a.printImport(done, options); err == nil {
				err = printed
			}
			return err
		},
	)
	c.Flags().
		StringVar(&format, "format", "", "what FILE is: django (manage.py dumpdata auth.group auth.user) or jsonl (an "+
			"object a line)")
	c.Flags().
		StringToStringVar(&roles, "role", nil, "role that a group becomes, as GROUP=ROLE (default: the name of the group)")
	c.Flags().
		BoolVar(&options.SkipBad, "skip-bad", false, "import the others where some are refused; otherwise nobody is "+
			"imported then")
	c.Flags().BoolVar(&options.DryRun, "dry-run", false, "tell what would be imported and refused, and import nobody")
	return c
}

// readImport reads all users of a file.
func (a *app) readImport(path, format string, roles map[string]string) ([]admin.ImportedUser, error) {
	read := map[string]func(io.Reader, func(string) string) ([]admin.ImportedUser, error){"django": readDjango,
		"jsonl": readUserLines}[format]
	if read == nil {
		return nil, usageError{fmt.Errorf("--format: %q is neither django nor jsonl", format)}
	}
	from := a.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usageError{err}
		}
		defer f.Close()
		from = f
	}
	used := map[string]bool{}
	text := newTextReader(from)
	users, err := read(text, func(group string) string {
		if role, ok := roles[group]; ok {
			used[group] = true
			return role
		}
		return group
	})
	if bad, ok := text.err.(*textError); ok {
		err = bad // whatever became of it
	}
	for group := range roles {
		if err == nil && !used[group] {
			err = fmt.Errorf("--role: nobody in it is in the group %q", group)
		}
	}
	if err == nil && len(users) == 0 {
		err = errors.New("there are no users in it")
	}
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", path, err)}
	}
	return users, nil
}

// progress tells a person at a terminal how far something is; nobody else hears of it.
func (a *app) progress(what string) func(n, of int) {
	f, ok := a.stderr.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return func(n, of int) {
		fmt.Fprintf(f, "\r%d of %d %s", n, of, what)
		if n >= of {
			fmt.Fprintf(f, "\r\x1b[K")
		}
	}
}

func (a *app) printImport(done admin.Import, o admin.ImportOptions) error {
	err := a.print(done, func() {
		var rows [][]string
		for _, r := range done.Refused {
			rows = append(rows, []string{strconv.Itoa(r.Row), strconv.Quote(r.Username), r.Reason})
		}
		if rows != nil {
			a.table([]string{"ROW", "USERNAME", "REFUSED BECAUSE"}, rows)
		}
		verb := "imported"
		if o.DryRun {
			verb = "would be imported"
		}
		a.pairs(
			[2]string{verb, strconv.Itoa(done.Imported)},
			[2]string{"of those disabled", strconv.Itoa(done.Disabled)},
			[2]string{
				"of those without a password",
				strconv.Itoa(done.WithoutPassword),
			},
			[2]string{"refused", strconv.Itoa(len(done.Refused))},
		)
	})
	if err == nil && len(done.Refused) > 0 && !o.SkipBad {
		return errors.New(
			"nobody is imported, because some are refused: mend those rows, or pass --skip-bad to leave them out",
		)
	}
	return err
}
