package admin

import (
	"context"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Each calls do with the unexpired grants, newest first by the hour, page by page, until do returns an error. user and
// client filter the list unless they are "".
func (a Grants) Each(ctx context.Context, user, client string, do func([]Grant) error) error {
	if user != "" {
		var err error
		if user, err = a.username(user); err != nil {
			return err
		}
	}
	now := a.now()
	filter := storage.GrantFilter{Username: user, ClientID: client}
	return a.db.Grants().Pages(ctx, filter, now, func(page []Grant) error {
		for i := range page {
			tellEnding(&page[i], now)
		}
		return do(page)
	})
}

// tellEnding sets the reason of a grant that ended with its user or client, which its own row does not show.
func tellEnding(g *storage.GrantState, now time.Time) {
	if g.RevokedReason == nil && !g.Live(now) {
		reason := "ended with its user or client"
		g.RevokedReason = &reason
	}
}

// Find returns one grant by its text id. It may return ErrNotFound or ErrInvalid.
func (a Grants) Find(ctx context.Context, id string) (storage.GrantState, error) {
	grant, err := storage.ParseGrantID(id)
	if err != nil {
		return storage.GrantState{}, invalid("%v", err)
	}
	g, err := a.db.Grants().State(ctx, grant)
	if err == nil {
		tellEnding(&g, a.now())
	}
	return g, err
}

// Revoke ends one grant. It may return ErrNotFound or ErrInvalid.
func (a Grants) Revoke(ctx context.Context, id string) error {
	grant, err := storage.ParseGrantID(id)
	if err != nil {
		return invalid("%v", err)
	}
	return a.db.Grants().RevokeByID(ctx, a.by, grant, a.now())
}

// RevokeOfClient ends all grants of the client. It may return ErrNotFound.
func (a Grants) RevokeOfClient(ctx context.Context, id string) error {
	return named("client", id, a.db.Clients().RevokeGrants(ctx, a.by, id, a.now()))
}

// RevokeAll ends every grant.
func (a Grants) RevokeAll(ctx context.Context) error {
	return a.db.Grants().RevokeAll(ctx, a.by, a.now())
}
