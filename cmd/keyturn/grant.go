package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
)

func (a *app) grantCommand() *cobra.Command {
	return noun("grant", "Logins that tokens come from", a.grantList(), a.grantShow(), a.grantRevoke())
}

func (a *app) grantList() *cobra.Command {
	var user, client string
	print := func(ctx context.Context, adm *admin.Admin, _ []string) error {
		return a.printGrants(ctx, adm, user, client)
	}
	c := a.verb("list", "List grants that have not expired, newest first, to the hour", cobra.NoArgs, false, print)
	c.Flags().StringVar(&user, "user", "", "only grants of this user")
	c.Flags().StringVar(&client, "client", "", "only grants of this client")
	return c
}

func (a *app) printGrants(ctx context.Context, adm *admin.Admin, user, client string) error {
	each := func(do func([]admin.Grant) error) error { return adm.Grants().Each(ctx, user, client, do) }
	heading := []string{"GRANT", "CLIENT", "USER", "SCOPE", "GENERATION", "LAST USED", "EXPIRES", "REVOKED", "REASON"}
	return list(a, heading, each, func(g admin.Grant) []string {
		return []string{
			g.ID.String(),
			g.ClientID,
			orDash(deref(g.Username)),
			orDash(g.Scope),
			strconv.FormatInt(g.Generation, 10),
			moment(&g.RotatedAt),
			moment(&g.ExpiresAt),
			moment(g.RevokedAt),
			orDash(deref(g.RevokedReason)),
		}
	})
}

func (a *app) grantShow() *cobra.Command {
	show := func(ctx context.Context, adm *admin.Admin, args []string) error {
		g, err := adm.Grants().Find(ctx, args[0])
		if err != nil {
			return err
		}
		return a.print(g, func() {
			a.pairs([][2]string{
				{"id", g.ID.String()},
				{"client_id", g.ClientID},
				{"sub", orDash(deref(g.Sub))},
				{"username", orDash(deref(g.Username))},
				{"scope", orDash(g.Scope)},
				{"audience", orDash(g.Audience)},
				{"generation", strconv.FormatInt(g.Generation, 10)},
				{"created at", moment(&g.CreatedAt)},
				{"last used at", moment(&g.RotatedAt)},
				{"late retry at", moment(g.LateRetryAt)},
				{"expires at", moment(&g.ExpiresAt)},
				{"idle until", moment(&g.IdleExpiresAt)},
				{"revoked at", moment(g.RevokedAt)},
				{"revoked reason", orDash(deref(g.RevokedReason))},
			}...)
		})
	}
	return a.verb("show ID", "Show a grant; ID is the sid of its access tokens", cobra.ExactArgs(1), false, show)
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (a *app) grantRevoke() *cobra.Command {
	var user, client string
	var all bool
	c := a.verb(
		"revoke [ID]",
		"End one grant, or all of a user, of a client, or of everybody",
		cobra.MaximumNArgs(1),
		false,
		func(ctx context.Context, adm *admin.Admin, args []string) error {
			named := 0
			for _, given := range []bool{len(args) == 1, user != "", client != "", all} {
				if given {
					named++
				}
			}
			if named != 1 {
				return usageError{errors.New("name exactly one of ID, --user, --client and --all")}
			}
			var err error // nothing is read before: it must be done
			switch {
			case user != "":
				err = adm.Grants().RevokeOfUser(ctx, user)
			case client != "":
				err = adm.Grants().RevokeOfClient(ctx, client)
			case all:
				err = adm.Grants().RevokeAll(ctx)
			default:
				err = adm.Grants().Revoke(ctx, args[0])
			}
			if err != nil {
				return err
			}
			a.say("ended: refresh tokens are dead and introspection is inactive; access tokens verify offline until they expire")
			if !a.json {
				return nil
			}
			if err := a.printEnded(ctx, adm, args, user, client); err != nil {
				return fmt.Errorf("the grants have ended, but could not be listed: %w", err)
			}
			return nil
		},
	)
	c.Flags().StringVar(&user, "user", "", "all grants of this user")
	c.Flags().StringVar(&client, "client", "", "all grants of this client")
	c.Flags().BoolVar(&all, "all", false, "all grants there are")
	return c
}

// printEnded prints the rows that a revocation named.
func (a *app) printEnded(ctx context.Context, adm *admin.Admin, args []string, user, client string) error {
	if len(args) == 0 {
		return a.printGrants(ctx, adm, user, client)
	}
	g, err := adm.Grants().Find(ctx, args[0])
	if err != nil {
		return err
	}
	return a.print([]admin.Grant{g}, func() {})
}
