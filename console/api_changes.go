package console

import (
	"context"
	"net/http"
	"time"

	"github.com/keyturn/keyturn/admin"
)

// changeClient makes a change of a client, and returns the client after it.
func (k *call) changeClient(o order, change func(admin.Clients, context.Context, string) error) (any, error) {
	a, err := k.changes(o)
	if err != nil {
		return nil, err
	}
	return k.changedClient(a, change)
}

func (k *call) changedClient(
	a *admin.Admin, change func(admin.Clients, context.Context, string) error,
) (answer, error) {
	ctx, id := k.r.Context(), k.vars("id")
	if _, err := a.Clients().Find(ctx, id); err != nil {
		return answer{}, err
	}
	if err := change(a.Clients(), ctx, id); err != nil {
		return answer{}, k.changedBy(err, "client", id)
	}
	a.Remember(ctx)
	c, err := a.Clients().Find(ctx, id)
	return answer{body: c, tag: c.Revision}, err
}

func (k *call) enableClient() (any, error) { return k.changeClient(&change{}, admin.Clients.Enable) }

func (k *call) disableClient() (any, error) { return k.changeClient(&change{}, admin.Clients.Disable) }

// newSecret is the body of POST clients/{id}/rotate-secret.
type newSecret struct {
	change
	Keep  *string `json:"keep"` // how long the old secret works, for instance 24h; null: 24h
	Force bool    `json:"force"`
}

// defaultKeep is how long the old secret works, as on the command line.
const defaultKeep = "24h"

func (o newSecret) rotation() (admin.SecretRotation, error) {
	keep := defaultKeep
	if o.Keep != nil {
		keep = *o.Keep
	}
	span, err := admin.ParseDuration(keep)
	return admin.SecretRotation{Keep: span, Force: o.Force}, err
}

func (k *call) rotateSecret() (any, error) {
	var o newSecret
	if err := k.readOrder(&o); err != nil {
		return nil, err
	}
	return k.newSecret(o)
}

func (k *call) newSecret(o newSecret) (answer, error) {
	r, err := o.rotation()
	if err != nil {
		return answer{}, err
	}
	a, err := k.admin(o.Reason, o.saw)
	if err != nil {
		return answer{}, err
	}
	id := k.vars("id")
	done, err := a.Clients().RotateSecret(k.r.Context(), id, r)
	if err != nil {
		return answer{}, k.changedBy(err, "client", id)
	}
	a.Remember(k.r.Context())
	return answer{body: done}, nil
}

// changeUser makes a change of a user, and returns the user after it.
func (k *call) changeUser(o order, change func(admin.Users, context.Context, string) error) (any, error) {
	a, err := k.changes(o)
	if err != nil {
		return nil, err
	}
	return k.changedUser(a, change)
}

func (k *call) changedUser(a *admin.Admin, change func(admin.Users, context.Context, string) error) (answer, error) {
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

func (k *call) enableUser() (any, error)  { return k.changeUser(&change{}, admin.Users.Enable) }
func (k *call) disableUser() (any, error) { return k.changeUser(&change{}, admin.Users.Disable) }
func (k *call) unlockUser() (any, error)  { return k.changeUser(&change{}, admin.Users.Unlock) }

// newRoles is the body of POST users/{name}/roles.
type newRoles struct {
	change
	Roles []string `json:"roles"`
}

func (o *newRoles) set(users admin.Users, ctx context.Context, name string) error {
	_, err := users.SetRoles(ctx, name, o.Roles)
	return err
}

func (k *call) setRoles() (any, error) {
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

func (k *call) endGrant() (any, error) {
	var o change
	if err := k.readOrder(&o); err != nil {
		return nil, err
	}
	return k.endOne(o)
}

// endOne ends one grant. It has no revision of its own: ended or not is all that a caller can have seen.
func (k *call) endOne(o change) (answer, error) {
	a, err := k.admin(o.Reason, o.saw)
	if err != nil {
		return answer{}, err
	}
	ctx, id := k.r.Context(), k.vars("id")
	g, err := a.Grants().Find(ctx, id)
	if err != nil {
		return answer{}, err
	}
	if o.saw != 0 && o.saw != grantTag(g) {
		return answer{}, k.changedBy(admin.ErrChanged, "grant", id)
	}
	if err := a.Grants().Revoke(ctx, id); err != nil {
		return answer{}, k.changedBy(err, "grant", id)
	}
	a.Remember(ctx)
	g, err = a.Grants().Find(ctx, id)
	return answer{body: g, tag: grantTag(g)}, err
}

// ending is the body of POST grants/revoke: exactly one of user, client and all.
type ending struct {
	change
	User   string `json:"user"`
	Client string `json:"client"`
	All    bool   `json:"all"`
}

func (k *call) endGrants() (any, error) {
	var o ending
	if err := k.readOrder(&o); err != nil {
		return nil, err
	}
	if err := k.endMany(o); err != nil {
		return nil, err
	}
	f := admin.GrantFilter{Username: o.User, ClientID: o.Client}
	p, err := k.reads().Grants().Page(k.r.Context(), f)
	return pageOf(p, grantKey), err
}

// endMany ends all grants of a user, of a client, or of everybody.
func (k *call) endMany(o ending) error {
	named := 0
	for _, given := range []bool{o.User != "", o.Client != "", o.All} {
		if given {
			named++
		}
	}
	if named != 1 {
		return problem(http.StatusUnprocessableEntity, "invalid", "name exactly one of user, client and all")
	}
	if o.All && o.saw != 0 {
		return problem(http.StatusUnprocessableEntity, "invalid", "all logins have no ETag: send If-Match: *")
	}
	a, err := k.admin(o.Reason, o.saw)
	if err != nil {
		return err
	}
	ctx := k.r.Context()
	switch {
	case o.User != "":
		err = k.changedBy(a.Grants().RevokeOfUser(ctx, o.User), "user", o.User)
	case o.Client != "":
		err = k.changedBy(a.Grants().RevokeOfClient(ctx, o.Client), "client", o.Client)
	default:
		err = a.Grants().RevokeAll(ctx)
	}
	if err == nil {
		a.Remember(ctx)
	}
	return err
}

// sinceText reads a time from a form: RFC 3339, or without seconds and zone, in UTC.
func sinceText(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04"} {
		if t, err := time.ParseInLocation(layout, text, time.UTC); err == nil {
			return t, nil
		}
	}
	return time.Time{}, problem(http.StatusUnprocessableEntity, "invalid",
		"want a time in UTC such as 2026-01-31T12:00:00Z")
}
