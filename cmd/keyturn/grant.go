package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/server"
)

func (a *app) grantCommand() *cobra.Command {
	return noun("grant", "Logins that tokens come from", a.grantList(), a.grantRevoke())
}

func (a *app) grantList() *cobra.Command {
	var user, client string
	c := a.verb("list", "List grants that have not expired, newest first", cobra.NoArgs, false, func(ctx context.Context, admin *server.Admin, _ []string) error {
		grants, err := admin.Grants(ctx, user, client)
		if err != nil {
			return err
		}
		return a.print(grants, func() {
			var rows [][]string
			for _, g := range grants {
				rows = append(rows, []string{g.ID.String(), g.ClientID, orDash(deref(g.Username)), orDash(g.Scope), strconv.FormatInt(g.Generation, 10),
					moment(&g.RotatedAt), moment(&g.ExpiresAt), moment(g.RevokedAt), orDash(deref(g.RevokedReason))})
			}
			a.table([]string{"GRANT", "CLIENT", "USER", "SCOPE", "GENERATION", "LAST USED", "EXPIRES", "REVOKED", "REASON"}, rows)
		})
	})
	c.Flags().StringVar(&user, "user", "", "only grants of this user")
	c.Flags().StringVar(&client, "client", "", "only grants of this client")
	return c
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
	c := a.verb("revoke [ID]", "End one grant, or all of a user, of a client, or of everybody", cobra.MaximumNArgs(1), false, func(ctx context.Context, admin *server.Admin, args []string) error {
		named := 0
		for _, given := range []bool{len(args) == 1, user != "", client != "", all} {
			if given {
				named++
			}
		}
		if named != 1 {
			return usageError{errors.New("name exactly one of ID, --user, --client and --all")}
		}
		rows, err := revokedRows(ctx, admin, args, user, client)
		if err != nil {
			return err
		}
		switch {
		case user != "":
			err = admin.RevokeUserGrants(ctx, user)
		case client != "":
			err = admin.RevokeClientGrants(ctx, client)
		case all:
			err = admin.RevokeAllGrants(ctx)
		default:
			err = admin.RevokeGrant(ctx, args[0])
		}
		if err != nil {
			return err
		}
		a.say("ended: refresh tokens are dead and introspection is inactive; access tokens verify offline until they expire")
		if !a.json {
			return nil
		}
		ended, err := rows()
		if err != nil {
			return err
		}
		return a.print(ended, func() {})
	})
	c.Flags().StringVar(&user, "user", "", "all grants of this user")
	c.Flags().StringVar(&client, "client", "", "all grants of this client")
	c.Flags().BoolVar(&all, "all", false, "all grants there are")
	return c
}

// revokedRows checks that the grant exists and returns how to read, afterwards, the rows that were named.
func revokedRows(ctx context.Context, admin *server.Admin, args []string, user, client string) (func() ([]server.Grant, error), error) {
	if len(args) == 0 {
		return func() ([]server.Grant, error) { return admin.Grants(ctx, user, client) }, nil
	}
	if _, err := admin.Grant(ctx, args[0]); err != nil {
		return nil, err
	}
	return func() ([]server.Grant, error) {
		g, err := admin.Grant(ctx, args[0])
		return []server.Grant{g}, err
	}, nil
}
