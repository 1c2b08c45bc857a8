package admin

import (
	"context"

	"github.com/keyturn/keyturn/storage"
)

// GrantFilter narrows Each. The zero value selects all unexpired grants.
type GrantFilter = storage.GrantFilter

// Each calls do with the grants of a filter, latest expiry first, page by page, until do returns an error. It may
// return ErrNotFound for the user or the client of the filter.
func (a Grants) Each(ctx context.Context, f GrantFilter, do func([]Grant) error) error {
	f, err := a.named(ctx, f)
	if err != nil {
		return err
	}
	return a.db.Grants().Pages(ctx, f, a.now(), do)
}

// named checks the user and the client of a filter. It may return ErrNotFound.
func (a Grants) named(ctx context.Context, f GrantFilter) (GrantFilter, error) {
	if f.Username != "" {
		user, err := Users(a).Find(ctx, f.Username)
		if err != nil {
			return f, err
		}
		f.Username = user.Username
	}
	if f.ClientID != "" {
		if _, err := (Clients(a)).Find(ctx, f.ClientID); err != nil {
			return f, err
		}
	}
	return f, nil
}

// ParseGrantID parses the text form of the id of a grant. It returns ErrInvalid for another text.
func ParseGrantID(id string) (storage.GrantID, error) {
	grant, err := storage.ParseGrantID(id)
	if err != nil {
		err = invalid("%v", err)
	}
	return grant, err
}

// CountLive counts the logins that have not ended, of a user, of a client, or, if both are "", all. It may return
// ErrTooSlow.
func (a Grants) CountLive(ctx context.Context, user, client string) (int64, error) {
	if user != "" {
		var err error
		if user, err = a.username(user); err != nil {
			return 0, err
		}
	}
	return a.db.Grants().CountLive(ctx, user, client, a.now(), a.count)
}

// Find returns one grant by its text id. It may return ErrNotFound or ErrInvalid.
func (a Grants) Find(ctx context.Context, id string) (Grant, error) {
	grant, err := ParseGrantID(id)
	if err != nil {
		return Grant{}, err
	}
	g, err := a.db.Grants().Listed(ctx, grant, a.now())
	return g, a.missing(ctx, "grant", id, err)
}

// Revoke ends one grant. It may return ErrNotFound or ErrInvalid.
func (a Grants) Revoke(ctx context.Context, id string) error {
	grant, err := ParseGrantID(id)
	if err != nil {
		return err
	}
	return a.missing(ctx, "grant", id, a.db.Grants().RevokeByID(ctx, a.by, grant, a.now()))
}

// RevokeOfClient ends all grants of the client. It may return ErrNotFound.
func (a Grants) RevokeOfClient(ctx context.Context, id string) error {
	return a.missing(ctx, "client", id, a.db.Clients().RevokeGrants(ctx, a.by, id, a.now()))
}

// RevokeAll ends every grant.
func (a Grants) RevokeAll(ctx context.Context) error {
	return a.db.Grants().RevokeAll(ctx, a.by, a.now())
}
