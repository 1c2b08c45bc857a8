package console

import (
	"context"
	"net/http"
	"strings"

	"github.com/keyturn/keyturn/admin"
)

// userCalls are the requests for users.
type userCalls struct{ *call }

func (k userCalls) listUsers() (any, error) {
	f, err := k.userFilter()
	if err != nil {
		return nil, err
	}
	p, err := k.reads().Users().Page(k.r.Context(), f)
	return pageOf(p, itself), err
}

func (k userCalls) userFilter() (admin.UserFilter, error) {
	q := k.query("after", "prefix", "role", "disabled")
	f := admin.UserFilter{
		After:    q.text("after"),
		Prefix:   q.text("prefix"),
		Role:     q.text("role"),
		Disabled: q.flag("disabled"),
	}
	return f, q.err
}

func (k userCalls) showUser() (any, error) {
	u, err := k.reads().Users().Details(k.r.Context(), k.vars("name"))
	return answer{body: u, tag: u.Revision}, err
}

// newRoles is the body of POST users/{name}/roles.
type newRoles struct {
	change
	Roles []string `json:"roles"`
}

func (o *newRoles) set(users admin.Users, ctx context.Context, name string) error {
	_, err := users.SetRoles(ctx, name, o.Roles)
	return err
}

func (k userCalls) setRoles() (any, error) {
	var o newRoles
	if err := k.readOrder(&o); err != nil {
		return nil, err
	}
	if o.Roles == nil {
		return nil, problem(http.StatusUnprocessableEntity, "invalid",
			"roles is missing: it replaces all roles, and [] "+
				"removes them")
	}
	return userRows.change(k.call, o.change, o.set)
}

func (k userCalls) usersPage() error {
	k.cleared()
	f, err := k.userFilter()
	if err != nil {
		return err
	}
	p, err := k.reads().Users().Page(k.r.Context(), f)
	if err != nil {
		return err
	}
	return list(k.call, "users", view{Title: "Users", Nav: "users"}, p, itself, nil)
}

func (k userCalls) userPage() error {
	u, err := k.reads().Users().Details(k.r.Context(), k.vars("name"))
	if err != nil {
		return err
	}
	return k.show("user", view{Title: "User " + u.Username, Nav: "users", Data: u})
}

func (k userCalls) rolesForm() error {
	o := newRoles{Roles: strings.Fields(k.typed("roles"))}
	return userRows.form(o.set, "roles")(k.call)
}
