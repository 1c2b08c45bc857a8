package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/storage"
)

// completion lists the values that an argument or a flag can have, from the database. toComplete is what was typed.
type completion func(ctx context.Context, op *operator, toComplete string) ([]string, error)

const (
	completionTimeout = 2 * time.Second
	maxCompletions    = 200
)

// completer is the function with which cobra completes words.
type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeArgs completes the first argument of a command. nil completes nothing, not even names of files.
func (a *app) completeArgs(values completion) completer {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if values == nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.complete(cmd, values, toComplete), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlag completes the value of a flag.
func (a *app) completeFlag(cmd *cobra.Command, flag string, values completion) {
	cmd.RegisterFlagCompletionFunc(flag,
		func(cmd *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			return a.complete(cmd, values, toComplete), cobra.ShellCompDirectiveNoFileComp
		})
}

// complete returns the values that begin with a text. Without a database there are none: a person is typing, and errors
// would disturb.
func (a *app) complete(cmd *cobra.Command, values completion, toComplete string) (found []string) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	set, err := a.readSettings(cmd.Flags(), false)
	if err != nil {
		return nil
	}
	options := a.adminOptions(set, who{})
	options.Say = nil
	opened, err := admin.Open(ctx, set.Config, set.place, options)
	if err != nil {
		return nil
	}
	defer opened.Close()
	all, _ := values(ctx, &operator{Admin: opened}, toComplete)
	for _, value := range all {
		if strings.HasPrefix(value, toComplete) && len(found) < maxCompletions {
			found = append(found, value)
		}
	}
	return found
}

func completeClients(ctx context.Context, op *operator, toComplete string) (ids []string, err error) {
	err = op.Clients().Each(ctx, func(page []admin.Client) error {
		for _, c := range page {
			if strings.HasPrefix(c.ID, toComplete) {
				ids = append(ids, c.ID)
			}
		}
		return enough(ids)
	})
	return ids, err
}

func completeVerifiers(ctx context.Context, op *operator, toComplete string) (names []string, err error) {
	err = op.Verifiers().List(ctx, "", func(page []admin.Verifier) error {
		for _, v := range page {
			if strings.HasPrefix(v.Name, toComplete) {
				names = append(names, v.Name)
			}
		}
		return enough(names)
	})
	return names, err
}

func completeAdmins(ctx context.Context, op *operator, _ string) (names []string, err error) {
	all, err := op.Administrators().List(ctx)
	for _, row := range all {
		names = append(names, row.Name)
	}
	return names, err
}

func completeUsers(ctx context.Context, op *operator, toComplete string) (names []string, err error) {
	err = op.Users().List(ctx, admin.UserFilter{Prefix: toComplete}, func(page []admin.User) error {
		for _, u := range page {
			names = append(names, u.Username)
		}
		return enough(names)
	})
	return names, err
}

// enough ends a list that nobody would read.
func enough(values []string) error {
	if len(values) >= maxCompletions {
		return errEnough
	}
	return nil
}

func completeKeys(_ context.Context, op *operator, _ string) ([]string, error) {
	kids := []string{admin.KeyCurrent, admin.KeyNext}
	for _, k := range op.Keys().List() {
		kids = append(kids, k.KID)
	}
	return kids, nil
}

func completeAuditTypes(context.Context, *operator, string) ([]string, error) {
	return slices.Clone(storage.AuditTypes), nil
}

// completeWord completes the value of a flag with words that need no database.
func (a *app) completeWord(cmd *cobra.Command, flag string, words ...string) {
	cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}
