package console

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/admin"
)

func joinComma(words []string) string { return strings.Join(words, ", ") }

func grantKey(id admin.GrantID) string { return id.String() }

// listData is the input of the page of a list.
type listData struct {
	Rows   any
	Empty  bool
	Next   string // URL of the next page; "": there is none
	Filter url.Values
	Types  []string // of audit records
	Verify string   // result of the check of the trail
	Fault  string   // the check found this
	Now    string
}

// nextURL is the URL of the next page of a list.
func (k *call) nextURL(next string) string {
	if next == "" {
		return ""
	}
	q := k.r.URL.Query()
	q.Del("done")
	q.Set("after", next)
	return k.r.URL.Path + "?" + q.Encode()
}

// list shows a page of a list.
func list[Row any, Key comparable](
	k *call, name string, v view, p admin.Page[Row, Key], text func(Key) string, more func(*listData),
) error {
	d := listData{Rows: p.Rows, Empty: len(p.Rows) == 0, Filter: k.r.URL.Query()}
	if end := *new(Key); p.Next != end {
		d.Next = k.nextURL(text(p.Next))
	}
	if more != nil {
		more(&d)
	}
	v.Data = d
	return k.show(name, v)
}

// cleared returns the query of a filter form without empty fields and without words of the console.
func (k *call) cleared() {
	q := k.r.URL.Query()
	for name, values := range q {
		if name == "done" || len(values) == 1 && values[0] == "" {
			q.Del(name)
		}
	}
	k.filter = q
}

func (k *call) loginsPage() error {
	k.cleared()
	f, err := k.grantFilter()
	if err != nil {
		return err
	}
	p, err := k.reads().Grants().Page(k.r.Context(), f)
	if err != nil {
		return err
	}
	return list(k, "logins", view{Title: "Logins", Nav: "logins"}, p, grantKey, nil)
}

func (k *call) loginPage() error {
	g, err := k.reads().Grants().Find(k.r.Context(), k.vars("id"))
	if err != nil {
		return err
	}
	return k.show("login", view{Title: "Login", Nav: "logins", Data: g})
}

