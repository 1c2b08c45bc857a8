package server

import (
	"context"
	"strings"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// Filled is grants that no login has made, with their refresh tokens: to measure keyturn on a database of some size.
type Filled struct {
	fill    storage.Fill
	family  keys.Family
	secrets *keys.Secrets
}

// FillGrants writes n grants of users without passwords at a client. ErrConflict if the database was filled before.
func (a *Admin) FillGrants(ctx context.Context, clientID string, n int) (Filled, error) {
	c, err := a.db.Client(ctx, clientID)
	if err != nil {
		return Filled{}, err
	}
	now := a.now().Truncate(time.Millisecond)
	signer, err := a.ring.Signer(ctx, now)
	if err != nil {
		return Filled{}, err
	}
	f := Filled{family: keys.NewFamily(), secrets: a.ring.Secrets()}
	f.fill = storage.Fill{N: n, Client: c, Lifetime: time.Duration(a.config.RefreshMaxTTL), Now: now, Grant: storage.Grant{
		FamilyHash: f.family.Hash(), KID: signer.KID, Scope: c.Scope, Audience: strings.Join(c.Audiences, " ")}}
	return f, a.db.FillGrants(ctx, f.fill)
}

// RefreshToken is the refresh token of the i-th grant, as its login would have issued it.
func (f Filled) RefreshToken(i int) string {
	return f.secrets.SealRefreshToken(keys.RefreshToken{Grant: f.fill.ID(i), Family: f.family}, f.fill.Now)
}
