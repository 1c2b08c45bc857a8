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
	RefreshToken string `json:"refresh_token"`
	Audience     string `json:"audience"`
	// Console is a one-time link to the console; "" if the administrator dev is disabled.
	Console string `json:"console"`
	// Clients holds the secrets of all clients, by id: those that the documentation and the examples use.
	Clients map[string]string `json:"clients"`
}

// demoAudience is the audience of the demo clients.
const demoAudience = "https://api.example.com"

// The clients of `keyturn dev`: one of its own, and those of the documentation and the examples.
const (
	demoClient  = "demo"
	demoApp     = "app"
	demoService = "api"
)

// demoAdmin is the administrator of `keyturn dev`.
const demoAdmin = "dev"

// demoClients describes the clients, without their secrets.
func demoClients() []admin.ClientSpec {
	both := []string{api.GrantPassword, api.GrantRefreshToken}
	return []admin.ClientSpec{
		{ID: demoClient, Grants: both, Scope: "read write", Audiences: []string{demoAudience}},
		{ID: demoApp, Grants: both, Scope: "read write", Audiences: []string{demoAudience}},
		{ID: demoService, Resource: demoAudience},
	}
}

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

// provision creates the clients and the user of `keyturn dev`, or resets their secrets to those that it returns. The
// secrets are derived from the keys of the database, so that a second start prints the same.
func provision(ctx context.Context, s *server.Server, c settings) (demo, error) {
	secrets := s.Store().Ring.Secrets()
	d := demo{
		Issuer:   c.Issuer,
		ClientID: demoClient,
		Username: "alice",
		Password: secrets.DevSecret("user"),
		Audience: demoAudience,
		Clients:  map[string]string{},
	}
	a := admin.New(s.Store(), c.Config, c.place, admin.Options{Actor: "keyturn", Reason: "dev"})
	for _, spec := range demoClients() {
		spec.Secret = secrets.DevSecret("client " + spec.ID)
		if spec.ID == demoClient {
			spec.Secret = secrets.DevSecret("client") // as of the first release
		}
		d.Clients[spec.ID] = spec.Secret
		if err := provisionClient(ctx, a, spec, secrets.HashClientSecret(spec.Secret)); err != nil {
			return d, err
		}
	}
	d.ClientSecret = d.Clients[demoClient]
	link, err := a.Administrators().Link(ctx, demoAdmin, "")
	if errors.Is(err, admin.ErrNotFound) {
		link, err = a.Administrators().Link(ctx, demoAdmin, admin.RoleKeyOperator)
	}
	if err != nil && !errors.Is(err, admin.ErrConflict) { // somebody may have disabled it
		return d, err
	}
	d.Console = link.URL
	return d, d.provisionUser(ctx, a)
}

func provisionClient(ctx context.Context, a *admin.Admin, spec admin.ClientSpec, secretHash string) error {
	c, err := a.Clients().Find(ctx, spec.ID)
	if errors.Is(err, admin.ErrNotFound) {
		_, err = a.Clients().Create(ctx, spec)
		return err
	}
	if err != nil || c.SecretHash == secretHash {
		return err
	}
	_, err = a.Clients().RotateSecret(ctx, spec.ID, admin.SecretRotation{Secret: spec.Secret, Force: true})
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
