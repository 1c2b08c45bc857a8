package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

func (a *app) clientCommand() *cobra.Command {
	one := func(use, short string, act func(admin.Clients, context.Context, string) error, done string) *cobra.Command {
		return a.verb(
			use+" ID",
			short,
			cobra.ExactArgs(1),
			false,
			func(ctx context.Context, adm *admin.Admin, args []string) error {
				read := func() (admin.Client, error) { return adm.Clients().Find(ctx, args[0]) }
				change := func() error { return act(adm.Clients(), ctx, args[0]) }
				return changeOne(a, "client "+args[0], done, use == "delete", read, change)
			},
		)
	}
	return noun("client", "Applications and resource servers",
		a.clientCreate(), a.clientList(), a.clientShow(), a.clientUpdate(), a.clientRotateSecret(),
		one("enable", "Let a disabled client authenticate again; its grants stay ended",
			admin.Clients.Enable, "enabled"),
		one("disable", "End a client's grants and let it not authenticate",
			admin.Clients.Disable, "disabled: all grants have ended"),
		one("delete", "Remove a client and its grants", admin.Clients.Delete, "deleted with its grants"))
}

// clientFlags are what describes a client.
type clientFlags struct {
	grants, scope, audiences []string
	resource, accessTTL, typ string
}

func (f *clientFlags) add(flags *pflag.FlagSet) {
	flags.StringSliceVar(&f.grants, "grant", nil, "grant type that the client may use: password, refresh_token")
	flags.StringArrayVar(&f.scope, "scope", nil, "scope that the client may have, words separated by spaces")
	flags.StringSliceVar(
		&f.audiences,
		"audience",
		nil,
		"URI of a resource that the client gets tokens for; the first is the default",
	)
	flags.StringVar(
		&f.resource,
		"resource",
		"",
		"URI of the resource that this client serves: it may introspect tokens for it",
	)
	flags.StringVar(
		&f.accessTTL,
		"access-ttl",
		"",
		"lifetime of the client's access tokens, at most 1h (default: the server's)",
	)
	flags.StringVar(
		&f.typ,
		"token-typ",
		"",
		"typ in the header of the client's access tokens: at+jwt, or JWT for verifiers that refuse that (default: at+jwt)",
	)
}

// apply sets what was given on the command line.
func (f *clientFlags) apply(flags *pflag.FlagSet, spec *admin.ClientSpec) error {
	if flags.Changed("grant") {
		spec.Grants = f.grants
	}
	if flags.Changed("scope") {
		spec.Scope = strings.Join(f.scope, " ")
	}
	if flags.Changed("audience") {
		spec.Audiences = f.audiences
	}
	if flags.Changed("resource") {
		spec.Resource = f.resource
	}
	if flags.Changed("token-typ") {
		spec.TokenTyp = f.typ
	}
	if f.accessTTL != "" {
		span, err := config.ParseDuration(f.accessTTL)
		if err != nil {
			return usageError{err}
		}
		spec.AccessTTL = span
	}
	return nil
}

func (a *app) clientCreate() *cobra.Command {
	var f clientFlags
	var public, secretStdin bool
	var c *cobra.Command
	c = a.verb(
		"create ID",
		"Make a client; its secret is printed once",
		cobra.ExactArgs(1),
		true,
		func(ctx context.Context, adm *admin.Admin, args []string) error {
			spec := admin.ClientSpec{ID: args[0], Public: public}
			if err := f.apply(c.Flags(), &spec); err != nil {
				return err
			}
			if secretStdin {
				var err error
				if spec.Secret, err = readLine(a.stdin); err != nil {
					return err
				}
			}
			made, err := adm.Clients().Create(ctx, spec)
			if err != nil {
				return err
			}
			return a.print(made, func() {
				a.pairs([2]string{"client_id", made.ID}, [2]string{"client_secret", orDash(made.Secret)})
				if made.Secret != "" {
					a.say("Keep the secret now: it is not shown again.")
				}
			})
		},
	)
	f.add(c.Flags())
	c.Flags().BoolVar(&public, "public", false, "the client cannot keep a secret")
	c.Flags().BoolVar(&secretStdin, "secret-stdin", false, "read the secret from standard input instead of making one")
	return c
}