func (k *call) endOneForm() error {
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
func (k *call) endForm() error {
	o := ending{User: k.typed("user"), Client: k.typed("client"), All: k.typed("all") == "all"}
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

// typed returns a field of the form.
func (k *call) typed(field string) string {
	if k.r.PostForm == nil && k.parseForm() != nil {
		return ""
	}
	return k.r.PostForm.Get(field)
}

func (k *call) clientsPage() error {
	k.cleared()
	q := k.query("after")
	after := q.text("after")
	if q.err != nil {
		return q.err
	}
	p, err := k.reads().Clients().Page(k.r.Context(), after)
	if err != nil {
		return err
	}
	return list(k, "clients", view{Title: "Clients", Nav: "clients"}, p, itself, nil)
}

// clientData is the input of the page of a client.
type clientData struct {
	admin.ClientDetails
	Ended  string               // how long an ended login is accepted
	Secret *admin.RotatedSecret // after a rotation
}

func (k *call) clientPage() error {
	c, err := k.reads().Clients().Details(k.r.Context(), k.vars("id"))
	if err != nil {
		return err
	}
	d := clientData{ClientDetails: c}
	if len(c.Grants) > 0 {
		d.Ended = c.EndedLogin.String()
	}
	return k.show("client", view{Title: "Client " + c.ID, Nav: "clients", Data: d})
}

// secretForm gives the client a new secret, and shows it once.
func (k *call) secretForm() error {
	c, err := k.formChange()
	if err != nil {
		return err
	}
	keep := k.typed("keep")
	done, err := k.newSecret(newSecret{change: c, Keep: &keep, Force: k.typed("force") == "on"})
	if err != nil {
		return err
	}
	secret := done.body.(admin.RotatedSecret)
	client, err := k.reads().Clients().Details(k.r.Context(), k.vars("id"))
	if err != nil { // the secret must not get lost
		client.ID = k.vars("id")
	}
	d := clientData{ClientDetails: client, Secret: &secret}
	return k.show("client", view{Title: "Client " + client.ID, Nav: "clients", Data: d})
}

// clientForm makes the form of a change of a client.
func clientForm(change func(admin.Clients, context.Context, string) error, done string) func(*call) error {
	return func(k *call) error {
		c, err := k.formChange()
		if err != nil {
			return err
		}
		a, err := k.admin(c.Reason, c.saw)
		if err != nil {
			return err
		}
		if _, err := k.changedClient(a, change); err != nil {
			return err
		}
		return k.goTo("/clients/"+url.PathEscape(k.vars("id")), done)
	}
}

func (k *call) usersPage() error {
	k.cleared()
	f, err := k.userFilter()
	if err != nil {
		return err
	}
	p, err := k.reads().Users().Page(k.r.Context(), f)
	if err != nil {
		return err
	}
	return list(k, "users", view{Title: "Users", Nav: "users"}, p, itself, nil)
}

func (k *call) userPage() error {
	u, err := k.reads().Users().Details(k.r.Context(), k.vars("name"))
	if err != nil {
		return err
	}
	return k.show("user", view{Title: "User " + u.Username, Nav: "users", Data: u})
}

// userForm makes the form of a change of a user.
func userForm(change func(admin.Users, context.Context, string) error, done string) func(*call) error {
	return func(k *call) error {
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
	}
}

func (k *call) rolesForm() error {
	o := newRoles{Roles: strings.Fields(k.typed("roles"))}
	return userForm(o.set, "roles")(k)
}

// verifiersData is the input of the page of verifiers and probe reports.
type verifiersData struct {
	listData
	Readiness *admin.Readiness // nil: unknown
	Reports   []admin.ProbeReport
}

// Reading returns what is known of a verifier; nil if nothing is.
func (d verifiersData) Reading(name string) *admin.VerifierReading {
	if d.Readiness == nil {
		return nil
	}
	i := slices.IndexFunc(d.Readiness.Verifiers, func(v admin.VerifierReading) bool { return v.Name == name })
	if i < 0 {
		return nil
	}
	return &d.Readiness.Verifiers[i]
}

func (k *call) verifiersPage() error {
	k.cleared()
	q := k.query("after")
	after := q.text("after")
	if q.err != nil {
		return q.err
	}
	ctx := k.r.Context()
	p, err := k.reads().Verifiers().Page(ctx, after)
	if err != nil {
		return err
	}
	d := verifiersData{listData: listData{Rows: p.Rows, Empty: len(p.Rows) == 0, Next: k.nextURL(p.Next)}}
	if r, err := k.reads().Keys().Readiness(ctx); err == nil {
		d.Readiness = &r
	} else {
		k.say("Who has the next key could not be read.")
	}
	reports, err := k.reads().Probes().Newest(ctx, "")
	if err != nil {
		return err
	}
	d.Reports = reports.Rows
	return k.show("verifiers", view{Title: "Verifiers", Nav: "verifiers", Data: d})
}

func (k *call) probePage() error {
	reports, err := k.reads().Probes().Reports(k.r.Context(), k.vars("id"))
	if err != nil {
		return err
	}
	return k.show("probe", view{Title: "Probe of " + k.vars("id"), Nav: "verifiers", Data: map[string]any{
		"ID":      k.vars("id"),
		"Reports": reports,
	}})
}

func (k *call) auditPage() error {
	k.cleared()
	verify := k.filter.Get("verify") != ""
	k.filter.Del("verify")
	k.filter.Set("newest", "true")
	f, err := k.auditFilter()
	if err != nil {
		return err
	}
	ctx := k.r.Context()
	p, err := k.reads().Audit().Page(ctx, f)
	if err != nil {
		return err
	}
	return list(k, "audit", view{Title: "Audit", Nav: "audit"}, p, decimal, func(d *listData) {
		d.Types = admin.AuditTypes
		if !verify {
			return
		}
		n, err := k.verifyTrail()
		if err != nil {
			d.Fault = err.Error()
			return
		}
		d.Verify = plural(n, "record", "records") + ", all unchanged."
	})
}
