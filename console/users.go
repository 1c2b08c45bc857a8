package console

import (
	"context"
	"net/http"
	"net/url"
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

// changeUser makes a change of a user, and returns the user after it.
func (k userCalls) changeUser(o order, change func(admin.Users, context.Context, string) error) (any, error) {
	a, err := k.changes(o)
	if err != nil {
		return nil, err
	}
	return k.changedUser(a, change)
}

func (k userCalls) changedUser(a *admin.Admin, change func(admin.Users, context.Context, string) error) (answer,
	error) {
	ctx, name := k.r.Context(), k.vars("name")
	if _, err := a.Users().Find(ctx, name); err != nil {
		return answer{}, err
	}
	if err := change(a.Users(), ctx, name); err != nil {
		return answer{}, k.changedBy(err, "user", name)
	}
	a.Remember(ctx)
	u, err := a.Users().Find(ctx, name)
	return answer{body: u, tag: u.Revision}, err
}

func (k userCalls) enableUser() (any, error)  { return k.changeUser(&change{}, admin.Users.Enable) }
func (k userCalls) disableUser() (any, error) { return k.changeUser(&change{}, admin.Users.Disable) }
func (k userCalls) unlockUser() (any, error)  { return k.changeUser(&change{}, admin.Users.Unlock) }

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
	a, err := k.admin(o.Reason, o.saw)
	if err != nil {
		return nil, err
	}
	return k.changedUser(a, o.set)
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

// userForm makes the form of a change of a user.
func userForm(change func(admin.Users, context.Context, string) error, done string) func(*call) error {
	return as(func(k userCalls) error {
		c, err := k.formChange()
		if err != nil {
			return err
		}
		a, err := k.admin(c.Reason, c.saw)
		if err != nil {
			return err
		}
		if _, err := k.changedUser(a, change); err != nil {
			return err
		}
		return k.goTo("/users/"+url.PathEscape(k.vars("name")), done)
	})
}

func (k userCalls) rolesForm() error {
	o := newRoles{Roles: strings.Fields(k.typed("roles"))}
	return userForm(o.set, "roles")(k.call)
}
