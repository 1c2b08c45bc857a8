package console

import (
	"context"
	"net/http"
	"net/url"

	"github.com/keyturn/keyturn/admin"
)

// rows are clients or users: what is changed one row at a time.
type rows[Table, Row any] struct {
	noun, variable string // of the audit trail, and of the path
	page           string // path of the pages
	table          func(*admin.Admin) Table
	find           func(Table, context.Context, string) (Row, error)
	revision       func(Row) int64
}

// changeOf makes a change of one row.
type changeOf[Table any] = func(Table, context.Context, string) error

var clientRows = rows[admin.Clients, admin.Client]{
	noun:     "client",
	variable: "id",
	page:     "/clients/",
	table:    (*admin.Admin).Clients,
	find:     admin.Clients.Find,
	revision: func(c admin.Client) int64 { return c.Revision },
}

var userRows = rows[admin.Users, admin.User]{
	noun:     "user",
	variable: "name",
	page:     "/users/",
	table:    (*admin.Admin).Users,
	find:     admin.Users.Find,
	revision: func(u admin.User) int64 { return u.Revision },
}

// change changes the row that the path names, and returns it as it is then.
func (n rows[Table, Row]) change(k *call, c change, change changeOf[Table]) (answer, error) {
	a, err := k.admin(c.Reason, c.saw)
	if err != nil {
		return answer{}, err
	}
	ctx, name, table := k.r.Context(), k.vars(n.variable), n.table(a)
	if _, err := n.find(table, ctx, name); err != nil {
		return answer{}, err
	}
	if err := change(table, ctx, name); err != nil {
		return answer{}, k.changedBy(err, n.noun, name)
	}
	a.Remember(ctx)
	row, err := n.find(table, ctx, name)
	return answer{body: row, tag: n.revision(row)}, readAgain(err)
}

// readAgain explains that a change was made, although its result could not be read.
func readAgain(err error) error {
	if err == nil {
		return nil
	}
	return problem(http.StatusServiceUnavailable, halfDone, "it is done, but could not be read again: read it before "+
		"you repeat anything")
}

// answers makes a handler of the API.
func (n rows[Table, Row]) answers(change changeOf[Table]) func(*call) (any, error) {
	return func(k *call) (any, error) {
		var o justChange
		if err := k.readOrder(&o); err != nil {
			return nil, err
		}
		return n.change(k, o.change, change)
	}
}

// justChange is the body of a change that needs nothing but a reason.
type justChange struct{ change }

// form makes a handler of a form. done is a word of notices.
func (n rows[Table, Row]) form(change changeOf[Table], done string) func(*call) error {
	return func(k *call) error {
		c, err := k.formChange()
		if err != nil {
			return err
		}
		if _, err := n.change(k, c, change); err != nil {
			return err
		}
		return k.goTo(n.page+url.PathEscape(k.vars(n.variable)), done)
	}
}
