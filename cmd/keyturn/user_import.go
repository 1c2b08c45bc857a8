package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
)

func (u userCommands) importFile() *cobra.Command {
	var format string
	var options admin.ImportOptions
	roles := map[string]string{}
	act := func(ctx context.Context, op *operator, args []string) error {
		users, err := u.readImport(args[0], format, roles)
		if err != nil {
			return err
		}
		options.Told = u.progress("users")
		done, err := op.Users().Import(ctx, users, options)
		if printed := u.printImport(done, options); err == nil {
			err = printed
		}
		return err
	}
	cmd := u.verb(verb{
		use:    "import FILE",
		short:  "Import users with their password hashes from another system; FILE may be - for standard input",
		args:   cobra.ExactArgs(1),
		files:  true,
		create: true,
		act:    act,
	})
	f := cmd.Flags()
	f.StringVar(&format, "format", "",
		"format of FILE: django (manage.py dumpdata auth.group auth.user) or jsonl (one object on each line)")
	u.completeWord(cmd, "format", slices.Sorted(maps.Keys(userReaders))...)
	f.StringToStringVar(&roles, "role", nil, "role for a group, as GROUP=ROLE (default: the name of the group)")
	f.BoolVar(&options.SkipBad, "skip-bad", false,
		"skip invalid rows and import the others; without it one invalid row stops the import")
	f.BoolVar(&options.DryRun, "dry-run", false, "report what the import would do, and import nobody")
	return cmd
}

// userReader reads the users of one format. role returns the role for a group.
type userReader func(from io.Reader, role func(group string) string) ([]admin.ImportedUser, error)

var userReaders = map[string]userReader{
	"django": readDjango,
	"jsonl":  readUserLines,
}

// readImport reads all users of a file.
func (u userCommands) readImport(path, format string, roles map[string]string) ([]admin.ImportedUser, error) {
	read := userReaders[format]
	if read == nil {
		return nil, usageError{fmt.Errorf("--format: %q is neither django nor jsonl", format)}
	}
	from := u.stdin
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
		err = bad // the cause of any other error
	}
	for group := range roles {
		if err == nil && !used[group] {
			err = fmt.Errorf("--role: no user of the file is in the group %q", group)
		}
	}
	if err == nil && len(users) == 0 {
		err = errors.New("the file has no users")
	}
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", path, err)}
	}
	return users, nil
}

func (u userCommands) printImport(done admin.Import, o admin.ImportOptions) error {
	err := u.print(done, func() {
		var rows [][]string
		for _, r := range done.Refused {
			rows = append(rows, []string{strconv.Itoa(r.Row), strconv.Quote(r.Username), r.Reason})
		}
		if rows != nil {
			u.table([]string{"ROW", "USERNAME", "REFUSED BECAUSE"}, rows)
		}
		imported := "imported"
		if o.DryRun {
			imported = "would be imported"
		}
		u.pairs([][2]string{
			{imported, strconv.Itoa(done.Imported)},
			{"of those disabled", strconv.Itoa(done.Disabled)},
			{"of those without a password", strconv.Itoa(done.WithoutPassword)},
			{"refused", strconv.Itoa(len(done.Refused))},
		})
	})
	if err == nil &&
		len(done.Refused) > 0 &&
		!o.SkipBad {
		return errors.New("nobody is imported, because some rows are refused: correct them, or skip them with " +
			"--skip-bad")
	}
	return err
}
