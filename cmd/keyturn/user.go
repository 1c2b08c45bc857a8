package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

// userCommands are the verbs of keyturn user.
type userCommands struct{ *app }

func (u userCommands) root() *cobra.Command {
	return noun(
		"user",
		"Manage people who log in",
		u.create(),
		u.importFile(),
		u.list(),
		u.show(),
		u.update(),
		u.passwd(),
		u.changes().change("enable", "Let a disabled user log in again, and lift its throttle",
			"enabled", admin.Users.Enable),
		u.changes().change("unlock", "Lift all login throttling of a user",
			"unlocked: the next login is judged", admin.Users.Unlock),
		u.changes().change("disable", "End a user's grants and refuse new logins",
			"disabled: all grants have ended", admin.Users.Disable),
		u.changes().delete("Delete a user and end its logins", "deleted with all grants",
			func(ctx context.Context, op *operator, name string) (int64, error) {
				return op.Grants().CountLive(ctx, name, "")
			}, admin.Users.Delete),
	)
}

func (u userCommands) changes() changes[admin.Users, admin.User] {
	return changes[admin.Users, admin.User]{
		app:      u.app,
		noun:     "user",
		argument: "NAME",
		complete: completeUsers,
		table:    func(op *operator) admin.Users { return op.Users() },
		find:     admin.Users.Find,
	}
}

func (u userCommands) create() *cobra.Command {
	var passwordStdin bool
	var roles []string
	create := func(ctx context.Context, op *operator, args []string) error {
		password, err := u.readPassword(op, passwordStdin, "Password of "+args[0])
		if err != nil {
			return err
		}
		made, err := op.Users().Create(ctx, args[0], password, roles)
		if err != nil {
			return err
		}
		return u.print(made, func() { u.pairs(u.userPairs(made)) })
	}
	cmd := u.verb(verb{
		use:    "create NAME",
		short:  "Create a user",
		args:   cobra.ExactArgs(1),
		create: true,
		act:    create,
	})
	addPasswordStdin(cmd, &passwordStdin)
	cmd.Flags().StringSliceVar(&roles, "role", nil, "role of the user, for the roles claim")
	return cmd
}

// readPassword reads a new password.
func (u userCommands) readPassword(op *operator, fromStdin bool, prompt string) (string, error) {
	rules := secretRules{op.Users().PasswordPolicy(), op.Users().CheckPassword}
	return u.readSecret(fromStdin, "password-stdin", prompt, rules)
}

// addPasswordStdin adds the flags of a command that sets a password.
func addPasswordStdin(cmd *cobra.Command, fromStdin *bool) {
	addSettings(cmd.Flags(), config.ScopeUser)
	cmd.Flags().BoolVar(fromStdin, "password-stdin", false, "read the password from standard input")
}

func (u userCommands) userPairs(user admin.User) [][2]string {
	return [][2]string{
		{"sub", user.Sub},
		{"username", user.Username},
		{"roles", orDash(strings.Join(user.Roles, " "))},
		{"created_at", u.when(&user.CreatedAt)},
		{"disabled_at", u.when(user.DisabledAt)},
	}
}

// throttleText describes the throttle of an account at one place.
func (u userCommands) throttleText(s admin.ThrottleState) string {
	next := "the next login is judged"
	switch {
	case s.UntilUnlocked:
		next = "no login is judged until `keyturn user unlock`"
	case s.NextTryAt != nil:
		next = "no login is judged before " + u.moment(s.NextTryAt)
	}
	return fmt.Sprintf("%s: %d failures, the last at %s; %s", s.Place, s.Failures, u.moment(&s.LastFailedAt), next)
}

func (u userCommands) list() *cobra.Command {
	var l listFlags
	var f admin.UserFilter
	cmd := u.verb(verb{
		use:   "list",
		short: "List users",
		args:  cobra.NoArgs,
		reads: true,
		act: func(ctx context.Context, op *operator, _ []string) error {
			f.After = l.after
			each := func(do func([]admin.User) error) error { return op.Users().List(ctx, f, do) }
			heading := []string{"USERNAME", "SUB", "ROLES", "CREATED", "DISABLED"}
			return limited(u.streams, &l, heading, each, u.userCells, func(row admin.User) any { return row.Username })
		},
	})
	l.add(cmd, "username")
	cmd.Flags().StringVar(&f.Prefix, "prefix", "", "only usernames that begin with this text")
	cmd.Flags().StringVar(&f.Role, "role", "", "only users with this role")
	cmd.Flags().BoolVar(&f.Disabled, "disabled", false, "only disabled users")
	return cmd
}

func (u userCommands) update() *cobra.Command {
	var roles []string
	var cmd *cobra.Command
	cmd = u.verb(verb{
		use:      "update NAME",
		short:    "Replace the roles of a user; no login ends",
		args:     cobra.ExactArgs(1),
		complete: completeUsers,
		act: func(ctx context.Context, op *operator, args []string) error {
			if !cmd.Flags().Changed("role") {
				return usageError{errors.New("--role is missing: it replaces all roles; --role '' removes them")}
			}
			roles = slices.DeleteFunc(roles, func(role string) bool { return role == "" })
			user, err := op.Users().SetRoles(ctx, args[0], roles)
			if err != nil {
				return err
			}
			u.say("No login ends. The roles appear in the next access token of each login, and introspection shows " +
				"those of the token.")
			return u.print(user, func() { u.pairs(u.userPairs(user)) })
		},
	})
	cmd.Flags().StringSliceVar(&roles, "role", nil, "role of the user, for the roles claim (replaces the whole list)")
	return cmd
}

func (u userCommands) userCells(user admin.User) []string {
	return []string{
		user.Username,
		user.Sub,
		orDash(strings.Join(user.Roles, " ")),
		u.moment(&user.CreatedAt),
		u.moment(user.DisabledAt),
	}
}

func (u userCommands) show() *cobra.Command {
	show := func(ctx context.Context, op *operator, args []string) error {
		user, err := op.Users().Details(ctx, args[0])
		if err != nil {
			return err
		}
		return u.print(user, func() {
			pairs := u.userPairs(user.User)
			for _, s := range user.Throttle {
				pairs = append(pairs, [2]string{"throttle", u.throttleText(s)})
			}
			if len(user.Throttle) == 0 {
				pairs = append(pairs, [2]string{"throttle", "none"})
			}
			u.pairs(pairs)
		})
	}
	return u.verb(verb{
		use:      "show NAME",
		short:    "Show a user",
		args:     cobra.ExactArgs(1),
		reads:    true,
		complete: completeUsers,
		act:      show,
	})
}

func (u userCommands) passwd() *cobra.Command {
	var passwordStdin bool
	set := func(ctx context.Context, op *operator, args []string) error {
		name, users := args[0], op.Users()
		read := func() (admin.User, error) { return users.Find(ctx, name) }
		if _, err := read(); errors.Is(err, admin.ErrNotFound) { // before anybody types a password
			return err
		}
		password, err := u.readPassword(op, passwordStdin, "New password of "+name)
		if err != nil {
			return err
		}
		apply := func() error { return users.SetPassword(ctx, name, password) }
		return changeOne(u.streams, "user "+name, "has a new password: all grants have ended", false, read, apply)
	}
	cmd := u.verb(verb{
		use:      "passwd NAME",
		short:    "Give a user a new password, end its grants and lift its throttle",
		args:     cobra.ExactArgs(1),
		complete: completeUsers,
		act:      set,
	})
	addPasswordStdin(cmd, &passwordStdin)
	return cmd
}
