package console

import (
	"context"
	"net/http"

	"github.com/keyturn/keyturn/admin"
)

// adminCalls are the requests for administrators.
type adminCalls struct{ *call }

// adminsData is the input of the page of the administrators.
type adminsData struct {
	Admins   []admin.ListedAdministrator
	Passkeys []admin.Passkey // of the person who sees the page
	Can      bool            // this address can use passkeys, and the person may register one
	Named    bool            // the address is a name
}

func (k adminCalls) adminsPage() error {
	ctx := k.r.Context()
	all, err := k.reads().Administrators().List(ctx)
	if err != nil {
		return err
	}
	d := adminsData{Admins: all, Named: k.hasPasskeys()}
	d.Can = d.Named && k.who.session != nil
	for _, row := range all {
		if row.Name != k.who.name {
			continue
		}
		if d.Passkeys, err = k.reads().SignIns().Passkeys(ctx, row.Administrator); err != nil {
			return err
		}
	}
	return k.show("admins", view{Title: "Admins", Nav: "admins", Data: d, Path: "/admins"})
}

// adminChange reads the form of a change of an administrator.
func (k adminCalls) adminChange() (c change, err error) {
	c.Reason = k.typed("reason")
	return c, checkReason(c.Reason)
}

// errOwn keeps an administrator from locking itself out.
var errOwn = problem(http.StatusConflict, "own-access",
	"you cannot end your own access here: somebody else must, or the "+
		"command line")

// adminForm makes the form of a change of an administrator.
func adminForm(change func(admin.Administrators, context.Context, string) error, done string) func(*call) error {
	return as(func(k adminCalls) error {
		c, err := k.adminChange()
		if err != nil {
			return err
		}
		if k.vars("name") == k.who.name {
			return errOwn
		}
		a, err := k.admin(c.Reason, 0)
		if err != nil {
			return err
		}
		if err := change(a.Administrators(), k.r.Context(), k.vars("name")); err != nil {
			return err
		}
		a.Remember(k.r.Context())
		return k.goTo("/admins", done)
	})
}
