package console

import (
	"github.com/keyturn/keyturn/admin"
)

// clientCalls are the requests for clients.
type clientCalls struct{ *call }

func (k clientCalls) listClients() (any, error) {
	q := k.query("after")
	after := q.text("after")
	if q.err != nil {
		return nil, q.err
	}
	p, err := k.reads().Clients().Page(k.r.Context(), after)
	return pageOf(p, itself), err
}

func (k clientCalls) showClient() (any, error) {
	c, err := k.reads().Clients().Details(k.r.Context(), k.vars("id"))
	return answer{body: c, tag: c.Revision}, err
}

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

func (k clientCalls) rotateSecret() (any, error) {
	var o newSecret
	if err := k.readOrder(&o); err != nil {
		return nil, err
	}
	return k.newSecret(o)
}

func (k clientCalls) newSecret(o newSecret) (answer, error) {
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

func (k clientCalls) clientsPage() error {
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
	return list(k.call, "clients", view{Title: "Clients", Nav: "clients"}, p, itself, nil)
}

// clientData is the input of the page of a client.
type clientData struct {
	admin.ClientDetails
	Ended  string               // how long an ended login is accepted
	Secret *admin.RotatedSecret // after a rotation
}

func (k clientCalls) clientPage() error {
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
func (k clientCalls) secretForm() error {
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
