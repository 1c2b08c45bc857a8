package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
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
		c.changes().delete("Delete a client and end its logins", "deleted with its grants",
			func(ctx context.Context, op *operator, id string) (int64, error) {
				return op.Grants().CountLive(ctx, "", id)
			}, admin.Clients.Delete),
	)
}

func (c clientCommands) changes() changes[admin.Clients, admin.Client] {
	return changes[admin.Clients, admin.Client]{
		app:      c.app,
		noun:     "client",
		argument: "ID",
		complete: completeClients,
		table:    func(op *operator) admin.Clients { return op.Clients() },
		find:     admin.Clients.Find,
	}
}

// clientFlags are the flags that describe a client.
type clientFlags struct {
	grants, scope, audiences []string
	resource, accessTTL, typ string
	rotation                 string
	claims                   []string
	probeOrigin              string
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
	flags.StringVar(&f.rotation, "refresh-rotation", "",
		"on, or off for a confidential client that holds one fixed refresh token: a stolen one then goes unnoticed "+
			"(default: on)")
	flags.StringVar(&f.probeOrigin, "probe-origin", "",
		"of a resource server: scheme and host where keyturn probe may send tokens, for instance "+
			"https://api.example.com; an empty value for none")
	flags.StringSliceVar(&f.claims, "claim", nil,
		"claim to add to the client's access tokens: username, as preferred_username; an empty value for none")
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
	if flags.Changed("probe-origin") {
		spec.ProbeOrigin = f.probeOrigin
	}
	if flags.Changed("claim") {
		spec.Claims = slices.DeleteFunc(f.claims, func(claim string) bool { return claim == "" })
	}
	switch f.rotation {
	case "":
	case "on", "off":
		spec.KeepRefresh = f.rotation == "off"
	default:
		return usageError{fmt.Errorf("--refresh-rotation: %q is neither on nor off", f.rotation)}
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
			pairs := [][2]string{{"client_id", made.ID}}
			if made.Secret != "" {
				pairs = append(pairs, [2]string{"client_secret", made.Secret})
			}
			c.pairs(pairs)
			if made.Secret != "" {
				c.say("Keep the secret now: keyturn does not show it again.")
			} else if !made.Public {
				c.say("The client has the secret from standard input.")
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
	c.completeClientFlags(cmd)
	return cmd
}

// completeClientFlags completes the flags with a few values.
func (c clientCommands) completeClientFlags(cmd *cobra.Command) {
	c.completeWord(cmd, "grant", api.GrantPassword, api.GrantRefreshToken)
	c.completeWord(cmd, "token-typ", "at+jwt", "JWT")
	c.completeWord(cmd, "refresh-rotation", "on", "off")
	c.completeWord(cmd, "claim", "username")
}

func addSecretStdin(cmd *cobra.Command, fromStdin *bool) {
	cmd.Flags().BoolVar(fromStdin, "secret-stdin", false,
		"read the secret from standard input instead of generating one")
}

func (c clientCommands) list() *cobra.Command {
	var l listFlags
	cmd := c.verb(verb{
		use:   "list",
		short: "List clients",
		args:  cobra.NoArgs,
		reads: true,
		act: func(ctx context.Context, op *operator, _ []string) error {
			each := func(do func([]admin.Client) error) error { return op.Clients().List(ctx, l.after, do) }
			heading := []string{"CLIENT", "KIND", "GRANTS", "SCOPE", "AUDIENCES", "RESOURCE", "DISABLED"}
			return limited(c.streams, &l, heading, each, c.clientCells, func(row admin.Client) any { return row.ID })
		},
	})
	l.add(cmd, "id")
	return cmd
}

func (c clientCommands) clientCells(client admin.Client) []string {
	return []string{
		client.ID,
		clientKind(client),
		orDash(strings.Join(client.Grants, " ")),
		orDash(client.Scope),
		orDash(strings.Join(client.Audiences, " ")),
		orDash(client.Resource),
		c.moment(client.DisabledAt),
	}
}

func clientKind(client admin.Client) string {
	if client.Public {
		return "public"
	}
	return "confidential"
}

func (c clientCommands) printClient(client admin.Client) error {
	return c.print(client, func() { c.pairs(c.clientPairs(client)) })
}

func (c clientCommands) clientPairs(client admin.Client) [][2]string {
	return [][2]string{
		{"client_id", client.ID},
		{"kind", clientKind(client)},
		{"grants", orDash(strings.Join(client.Grants, " "))},
		{"scope", orDash(client.Scope)},
		{"audiences", orDash(strings.Join(client.Audiences, " "))},
		{"resource", orDash(client.Resource)},
		{"access_ttl", orDash(accessTTL(client))},
		{"token_typ", client.TokenTyp},
		{"refresh_rotation", onOff(client.RefreshRotation)},
		{"claims", orDash(strings.Join(client.Claims, " "))},
		{"probe_origin", orDash(client.ProbeOrigin)},
		{"previous_expires_at", c.when(client.PreviousExpiresAt)},
		{"created_at", c.when(&client.CreatedAt)},
		{"disabled_at", c.when(client.DisabledAt)},
	}
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func accessTTL(client admin.Client) string {
	if client.AccessTTL == 0 {
		return ""
	}
	return time.Duration(client.AccessTTL).String()
}

func (c clientCommands) show() *cobra.Command {
	return c.verb(verb{
		use:      "show ID",
		short:    "Show a client",
		args:     cobra.ExactArgs(1),
		reads:    true,
		complete: completeClients,
		act: func(ctx context.Context, op *operator, args []string) error {
			client, err := op.Clients().Details(ctx, args[0])
			if err != nil {
				return err
			}
			return c.print(client, func() {
				pairs := c.clientPairs(client.Client)
				if len(client.Grants) > 0 {
					pairs = append(pairs, [2]string{"ended login accepted for", client.EndedLogin.String()})
				}
				c.pairs(pairs)
			})
		},
	})
}

// listEdit adds words to a list, or removes them.
type listEdit struct{ add, remove []string }

func (e *listEdit) flags(flags *pflag.FlagSet, name, what string) {
	flags.StringSliceVar(&e.add, "add-"+name, nil, "also allow this "+what)
	flags.StringSliceVar(&e.remove, "remove-"+name, nil, "no longer allow this "+what)
}

// apply edits a list. A word to remove must be in it.
func (e *listEdit) apply(name string, words []string) ([]string, error) {
	for _, text := range e.remove {
		for _, word := range strings.Fields(text) {
			if !slices.Contains(words, word) {
				return nil, usageError{fmt.Errorf("--remove-%s: the client does not have %q", name, word)}
			}
			words = slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == word })
		}
	}
	for _, text := range e.add {
		words = append(slices.Clone(words), strings.Fields(text)...)
	}
	return words, nil
}

// clientEdits are the flags of client update that do not replace a whole list.
type clientEdits struct{ scope, audience listEdit }

func (e *clientEdits) apply(spec *admin.ClientSpec) error {
	words, err := e.scope.apply("scope", strings.Fields(spec.Scope))
	if err != nil {
		return err
	}
	spec.Scope = strings.Join(words, " ")
	spec.Audiences, err = e.audience.apply("audience", spec.Audiences)
	return err
}

func (c clientCommands) update() *cobra.Command {
	var f clientFlags
	var e clientEdits
	var cmd *cobra.Command
	cmd = c.verb(verb{
		use:      "update ID",
		short:    "Change the properties of a client that flags name; the others stay",
		args:     cobra.ExactArgs(1),
		complete: completeClients,
		act: func(ctx context.Context, op *operator, args []string) error {
			var bad error
			updated, err := op.Clients().Update(ctx, args[0], func(spec *admin.ClientSpec) {
				bad = cmp.Or(f.apply(cmd.Flags(), spec), e.apply(spec))
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
	for _, name := range []string{"grant", "scope", "audience"} {
		flag := cmd.Flags().Lookup(name)
		flag.Usage += " (replaces the whole list)"
	}
	c.completeClientFlags(cmd)
	e.scope.flags(cmd.Flags(), "scope", "scope")
	e.audience.flags(cmd.Flags(), "audience", "URI of a resource")
	return cmd
}

func (c clientCommands) rotateSecret() *cobra.Command {
	var keep string
	var secretStdin, force bool
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
		rotated, err := op.Clients().RotateSecret(ctx, args[0], admin.SecretRotation{
			Secret: secret,
			Keep:   span,
			Force:  force,
		})
		if err != nil {
			return err
		}
		return c.print(rotated, func() {
			pairs := [][2]string{{"client_id", rotated.ClientID}}
			if rotated.Secret != "" {
				pairs = append(pairs, [2]string{"client_secret", rotated.Secret})
			}
			c.pairs(append(pairs, [2]string{"previous_expires_at", c.when(&rotated.PreviousExpiresAt)}))
			c.sayOldSecret(rotated, span)
		})
	}
	cmd := c.verb(verb{
		use:      "rotate-secret ID",
		short:    "Give a client a new secret; the old one works until it expires",
		args:     cobra.ExactArgs(1),
		complete: completeClients,
		act:      rotate,
	})
	cmd.Flags().StringVar(&keep, "keep", "24h", "how long the old secret works; 0: it ends now, as after a leak")
	cmd.Flags().BoolVar(&force, "force", false, "end an even older secret that still works")
	addSecretStdin(cmd, &secretStdin)
	return cmd
}

// sayOldSecret says until when the old secret works, and how to end it.
func (c clientCommands) sayOldSecret(r admin.RotatedSecret, keep time.Duration) {
	if keep == 0 {
		c.say("The old secret has ended.")
		return
	}
	c.say("The old secret works until %s. To end it now, for instance because it has leaked, run `keyturn client "+
		"rotate-secret %s --keep 0`: then only another new secret works.", c.when(&r.PreviousExpiresAt), r.ClientID)
}
