package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

func (a *app) userCommand() *cobra.Command {
	one := func(use, short string, act func(admin.Users, context.Context, string) error, done string) *cobra.Command {
		return a.verb(
			use+" NAME",
			short,
			cobra.ExactArgs(1),
			false,
			func(ctx context.Context, adm *admin.Admin, args []string) error {
				read := func() (admin.User, error) { return adm.Users().Find(ctx, args[0]) }
				change := func() error { return act(adm.Users(), ctx, args[0]) }
				return changeOne(a, "user "+args[0], done, use == "delete", read, change)
			},
		)
	}
	return noun(
		"user",
		"People who log in",
		a.userCreate(),
		a.userImport(),
		a.userList(),
		a.userShow(),
		a.userPasswd(),
		one("enable", "Let a disabled user log in again, and lift its throttle", admin.Users.Enable, "enabled"),
		one("unlock", "Lift all login throttling of a user",
			admin.Users.Unlock, "unlocked: the next login is judged"),
		one(
			"disable",
			"End a user's grants and let no new one begin",
			admin.Users.Disable,
			"disabled: all grants have ended",
		),
		one("delete", "Remove a user and its grants", admin.Users.Delete, "deleted with all grants"),
	)
}

func (a *app) userCreate() *cobra.Command {
	var passwordStdin bool
	var roles []string
	c := a.verb(
		"create NAME",
		"Make a user",
		cobra.ExactArgs(1),
		true,
		func(ctx context.Context, adm *admin.Admin, args []string) error {
			password, err := a.readSecret(passwordStdin, "password-stdin", "Password of "+args[0])
			if err != nil {
				return err
			}
			u, err := adm.Users().Create(ctx, args[0], password, roles)
			if err != nil {
				return err
			}
			return a.printUser(u)
		},
	)
	addSettings(c.Flags(), config.ScopeUser)
	c.Flags().BoolVar(&passwordStdin, "password-stdin", false, "read the password from standard input")
	c.Flags().StringSliceVar(&roles, "role", nil, "role of the user, for the roles claim")
	return c
}

func (a *app) printUser(u admin.User) error {
	return a.print(u, func() { a.pairs(userPairs(u)...) })
}

func userPairs(u admin.User) [][2]string {
	return [][2]string{
		{"sub", u.Sub},
		{"username", u.Username},
		{"roles", orDash(strings.Join(u.Roles, " "))},
		{"created_at", moment(&u.CreatedAt)},
		{"disabled_at", moment(u.DisabledAt)},
	}
}

// shownUser is a user as user show prints it.
type shownUser struct {
	admin.User
	Throttle []admin.ThrottleState `json:"throttle"`
}

// throttleText is how an account stands at one place, for people.
func throttleText(s admin.ThrottleState) string {
	next := "the next login is judged"
	switch {
	case s.UntilUnlocked:
		next = "no login is judged until `keyturn user unlock`"
	case s.NextTryAt != nil:
		next = "the next login is judged from " + moment(s.NextTryAt) + " on"
	}
	return fmt.Sprintf("%s: %d failures, the last at %s; %s", s.Place, s.Failures, moment(&s.LastFailedAt), next)
}

func (a *app) userList() *cobra.Command {
	return a.verb(
		"list",
		"List users",
		cobra.NoArgs,
		false,
		func(ctx context.Context, adm *admin.Admin, _ []string) error {
			each := func(do func([]admin.User) error) error { return adm.Users().Each(ctx, do) }
			return list(a, []string{"USERNAME", "SUB", "ROLES", "CREATED", "DISABLED"}, each, func(u admin.User) []string {
				return []string{
					u.Username,
					u.Sub,
					orDash(strings.Join(u.Roles, " ")),
					moment(&u.CreatedAt),
					moment(u.DisabledAt),
				}
			})
		},
	)
}

func (a *app) userShow() *cobra.Command {
	return a.verb(
		"show NAME",
		"Show a user",
		cobra.ExactArgs(1),
		false,
		func(ctx context.Context, adm *admin.Admin, args []string) error {
			u, err := adm.Users().Find(ctx, args[0])
			if err != nil {
				return err
			}
			throttle, err := adm.Users().Throttle(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(shownUser{u, throttle}, func() {
				pairs := userPairs(u)
				for _, s := range throttle {
					pairs = append(pairs, [2]string{"throttle", throttleText(s)})
				}
				if len(throttle) == 0 {
					pairs = append(pairs, [2]string{"throttle", "none"})
				}
				a.pairs(pairs...)
			})
		},
	)
}

func (a *app) userPasswd() *cobra.Command {
	var passwordStdin bool
	set := func(ctx context.Context, adm *admin.Admin, args []string) error {
		read := func() (admin.User, error) { return adm.Users().Find(ctx, args[0]) }
		if _, err := read(); errors.Is(err, admin.ErrNotFound) { // before anybody types a password
			return err
		}
		password, err := a.readSecret(passwordStdin, "password-stdin", "New password of "+args[0])
		if err != nil {
			return err
		}
		done := "has another password: all grants have ended"
		change := func() error { return adm.Users().SetPassword(ctx, args[0], password) }
		return changeOne(a, "user "+args[0], done, false, read, change)
	}
	c := a.verb("passwd NAME", "Give a user another password, end its grants and lift its throttle", cobra.ExactArgs(1),
		false, set)
	addSettings(c.Flags(), config.ScopeUser)
	c.Flags().BoolVar(&passwordStdin, "password-stdin", false, "read the password from standard input")
	return c
}
