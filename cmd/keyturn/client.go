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

// clientCommands are the verbs of keyturn client.
type clientCommands struct{ *app }

func (c clientCommands) root() *cobra.Command {
	return noun(
		"client",
		"Manage applications and resource servers",
		c.create(),
		c.list(),
		c.show(),
		c.update(),
		c.rotateSecret(),
		c.changes().change("enable", "Let a disabled client authenticate again; its grants stay ended",
			"enabled", admin.Clients.Enable),
		c.changes().change("disable", "End a client's grants and refuse its authentication",
			"disabled: all grants have ended", admin.Clients.Disable),
		c.changes().change("delete", "Delete a client and its grants", "deleted with its grants", admin.Clients.Delete),
	)
}

func (c clientCommands) changes() changes[admin.Clients, admin.Client] {
	return changes[admin.Clients, admin.Client]{
		app:      c.app,
		noun:     "client",
		argument: "ID",
		table:    func(op *operator) admin.Clients { return op.Clients() },
		find:     admin.Clients.Find,
	}
}

// clientFlags are the flags that describe a client.
type clientFlags struct {
	grants, scope, audiences []string
	resource, accessTTL, typ string
}

func (f *clientFlags) add(flags *pflag.FlagSet) {
	flags.StringSliceVar(&f.grants, "grant", nil, "grant type that the client may use: password, refresh_token")
	flags.StringArrayVar(&f.scope, "scope", nil, "scopes that the client may request, separated by spaces")
	flags.StringSliceVar(&f.audiences, "audience", nil,
		"URI of a resource that the client gets tokens for; the first is the default")
	flags.StringVar(&f.resource, "resource", "",
		"URI of the resource that this client serves: it may introspect tokens for it")
	flags.StringVar(&f.accessTTL, "access-ttl", "",
		"lifetime of the client's access tokens, at most 1h (default: the server's)")
	flags.StringVar(&f.typ, "token-typ", "",
		"typ in the header of the client's access tokens: at+jwt, or JWT for verifiers that refuse it (default: "+
			"at+jwt)")
}

// apply copies the flags that were given.
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

func (c clientCommands) create() *cobra.Command {
	var f clientFlags
	var public, secretStdin bool
	var cmd *cobra.Command
	create := func(ctx context.Context, op *operator, args []string) error {
		spec := admin.ClientSpec{ID: args[0], Public: public}
		if err := f.apply(cmd.Flags(), &spec); err != nil {
			return err
		}
		if secretStdin {
			var err error
			if spec.Secret, err = readLine(c.stdin); err != nil {
				return err
			}
		}
		made, err := op.Clients().Create(ctx, spec)
		if err != nil {
			return err
		}
		return c.print(made, func() {
			c.pairs([][2]string{{"client_id", made.ID}, {"client_secret", orDash(made.Secret)}})
			if made.Secret != "" {
				c.say("Keep the secret now: keyturn does not show it again.")
			}
		})
	}
	cmd = c.verb(verb{
		use:    "create ID",
		short:  "Create a client and print its secret once",
		args:   cobra.ExactArgs(1),
		create: true,
		act:    create,
	})
	f.add(cmd.Flags())
	cmd.Flags().BoolVar(&public, "public", false, "the client cannot keep a secret")
	addSecretStdin(cmd, &secretStdin)
	return cmd
}

func addSecretStdin(cmd *cobra.Command, fromStdin *bool) {
	cmd.Flags().BoolVar(fromStdin, "secret-stdin", false,
		"read the secret from standard input instead of generating one")
}

func (c clientCommands) list() *cobra.Command {
	return c.verb(verb{
		use:   "list",
		short: "List clients",
		args:  cobra.NoArgs,
		act: func(ctx context.Context, op *operator, _ []string) error {
			each := func(do func([]admin.Client) error) error { return op.Clients().Each(ctx, do) }
			heading := []string{"CLIENT", "KIND", "GRANTS", "SCOPE", "AUDIENCES", "RESOURCE", "DISABLED"}
			return list(c.console, heading, each, clientCells)
		},
	})
}

func clientCells(client admin.Client) []string {
	return []string{
		client.ID,
		clientKind(client),
		orDash(strings.Join(client.Grants, " ")),
		orDash(client.Scope),
		orDash(strings.Join(client.Audiences, " ")),
		orDash(client.Resource),
		moment(client.DisabledAt),
	}
}

func clientKind(client admin.Client) string {
	if client.Public {
		return "public"
	}
	return "confidential"
}

func (c clientCommands) printClient(client admin.Client) error {
	return c.print(client, func() {
		c.pairs([][2]string{
			{"client_id", client.ID},
			{"kind", clientKind(client)},
			{"grants", orDash(strings.Join(client.Grants, " "))},
			{"scope", orDash(client.Scope)},
			{"audiences", orDash(strings.Join(client.Audiences, " "))},
			{"resource", orDash(client.Resource)},
			{"access_ttl", orDash(accessTTL(client))},
			{"token_typ", client.TokenTyp},
			{"created_at", moment(&client.CreatedAt)},
			{"disabled_at", moment(client.DisabledAt)},
		})
	})
}

func accessTTL(client admin.Client) string {
	if client.AccessTTL == 0 {
		return ""
	}
	return time.Duration(client.AccessTTL).String()
}

func (c clientCommands) show() *cobra.Command {
	return c.verb(verb{
		use:   "show ID",
		short: "Show a client",
		args:  cobra.ExactArgs(1),
		act: func(ctx context.Context, op *operator, args []string) error {
			client, err := op.Clients().Find(ctx, args[0])
			if err != nil {
				return err
			}
			return c.printClient(client)
		},
	})
}

func (c clientCommands) update() *cobra.Command {
	var f clientFlags
	var cmd *cobra.Command
	cmd = c.verb(verb{
		use:   "update ID",
		short: "Change the properties of a client that flags name; the others stay",
		args:  cobra.ExactArgs(1),
		act: func(ctx context.Context, op *operator, args []string) error {
			var bad error
			updated, err := op.Clients().Update(ctx, args[0], func(spec *admin.ClientSpec) {
				bad = f.apply(cmd.Flags(), spec)
			})
			if bad != nil {
				return bad
			}
			if err != nil {
				return err
			}
			return c.printClient(updated)
		},
	})
	f.add(cmd.Flags())
	return cmd
}

func (c clientCommands) rotateSecret() *cobra.Command {
	var keep string
	var secretStdin bool
	rotate := func(ctx context.Context, op *operator, args []string) error {
		span, err := config.ParseDuration(keep)
		if err != nil {
			return usageError{err}
		}
		secret := ""
		if secretStdin {
			if secret, err = readLine(c.stdin); err != nil {
				return err
			}
		}
		rotated, err := op.Clients().RotateSecret(ctx, args[0], secret, span)
		if err != nil {
			return err
		}
		return c.print(rotated, func() {
			c.pairs([][2]string{
				{"client_id", rotated.ClientID},
				{"client_secret", rotated.Secret},
				{"previous_expires_at", moment(&rotated.PreviousExpiresAt)},
			})
		})
	}
	cmd := c.verb(verb{
		use:   "rotate-secret ID",
		short: "Give a client a new secret; the old one works until it expires",
		args:  cobra.ExactArgs(1),
		act:   rotate,
	})
	cmd.Flags().StringVar(&keep, "keep", "24h", "how long the old secret works")
	addSecretStdin(cmd, &secretStdin)
	return cmd
}
