package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

// verifierCommands are the verbs of keyturn verifier.
type verifierCommands struct{ *app }

func (v verifierCommands) root() *cobra.Command {
	return noun(
		"verifier",
		"Manage resource servers that fetch the keys under a name, to see who has the next key",
		v.create(),
		v.list(),
		v.show(),
		v.delete(),
	)
}

// verb makes a command with the issuer, which the URL of the keys begins with.
func (v verifierCommands) verb(spec verb) *cobra.Command {
	cmd := v.app.verb(spec)
	addSettings(cmd.Flags(), config.ScopeIssuer)
	return cmd
}

func (v verifierCommands) create() *cobra.Command {
	var resource, note string
	cmd := v.verb(verb{
		use:   "create NAME",
		short: "Register a resource server that verifies tokens, and print the URL from which it fetches the keys",
		args:  cobra.ExactArgs(1),
		act: func(ctx context.Context, op *operator, args []string) error {
			made, err := op.Verifiers().Create(ctx, args[0], resource, note)
			if err != nil {
				return err
			}
			return v.print(made, func() {
				v.pairs([][2]string{{"jwks_uri", made.JWKSURI}})
				v.say("Set this URL, with its query, as the JWKS URL of the verifier. It is no secret: it only names "+
					"the verifier, so that `keyturn keys readiness` can say whether %s has the next key.", made.Name)
			})
		},
	})
	cmd.Flags().StringVar(&resource, "resource", "", "URI of the resource whose tokens it verifies")
	cmd.Flags().StringVar(&note, "note", "", "whom to ask about it, for people")
	return cmd
}

func (v verifierCommands) list() *cobra.Command {
	var l listFlags
	cmd := v.verb(verb{
		use:   "list",
		short: "List registered verifiers",
		args:  cobra.NoArgs,
		reads: true,
		act: func(ctx context.Context, op *operator, _ []string) error {
			each := func(do func([]admin.Verifier) error) error { return op.Verifiers().List(ctx, l.after, do) }
			heading := []string{"NAME", "RESOURCE", "JWKS URI", "NOTE"}
			cells := func(row admin.Verifier) []string {
				return []string{row.Name, row.Resource, row.JWKSURI, orDash(row.Note)}
			}
			return limited(v.streams, &l, heading, each, cells, func(row admin.Verifier) any { return row.Name })
		},
	})
	l.add(cmd, "name")
	return cmd
}

func (v verifierCommands) show() *cobra.Command {
	return v.verb(verb{
		use:      "show NAME",
		short:    "Show a registered verifier",
		args:     cobra.ExactArgs(1),
		reads:    true,
		complete: completeVerifiers,
		act: func(ctx context.Context, op *operator, args []string) error {
			row, err := op.Verifiers().Find(ctx, args[0])
			if err != nil {
				return err
			}
			return v.print(row, func() {
				v.pairs([][2]string{
					{"name", row.Name},
					{"resource", row.Resource},
					{"jwks_uri", row.JWKSURI},
					{"note", orDash(row.Note)},
					{"created_at", v.when(&row.CreatedAt)},
				})
			})
		},
	})
}

func (v verifierCommands) delete() *cobra.Command {
	verbs := changes[admin.Verifiers, admin.Verifier]{
		app:      v.app,
		noun:     "verifier",
		argument: "NAME",
		complete: completeVerifiers,
		table:    func(op *operator) admin.Verifiers { return op.Verifiers() },
		find:     admin.Verifiers.Find,
	}
	return v.verb(verb{
		use:      "delete NAME",
		short:    "Forget a verifier and what was observed of it; its URL still works, without a name",
		args:     cobra.ExactArgs(1),
		complete: completeVerifiers,
		act: func(ctx context.Context, op *operator, args []string) error {
			return verbs.apply(ctx, op, args[0], "deleted", true, admin.Verifiers.Delete)
		},
	})
}
