package console

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/keyturn/keyturn/admin"
)

// grantCalls are the requests for logins.
type grantCalls struct{ *call }

func (k grantCalls) listGrants() (any, error) {
	f, err := k.grantFilter()
	if err != nil {
		return nil, err
	}
	p, err := k.reads().Grants().Page(k.r.Context(), f)
	return pageOf(p, grantKey), err
}

func (k grantCalls) grantFilter() (f admin.GrantFilter, err error) {
	q := k.query("after", "user", "client", "active", "ended", "since")
	f = admin.GrantFilter{
		Username: q.text("user"),
		ClientID: q.text("client"),
		Active:   q.flag("active"),
		Ended:    q.flag("ended"),
		Since:    q.moment("since"),
	}
	if f.Active && f.Ended {
		q.fail("active and ended exclude each other")
	}
	if after := q.text("after"); after != "" {
		if f.After, err = admin.ParseGrantID(after); err != nil {
			return f, err
		}
	}
	return f, q.err
}

func (k grantCalls) showGrant() (any, error) {
	g, err := k.reads().Grants().Find(k.r.Context(), k.vars("id"))
	return answer{body: g, tag: grantTag(g)}, err
}

// grantTag is the revision of a grant for If-Match: it changes when the grant ends.
func grantTag(g admin.Grant) int64 {
	if g.EndedReason != nil {
		return 2
	}
	return 1
}

func (k grantCalls) endGrant() (any, error) {
	var o change
	if err := k.readOrder(&o); err != nil {
		return nil, err
	}
	return k.endOne(o)
}

// endOne ends one grant. It has no revision of its own: ended or not is all that a caller can have seen.
func (k grantCalls) endOne(o change) (answer, error) {
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
	return answer{body: g, tag: grantTag(g)}, readAgain(err)
}

// ending is the body of POST grants/revoke: exactly one of user, client and all.
type ending struct {
	change
	User   string `json:"user"`
	Client string `json:"client"`
	All    bool   `json:"all"`
}

func (k grantCalls) endGrants() (any, error) {
	var o ending
	if err := k.readOrder(&o); err != nil {
		return nil, err
	}
	if err := k.endMany(o); err != nil {
		return nil, err
	}
	f := admin.GrantFilter{Username: o.User, ClientID: o.Client}
	p, err := k.reads().Grants().Page(k.r.Context(), f)
	return pageOf(p, grantKey), readAgain(err)
}

// endMany ends all grants of a user, of a client, or of everybody.
func (k grantCalls) endMany(o ending) error {
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

func grantKey(id admin.GrantID) string { return id.String() }

func (k grantCalls) loginsPage() error {
	k.cleared()
	f, err := k.grantFilter()
	if err != nil {
		return err
	}
	p, err := k.reads().Grants().Page(k.r.Context(), f)
	if errors.Is(err, admin.ErrNotFound) {
		k.say("%s", sentence(err.Error())) // a slip in the filter, which the page keeps
	} else if err != nil {
		return err
	}
	return list(k.call, "logins", view{Title: "Logins", Nav: "logins"}, p, grantKey, nil)
}

func (k grantCalls) loginPage() error {
	g, err := k.reads().Grants().Find(k.r.Context(), k.vars("id"))
	if err != nil {
		return err
	}
	return k.show("login", view{Title: "Login", Nav: "logins", Data: g})
}

func (k grantCalls) endOneForm() error {
	c, err := k.formChange()
	if err != nil {
		return err
	}
	if _, err := k.endOne(c); err != nil {
		return err
	}
	return k.goTo("/logins/"+url.PathEscape(k.vars("id")), "ended")
}

// endForm ends many logins. A person must type the word all to end those of everybody.
func (k grantCalls) endForm() error {
	o := ending{User: k.typed("user"), Client: k.typed("client"),
		All: strings.EqualFold(strings.TrimSpace(k.typed("all")), "all")}
	o.Reason = k.typed("reason")
	if err := checkReason(o.Reason); err != nil {
		return err
	}
	if o.User == "" && o.Client == "" && !o.All {
		return problem(http.StatusUnprocessableEntity, "invalid", "name a user or a client, or type all to end the "+
			"logins of everybody")
	}
	if err := k.endMany(o); err != nil {
		return err
	}
	return k.goTo("/logins", "ended")
}
