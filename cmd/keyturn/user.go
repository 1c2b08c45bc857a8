package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/server"
)

func (a *app) userCommand() *cobra.Command {
	one := func(use, short string, act func(*server.Admin, context.Context, string) error, done string) *cobra.Command {
		return a.verb(use+" NAME", short, cobra.ExactArgs(1), false, func(ctx context.Context, admin *server.Admin, args []string) error {
			row, err := admin.User(ctx, args[0])
			if err != nil {
				return err
			}
			if err := act(admin, ctx, args[0]); err != nil {
				return err
			}
			if now, err := admin.User(ctx, args[0]); err == nil {
				row = now // else it was deleted: the row is what it was
			}
			a.say("user %s %s", args[0], done)
			return a.print(row, func() {})
		})
	}
	return noun("user", "People who log in",
		a.userCreate(), a.userImport(), a.userList(), a.userShow(), a.userPasswd(),
		one("enable", "Let a disabled user log in again", (*server.Admin).EnableUser, "enabled"),
		one("disable", "End a user's grants and let no new one begin", (*server.Admin).DisableUser, "disabled: all grants have ended"),
		one("delete", "Remove a user and its grants", (*server.Admin).DeleteUser, "deleted with all grants"))
}

func (a *app) userCreate() *cobra.Command {
	var passwordStdin bool
	var roles []string
	c := a.verb("create NAME", "Make a user", cobra.ExactArgs(1), true, func(ctx context.Context, admin *server.Admin, args []string) error {
		password, err := a.readSecret(passwordStdin, "password-stdin", "Password of "+args[0])
		if err != nil {
			return err
		}
		u, err := admin.CreateUser(ctx, args[0], password, roles)
		if err != nil {
			return err
		}
		return a.printUser(u)
	})
	addSettings(c.Flags(), scopeUser)
	c.Flags().BoolVar(&passwordStdin, "password-stdin", false, "read the password from standard input")
	c.Flags().StringSliceVar(&roles, "role", nil, "role of the user, for the roles claim")
	return c
}

func (a *app) printUser(u server.User) error {
	return a.print(u, func() {
		a.pairs([2]string{"sub", u.Sub}, [2]string{"username", u.Username}, [2]string{"roles", orDash(strings.Join(u.Roles, " "))},
			[2]string{"created_at", moment(&u.CreatedAt)}, [2]string{"disabled_at", moment(u.DisabledAt)})
	})
}

func (a *app) userList() *cobra.Command {
	return a.verb("list", "List users", cobra.NoArgs, false, func(ctx context.Context, admin *server.Admin, _ []string) error {
		users, err := admin.Users(ctx)
		if err != nil {
			return err
		}
		return a.print(users, func() {
			var rows [][]string
			for _, u := range users {
				rows = append(rows, []string{u.Username, u.Sub, orDash(strings.Join(u.Roles, " ")), moment(&u.CreatedAt), moment(u.DisabledAt)})
			}
			a.table([]string{"USERNAME", "SUB", "ROLES", "CREATED", "DISABLED"}, rows)
		})
	})
}

func (a *app) userShow() *cobra.Command {
	return a.verb("show NAME", "Show a user", cobra.ExactArgs(1), false, func(ctx context.Context, admin *server.Admin, args []string) error {
		u, err := admin.User(ctx, args[0])
		if err != nil {
			return err
		}
		return a.printUser(u)
	})
}

func (a *app) userPasswd() *cobra.Command {
	var passwordStdin bool
	c := a.verb("passwd NAME", "Give a user another password and end its grants", cobra.ExactArgs(1), false, func(ctx context.Context, admin *server.Admin, args []string) error {
		u, err := admin.User(ctx, args[0])
		if err != nil {
			return err
		}
		password, err := a.readSecret(passwordStdin, "password-stdin", "New password of "+args[0])
		if err != nil {
			return err
		}
		if err := admin.SetPassword(ctx, args[0], password); err != nil {
			return err
		}
		a.say("user %s has another password: all grants have ended", args[0])
		return a.print(u, func() {})
	})
	addSettings(c.Flags(), scopeUser)
	c.Flags().BoolVar(&passwordStdin, "password-stdin", false, "read the password from standard input")
	return c
}
