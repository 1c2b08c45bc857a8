package keystest

import (
	"context"
	"database/sql"
	"strings"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// Filled are grants that were written without logins, with their refresh tokens, for measurements on a large database.
type Filled struct {
	fill    storagetest.Fill
	family  keys.Family
	secrets *keys.Secrets
}

// Fill writes n grants of users without passwords at a client, each with a lifetime. A database can be filled once.
func Fill(
	ctx context.Context, s keys.Store, raw *sql.DB, clientID string, n int, lifetime time.Duration, now time.Time,
) (Filled, error) {
	c, err := s.DB.Clients().ByID(ctx, clientID)
	if err != nil {
		return Filled{}, err
	}
	now = now.Truncate(time.Millisecond)
	signer, err := s.Ring.Signer(ctx, now)
	if err != nil {
		return Filled{}, err
	}
	f := Filled{family: keys.NewFamily(), secrets: s.Ring.Secrets()}
	f.fill = storagetest.Fill{
		N:        n,
		Client:   c,
		Lifetime: lifetime,
		Now:      now,
		Grant: storage.Grant{
			FamilyHash: f.family.Hash(),
			KID:        signer.KID,
			Scope:      c.Scope,
			Audience:   strings.Join(c.Audiences, " "),
		},
	}
	return f, f.fill.Write(ctx, raw)
}

// RefreshToken returns the refresh token of the i-th grant, as a login would have issued it.
func (f Filled) RefreshToken(i int) string {
	return f.secrets.SealRefreshToken(keys.RefreshToken{Grant: f.fill.ID(i), Family: f.family}, f.fill.Now)
}
