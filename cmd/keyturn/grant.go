package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
)

// grantCommands are the verbs of keyturn grant.
type grantCommands struct{ *app }

func (g grantCommands) root() *cobra.Command {
	return noun("grant", "Manage logins and their tokens", g.list(), g.show(), g.revoke())
}

// grantFilter are the flags of grant list.
type grantFilter struct {
	listFlags
	admin.GrantFilter
	since string
}

func (g grantCommands) list() *cobra.Command {
	var f grantFilter
	cmd := g.verb(verb{
		use:   "list",
		short: "List unexpired grants, latest expiry first",
		args:  cobra.NoArgs,
		reads: true,
		act: func(ctx context.Context, op *operator, _ []string) (err error) {
			if f.Since, err = parseSince("since", f.since, time.Now()); err != nil {
				return err
			}
			if f.Active && f.Ended {
				return usageError{errors.New("--active and --ended exclude each other")}
			}
			if f.after != "" {
				if f.After, err = admin.ParseGrantID(f.after); err != nil {
					return err
				}
			}
			return g.printGrants(ctx, op, &f.listFlags, f.GrantFilter)
		},
	})
	f.add(cmd, "id")
	flags := cmd.Flags()
	flags.StringVar(&f.Username, "user", "", "only grants of this user")
	flags.StringVar(&f.ClientID, "client", "", "only grants of this client")
	flags.BoolVar(&f.Active, "active", false, "only grants that have not ended")
	flags.BoolVar(&f.Ended, "ended", false, "only grants that have ended, also by expiry; they stay for a day")
	flags.StringVar(&f.since, "since", "", "only logins since a time (2026-01-31T12:00:00Z) or age (24h)")
	g.completeFlag(cmd, "user", completeUsers)
	g.completeFlag(cmd, "client", completeClients)
	return cmd
}

func (g grantCommands) printGrants(ctx context.Context, op *operator, l *listFlags, f admin.GrantFilter) error {
	each := func(do func([]admin.Grant) error) error { return op.Grants().Each(ctx, f, do) }
	heading := []string{
		"GRANT",
		"CLIENT",
		"USER",
		"SCOPE",
		"GENERATION",
		"LAST USED",
		"EXPIRES",
		"ENDED",
		"REASON",
	}
	return limited(g.streams, l, heading, each, g.grantCells, func(row admin.Grant) any { return row.ID })
}

func (g grantCommands) grantCells(grant admin.Grant) []string {
	return []string{
		grant.ID.String(),
		grant.ClientID,
		orDash(deref(grant.Username)),
		orDash(grant.Scope),
		strconv.FormatInt(grant.Generation, 10),
		g.moment(&grant.RotatedAt),
		g.moment(&grant.ExpiresAt),
		g.moment(grant.EndedAt),
		orDash(deref(grant.EndedReason)),
	}
}

func (g grantCommands) show() *cobra.Command {
	return g.verb(verb{
		use:   "show ID",
		short: "Show a grant; ID is the sid claim of its access tokens",
		args:  cobra.ExactArgs(1),
		reads: true,
		act: func(ctx context.Context, op *operator, args []string) error {
			grant, err := op.Grants().Find(ctx, args[0])
			if err != nil {
				return err
			}
			return g.print(grant, func() { g.pairs(g.grantPairs(grant)) })
		},
	})
}

func (g grantCommands) grantPairs(grant admin.Grant) [][2]string {
	return [][2]string{
		{"id", grant.ID.String()},
		{"client_id", grant.ClientID},
		{"sub", orDash(deref(grant.Sub))},
		{"username", orDash(deref(grant.Username))},
		{"scope", orDash(grant.Scope)},
		{"audience", orDash(grant.Audience)},
		{"generation", strconv.FormatInt(grant.Generation, 10)},
		{"created at", g.when(&grant.CreatedAt)},
		{"last used at", g.when(&grant.RotatedAt)},
		{"late retry at", g.when(grant.LateRetryAt)},
		{"expires at", g.when(&grant.ExpiresAt)},
		{"idle until", g.when(&grant.IdleExpiresAt)},
		{"ended at", g.when(grant.EndedAt)},
		{"ended reason", orDash(deref(grant.EndedReason))},
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

// what describes the selection for a question.
func (s grantSelection) what() string {
	switch {
	case s.user != "":
		return "end all logins of user " + s.user
	case s.client != "":
		return "end all logins of client " + s.client
	default:
		return "end all logins"
	}
}

// mayRevoke asks before many logins end.
func (g grantCommands) mayRevoke(ctx context.Context, op *operator, s grantSelection, yes bool) error {
	if yes || len(s.ids) > 0 {
		return nil
	}
	if s.user != "" {
		_, err := op.Users().Find(ctx, s.user)
		if errors.Is(err, admin.ErrNotFound) || errors.Is(err, admin.ErrInvalid) {
			return err
		}
	}
	if s.client != "" {
		if _, err := op.Clients().Find(ctx, s.client); errors.Is(err, admin.ErrNotFound) {
			return err
		}
	}
	live, err := op.Grants().CountLive(ctx, s.user, s.client)
	return g.mayEnd(op, false, s.what(), live, err)
}

func (g grantCommands) revoke() *cobra.Command {
	var s grantSelection
	var yes bool
	revoke := func(ctx context.Context, op *operator, args []string) error {
		s.ids = args
		if !s.valid() {
			return usageError{errors.New("name exactly one of ID, --user, --client and --all")}
		}
		if err := g.mayRevoke(ctx, op, s, yes); err != nil {
			return err
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
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	g.completeFlag(cmd, "user", completeUsers)
	g.completeFlag(cmd, "client", completeClients)
	return cmd
}

// printEnded prints the rows of the grants that a revocation named.
func (g grantCommands) printEnded(ctx context.Context, op *operator, s grantSelection) error {
	if len(s.ids) == 0 {
		all := listFlags{fixed: func() bool { return true }}
		return g.printGrants(ctx, op, &all, admin.GrantFilter{Username: s.user, ClientID: s.client})
	}
	grant, err := op.Grants().Find(ctx, s.ids[0])
	if err != nil {
		return err
	}
	return g.print([]admin.Grant{grant}, func() {})
}
