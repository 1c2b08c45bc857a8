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
	family  [familySize]byte
	secrets *keys.Secrets
}

// FillGrants writes n grants of users without passwords at a client. ErrConflict if the database was filled before.
func (a *Admin) FillGrants(ctx context.Context, clientID string, n int) (Filled, error) {
	c, err := a.db.Clients().ByID(ctx, clientID)
	if err != nil {
		return Filled{}, err
	}
	now := a.now().Truncate(time.Millisecond)
	signer, err := a.ring.Signer(ctx, now)
	if err != nil {
		return Filled{}, err
	}
	f := Filled{family: newFamily(), secrets: a.ring.Secrets()}
	f.fill = storage.Fill{N: n, Client: c, Lifetime: time.Duration(a.config.RefreshMaxTTL), Now: now, Grant: storage.Grant{
		FamilyHash: refreshToken{
			family: f.family,
		}.familyHash(), KID: signer.KID, Scope: c.Scope, Audience: strings.Join(c.Audiences, " ")}}
	return f, a.db.Grants().Fill(ctx, f.fill)
}

// RefreshToken is the refresh token of the i-th grant, as its login would have issued it.
func (f Filled) RefreshToken(i int) string {
	return refreshToken{grant: f.fill.ID(i), family: f.family}.seal(f.secrets, f.fill.Now)
}
