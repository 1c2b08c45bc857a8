package server

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/passwords"
	"github.com/keyturn/keyturn/storage"
)

// DevCredentials is what `keyturn dev` prints: everything that a first request needs.
type DevCredentials struct {
	Issuer       string `json:"issuer"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	Username     string `json:"username"`
	Password     string `json:"password"`
	AccessToken  string `json:"access_token"`
}

// DevAudience is the audience of the demo client.
const DevAudience = "https://api.example.com"

// Provision makes the demo client and the demo user of `keyturn dev`, or sets their secrets back to the ones that it
// prints, which follow from the keys of the database.
func (s *Server) Provision(ctx context.Context) (DevCredentials, error) {
	d := DevCredentials{
		Issuer:       s.config().Issuer,
		ClientID:     "demo",
		ClientSecret: s.devSecret("client"),
		Username:     "alice",
		Password:     s.devSecret("user"),
	}
	a := &Admin{
		config: *s.config(),
		store:  s.store,
		db:     s.db,
		ring:   s.ring,
		by:     storage.Actor{Name: "keyturn", Reason: "dev"},
		now:    s.now,
	}
	if err := a.provisionClient(ctx, d); err != nil {
		return d, err
	}
	return d, a.provisionUser(ctx, d)
}

func (a *Admin) provisionClient(ctx context.Context, d DevCredentials) error {
	c, err := a.db.Clients().ByID(ctx, d.ClientID)
	if errors.Is(err, ErrNotFound) {
		_, err = a.CreateClient(
			ctx,
			ClientSpec{ID: d.ClientID, Grants: []string{api.GrantPassword, api.GrantRefreshToken}, Scope: "read write",
				Audiences: []string{DevAudience}, Secret: d.ClientSecret},
		)
		return err
	}
	if err != nil || c.SecretHash == hashClientSecret(a.ring.Secrets().ClientSecretKey(), d.ClientSecret) {
		return err
	}
	_, err = a.RotateSecret(ctx, d.ClientID, d.ClientSecret, 24*time.Hour)
	return err
}

func (a *Admin) provisionUser(ctx context.Context, d DevCredentials) error {
	u, err := a.db.Users().ByUsername(ctx, d.Username)
	if errors.Is(err, ErrNotFound) {
		_, err = a.CreateUser(ctx, d.Username, d.Password, []string{"demo"})
		return err
	}
	if err != nil {
		return err
	}
	if h, err := passwords.ParseArgon2id(u.PasswordHash); err == nil && h.Matches(d.Password, d.Password) {
		return nil
	}
	return a.SetPassword(ctx, d.Username, d.Password)
}

func (s *Server) devSecret(of string) string {
	mac := hmac.New(sha256.New, s.ring.Secrets().ClientSecretKey())
	mac.Write([]byte("dev secret of " + of))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:18])
}
