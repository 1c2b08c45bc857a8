package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
)

// grantCommands are the verbs of keyturn grant.
type grantCommands struct{ *app }

func (g grantCommands) root() *cobra.Command {
	return noun("grant", "Manage logins and their tokens", g.list(), g.show(), g.revoke())
}

func (g grantCommands) list() *cobra.Command {
	var user, client string
	cmd := g.verb(verb{
		use:   "list",
		short: "List unexpired grants, newest first by the hour",
		args:  cobra.NoArgs,
		act: func(ctx context.Context, op *operator, _ []string) error {
			return g.printGrants(ctx, op, user, client)
		},
	})
	cmd.Flags().StringVar(&user, "user", "", "only grants of this user")
	cmd.Flags().StringVar(&client, "client", "", "only grants of this client")
	return cmd
}

func (g grantCommands) printGrants(ctx context.Context, op *operator, user, client string) error {
	each := func(do func([]admin.Grant) error) error { return op.Grants().Each(ctx, user, client, do) }
	heading := []string{
		"GRANT",
		"CLIENT",
		"USER",
		"SCOPE",
		"GENERATION",
		"LAST USED",
		"EXPIRES",
		"REVOKED",
		"REASON",
	}
	return list(g.console, heading, each, grantCells)
}

func grantCells(grant admin.Grant) []string {
	return []string{
		grant.ID.String(),
		grant.ClientID,
		orDash(deref(grant.Username)),
		orDash(grant.Scope),
		strconv.FormatInt(grant.Generation, 10),
		moment(&grant.RotatedAt),
		moment(&grant.ExpiresAt),
		moment(grant.RevokedAt),
		orDash(deref(grant.RevokedReason)),
	}
}

func (g grantCommands) show() *cobra.Command {
	return g.verb(verb{
		use:   "show ID",
		short: "Show a grant; ID is the sid claim of its access tokens",
		args:  cobra.ExactArgs(1),
		act: func(ctx context.Context, op *operator, args []string) error {
			grant, err := op.Grants().Find(ctx, args[0])
			if err != nil {
				return err
			}
			return g.print(grant, func() { g.pairs(grantPairs(grant)) })
		},
	})
}

func grantPairs(grant admin.Grant) [][2]string {
	return [][2]string{
		{"id", grant.ID.String()},
		{"client_id", grant.ClientID},
		{"sub", orDash(deref(grant.Sub))},
		{"username", orDash(deref(grant.Username))},
		{"scope", orDash(grant.Scope)},
		{"audience", orDash(grant.Audience)},
		{"generation", strconv.FormatInt(grant.Generation, 10)},
		{"created at", moment(&grant.CreatedAt)},
		{"last used at", moment(&grant.RotatedAt)},
		{"late retry at", moment(grant.LateRetryAt)},
		{"expires at", moment(&grant.ExpiresAt)},
		{"idle until", moment(&grant.IdleExpiresAt)},
		{"revoked at", moment(grant.RevokedAt)},
		{"revoked reason", orDash(deref(grant.RevokedReason))},
	}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// grantSelection names one grant, or all of a user, of a client, or of everybody.
type grantSelection struct {
	ids          []string // one at most
	user, client string
	all          bool
}

// valid reports whether the selection is exactly one of the four.
func (s grantSelection) valid() bool {
	named := 0
	for _, given := range []bool{len(s.ids) == 1, s.user != "", s.client != "", s.all} {
		if given {
			named++
		}
	}
	return named == 1
}

// revoke ends the grants. It reads nothing before: nothing must prevent it.
func (s grantSelection) revoke(ctx context.Context, grants admin.Grants) error {
	switch {
	case s.user != "":
		return grants.RevokeOfUser(ctx, s.user)
	case s.client != "":
		return grants.RevokeOfClient(ctx, s.client)
	case s.all:
		return grants.RevokeAll(ctx)
	default:
		return grants.Revoke(ctx, s.ids[0])
	}
}

func (g grantCommands) revoke() *cobra.Command {
	var s grantSelection
	revoke := func(ctx context.Context, op *operator, args []string) error {
		s.ids = args
		if !s.valid() {
			return usageError{errors.New("name exactly one of ID, --user, --client and --all")}
		}
		if err := s.revoke(ctx, op.Grants()); err != nil {
			return err
		}
		g.say("Ended. Refresh tokens are dead and introspection answers inactive. " +
			"Access tokens verify offline until they expire.")
		if !g.json {
			return nil
		}
		if err := g.printEnded(ctx, op, s); err != nil {
			return fmt.Errorf("the grants have ended, but could not be listed: %w", err)
		}
		return nil
	}
	cmd := g.verb(verb{
		use:   "revoke [ID]",
		short: "End one grant, or all of a user, of a client, or of everybody",
		args:  cobra.MaximumNArgs(1),
		act:   revoke,
	})
	cmd.Flags().StringVar(&s.user, "user", "", "all grants of this user")
	cmd.Flags().StringVar(&s.client, "client", "", "all grants of this client")
	cmd.Flags().BoolVar(&s.all, "all", false, "all grants")
	return cmd
}

// printEnded prints the rows of the grants that a revocation named.
func (g grantCommands) printEnded(ctx context.Context, op *operator, s grantSelection) error {
	if len(s.ids) == 0 {
		return g.printGrants(ctx, op, s.user, s.client)
	}
	grant, err := op.Grants().Find(ctx, s.ids[0])
	if err != nil {
		return err
	}
	return g.print([]admin.Grant{grant}, func() {})
}
