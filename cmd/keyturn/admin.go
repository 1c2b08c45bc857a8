package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

// adminCommands are the verbs of keyturn admin.
type adminCommands struct{ *app }

func (a adminCommands) root() *cobra.Command {
	return noun(
		"admin",
		"Manage who may use the console and the admin API",
		a.create(),
		a.link(),
		a.list(),
		a.changes().change("disable", "End the sessions of an administrator, and refuse new ones",
			"disabled: all sessions have ended", admin.Administrators.Disable),
		a.delete(),
	)
}

func (a adminCommands) changes() changes[admin.Administrators, admin.Administrator] {
	return changes[admin.Administrators, admin.Administrator]{
		app:      a.app,
		noun:     "admin",
		argument: "NAME",
		complete: completeAdmins,
		table:    func(op *operator) admin.Administrators { return op.Administrators() },
		find:     admin.Administrators.Find,
	}
}

// addRole adds the flag of the role.
func (a adminCommands) addRole(cmd *cobra.Command, role *string, usage string) {
	cmd.Flags().StringVar(role, "role", "", usage)
	var words []string
	for _, r := range admin.Roles {
		words = append(words, string(r))
	}
	a.completeWord(cmd, "role", words...)
}

func (a adminCommands) create() *cobra.Command {
	var role, subject string
	cmd := a.verb(verb{
		use:   "create NAME",
		short: "Create an administrator with a client certificate, or os:NAME for a user of the Unix socket",
		args:  cobra.ExactArgs(1),
		act: func(ctx context.Context, op *operator, args []string) error {
			made, err := op.Administrators().Create(ctx, args[0], admin.Role(role), subject)
			if err != nil {
				return err
			}
			return a.print(made, func() {
				a.pairs([][2]string{
					{"name", made.Name},
					{"role", made.Role},
					{"certificate subject", orDash(made.CertificateSubject)},
				})
				if subject == "" && !strings.HasPrefix(made.Name, admin.SocketPrefix) {
					a.say("`keyturn admin link %s` makes a link to sign in.", made.Name)
				}
			})
		},
	})
	a.addRole(cmd, &role, "viewer, auditor, operator or key-operator; each may do what those before it may")
	cmd.Flags().StringVar(&subject, "certificate-subject", "",
		"subject of the client certificate, as openssl x509 -subject -nameopt RFC2253 prints it")
	return cmd
}

func (a adminCommands) link() *cobra.Command {
	var role string
	cmd := a.verb(verb{
		use:      "link NAME",
		short:    "Print a link with which an administrator signs in once, within 15 minutes",
		args:     cobra.ExactArgs(1),
		complete: completeAdmins,
		act: func(ctx context.Context, op *operator, args []string) error {
			made, err := op.Administrators().Link(ctx, args[0], admin.Role(role))
			if err != nil {
				return err
			}
			return a.print(made, func() {
				fmt.Fprintln(a.stdout, made.URL)
				a.say("Whoever opens this link first signs in as %s (%s). It works once, until %s. An older link of "+
					"%s does not work any more.", made.Name, made.Role, a.when(&made.ExpiresAt), made.Name)
			})
		},
	})
	a.addRole(cmd, &role, "create the administrator with this role if there is none: viewer, auditor, operator or "+
		"key-operator")
	addSettings(cmd.Flags(), config.ScopeConsole)
	return cmd
}

func (a adminCommands) list() *cobra.Command {
	return a.verb(verb{
		use:   "list",
		short: "List administrators, their roles and their ways in",
		args:  cobra.NoArgs,
		reads: true,
		act: func(ctx context.Context, op *operator, _ []string) error {
			all, err := op.Administrators().List(ctx)
			if err != nil {
				return err
			}
			return a.print(all, func() {
				var rows [][]string
				for _, row := range all {
					rows = append(rows, []string{
						row.Name,
						row.Role,
						orDash(row.CertificateSubject),
						strconv.FormatInt(row.Passkeys, 10),
						strconv.Itoa(len(row.Sessions)),
						a.moment(&row.CreatedAt),
						a.moment(row.DisabledAt),
					})
				}
				a.table([]string{"NAME", "ROLE", "CERTIFICATE", "PASSKEYS", "SESSIONS", "CREATED", "DISABLED"}, rows)
			})
		},
	})
}

func (a adminCommands) delete() *cobra.Command {
	return a.verb(verb{
		use:      "delete NAME",
		short:    "Delete an administrator with its passkeys, and end its sessions",
		args:     cobra.ExactArgs(1),
		complete: completeAdmins,
		act: func(ctx context.Context, op *operator, args []string) error {
			err := a.changes().apply(ctx, op, args[0], "deleted", true, admin.Administrators.Delete)
			if errors.Is(err, admin.ErrNotFound) {
				return fmt.Errorf("%w: `keyturn admin list` lists them", err)
			}
			return err
		},
	})
}