func (a *app) clientList() *cobra.Command {
	return a.verb(
		"list",
		"List clients",
		cobra.NoArgs,
		false,
		func(ctx context.Context, adm *admin.Admin, _ []string) error {
			each := func(do func([]admin.Client) error) error { return adm.Clients().Each(ctx, do) }
			heading := []string{"CLIENT", "KIND", "GRANTS", "SCOPE", "AUDIENCES", "RESOURCE", "DISABLED"}
			return list(a, heading, each, func(c admin.Client) []string {
				return []string{
					c.ID,
					clientKind(c),
					orDash(strings.Join(c.Grants, " ")),
					orDash(c.Scope),
					orDash(strings.Join(c.Audiences, " ")),
					orDash(c.Resource),
					moment(c.DisabledAt),
				}
			})
		},
	)
}

func clientKind(c admin.Client) string {
	if c.Public {
		return "public"
	}
	return "confidential"
}

func (a *app) printClient(c admin.Client) error {
	return a.print(c, func() {
		a.pairs(
			[2]string{"client_id", c.ID},
			[2]string{"kind", clientKind(c)},
			[2]string{"grants", orDash(strings.Join(c.Grants, " "))},
			[2]string{
				"scope",
				orDash(c.Scope),
			},
			[2]string{"audiences", orDash(strings.Join(c.Audiences, " "))},
			[2]string{"resource", orDash(c.Resource)},
			[2]string{"access_ttl", orDash(accessTTL(c))},
			[2]string{"token_typ", c.TokenTyp},
			[2]string{"created_at", moment(&c.CreatedAt)},
			[2]string{"disabled_at", moment(c.DisabledAt)},
		)
	})
}

func accessTTL(c admin.Client) string {
	if c.AccessTTL == 0 {
		return ""
	}
	return time.Duration(c.AccessTTL).String()
}

func (a *app) clientShow() *cobra.Command {
	return a.verb(
		"show ID",
		"Show a client",
		cobra.ExactArgs(1),
		false,
		func(ctx context.Context, adm *admin.Admin, args []string) error {
			c, err := adm.Clients().Find(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printClient(c)
		},
	)
}

func (a *app) clientUpdate() *cobra.Command {
	var f clientFlags
	var c *cobra.Command
	c = a.verb(
		"update ID",
		"Change what a client may do; what is not named stays",
		cobra.ExactArgs(1),
		false,
		func(ctx context.Context, adm *admin.Admin, args []string) error {
			var bad error
			updated, err := adm.Clients().Update(ctx, args[0], func(spec *admin.ClientSpec) { bad = f.apply(c.Flags(), spec) })
			if bad != nil || err != nil {
				return firstError(bad, err)
			}
			return a.printClient(updated)
		},
	)
	f.add(c.Flags())
	return c
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *app) clientRotateSecret() *cobra.Command {
	var keep string
	var secretStdin bool
	c := a.verb(
		"rotate-secret ID",
		"Give a client a new secret; both work until the old one lapses",
		cobra.ExactArgs(1),
		false,
		func(ctx context.Context, adm *admin.Admin, args []string) error {
			span, err := config.ParseDuration(keep)
			if err != nil {
				return usageError{err}
			}
			secret := ""
			if secretStdin {
				if secret, err = readLine(a.stdin); err != nil {
					return err
				}
			}
			rotated, err := adm.Clients().RotateSecret(ctx, args[0], secret, span)
			if err != nil {
				return err
			}
			return a.print(rotated, func() {
				a.pairs(
					[2]string{"client_id", rotated.ClientID},
					[2]string{"client_secret", rotated.Secret},
					[2]string{"previous_expires_at", moment(&rotated.PreviousExpiresAt)},
				)
			})
		},
	)
	c.Flags().StringVar(&keep, "keep", "24h", "how long the old secret works")
	c.Flags().BoolVar(&secretStdin, "secret-stdin", false, "read the secret from standard input instead of making one")
	return c
}
