package main

import (
	"context"
	"errors"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/passwords"
	"github.com/keyturn/keyturn/selfcheck"
	"github.com/keyturn/keyturn/server"
)

// demo is the demo client and user of `keyturn dev`, with everything that a first request needs.
type demo struct {
	Issuer       string `json:"issuer"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	Username     string `json:"username"`
	Password     string `json:"password"`
	AccessToken  string `json:"access_token"`
}

// demoAudience is the audience of the demo client.
const demoAudience = "https://api.example.com"

// account converts the demo for the self-test.
func (d demo) account() selfcheck.Account {
	return selfcheck.Account{
		Issuer:       d.Issuer,
		ClientID:     d.ClientID,
		ClientSecret: d.ClientSecret,
		Username:     d.Username,
		Password:     d.Password,
		Audience:     demoAudience,
	}
}

// provision creates the demo client and the demo user, or resets their secrets to those that it returns. The secrets
// are derived from the keys of the database, so that a second start prints the same.
func provision(ctx context.Context, s *server.Server, c settings) (demo, error) {
	secrets := s.Store().Ring.Secrets()
	d := demo{
		Issuer:       c.Issuer,
		ClientID:     "demo",
		ClientSecret: secrets.DevSecret("client"),
		Username:     "alice",
		Password:     secrets.DevSecret("user"),
	}
	a := admin.New(s.Store(), c.Config, c.place, admin.Options{Actor: "keyturn", Reason: "dev"})
	if err := d.provisionClient(ctx, a, secrets.HashClientSecret(d.ClientSecret)); err != nil {
		return d, err
	}
	return d, d.provisionUser(ctx, a)
}

func (d demo) provisionClient(ctx context.Context, a *admin.Admin, secretHash string) error {
	c, err := a.Clients().Find(ctx, d.ClientID)
	if errors.Is(err, admin.ErrNotFound) {
		_, err = a.Clients().Create(ctx, admin.ClientSpec{
			ID:        d.ClientID,
			Grants:    []string{api.GrantPassword, api.GrantRefreshToken},
			Scope:     "read write",
			Audiences: []string{demoAudience},
			Secret:    d.ClientSecret,
		})
		return err
	}
	if err != nil || c.SecretHash == secretHash {
		return err
	}
	_, err = a.Clients().RotateSecret(ctx, d.ClientID, admin.SecretRotation{
		Secret: d.ClientSecret,
		Force:  true,
	})
	return err
}

func (d demo) provisionUser(ctx context.Context, a *admin.Admin) error {
	u, err := a.Users().Find(ctx, d.Username)
	if errors.Is(err, admin.ErrNotFound) {
		_, err = a.Users().Create(ctx, d.Username, d.Password, []string{"demo"})
		return err
	}
	if err != nil {
		return err
	}
	if h, err := passwords.ParseArgon2id(u.PasswordHash); err == nil && h.Matches(d.Password, d.Password) {
		return nil
	}
	return a.Users().SetPassword(ctx, d.Username, d.Password)
}
