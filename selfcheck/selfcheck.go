// Package selfcheck tests a running keyturn from outside: as a client and as a resource server, over HTTP, by its
// metadata.
package selfcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/api"
)

// Account has everything that a client needs for a first token.
type Account struct {
	Issuer       string
	ClientID     string
	ClientSecret string
	Username     string
	Password     string
	Audience     string // of the access tokens that the client gets
}

// run is one run of the test.
type run struct {
	Account
	http     *http.Client
	metadata api.Metadata
}

// Run tests a running server: password, verification by JWKS, refresh, reuse refused, introspection, revocation. It
// returns the error of the first step that fails. At the end it logs in once more and returns those tokens.
func Run(ctx context.Context, a Account) (tokens api.TokenResponse, err error) {
	t := &run{Account: a, http: &http.Client{Timeout: 10 * time.Second}}
	steps := []struct {
		name string
		run  func(context.Context) error
	}{
		{"metadata", t.discover},
		{"password, verify, introspect, refresh, reuse", t.mainJob},
		{"revoke", t.revocation},
	}
	for _, step := range steps {
		if err := step.run(ctx); err != nil {
			return tokens, fmt.Errorf("self-test: %s: %w", step.name, err)
		}
	}
	if tokens, err = t.login(ctx); err != nil {
		return tokens, fmt.Errorf("self-test: %w", err)
	}
	return tokens, nil
}

func (t *run) discover(ctx context.Context) error {
	if err := t.call(ctx, http.MethodGet, t.Issuer+api.PathMetadata, nil, &t.metadata); err != nil {
		return err
	}
	if t.metadata.Issuer != t.Issuer {
		return fmt.Errorf("the metadata has the issuer %q", t.metadata.Issuer)
	}
	return nil
}

func (t *run) mainJob(ctx context.Context) error {
	first, err := t.login(ctx)
	if err != nil {
		return err
	}
	if err := t.verify(ctx, first.AccessToken); err != nil {
		return err
	}
	if err := t.expectActive(ctx, first.AccessToken, true); err != nil {
		return err
	}
	second, err := t.refresh(ctx, first.RefreshToken)
	if err != nil {
		return err
	}
	third, err := t.refresh(ctx, second.RefreshToken)
	if err != nil {
		return err
	}
	var refused *refusal
	if _, err := t.refresh(ctx, first.RefreshToken); !errors.As(err, &refused) || refused.Code != api.InvalidGrant {
		return fmt.Errorf("a refresh token was accepted twice: %v", err)
	}
	return t.expectActive(ctx, third.AccessToken, false)
}

func (t *run) revocation(ctx context.Context) error {
	tokens, err := t.login(ctx)
	if err != nil {
		return err
	}
	if err := t.post(ctx, t.metadata.RevocationEndpoint, url.Values{api.ParamToken: {tokens.RefreshToken}},
		&api.Revocation{}); err != nil {
		return err
	}
	return t.expectActive(ctx, tokens.AccessToken, false)
}

func (t *run) login(ctx context.Context) (tokens api.TokenResponse, err error) {
	return tokens, t.post(ctx, t.metadata.TokenEndpoint, url.Values{api.ParamGrantType: {api.GrantPassword},
		api.ParamUsername: {t.Username}, api.ParamPassword: {t.Password}}, &tokens)
}

func (t *run) refresh(ctx context.Context, token string) (tokens api.TokenResponse, err error) {
	return tokens, t.post(
		ctx,
		t.metadata.TokenEndpoint,
		url.Values{api.ParamGrantType: {api.GrantRefreshToken}, api.ParamRefreshToken: {token}},
		&tokens,
	)
}

func (t *run) expectActive(ctx context.Context, token string, want bool) error {
	var answer api.Introspection
	err := t.post(ctx, t.metadata.IntrospectionEndpoint, url.Values{api.ParamToken: {token}}, &answer)
	if err == nil && answer.Active != want {
		err = fmt.Errorf("introspection answers active: %v", answer.Active)
	}
	return err
}

// verify verifies a token as a resource server does: it finds the key in the JWKS, and checks signature and claims.
func (t *run) verify(ctx context.Context, token string) error {
	var set jose.JSONWebKeySet
	if err := t.call(ctx, http.MethodGet, t.metadata.JWKSURI, nil, &set); err != nil {
		return err
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return err
	}
	found := set.Key(jws.Signatures[0].Protected.KeyID)
	if len(found) != 1 {
		return errors.New("the key of the token is not in the JWKS")
	}
	payload, err := jws.Verify(found[0])
	if err != nil {
		return err
	}
	var claims api.AccessToken
	if err := json.Unmarshal(payload, &claims); err != nil {
		return err
	}
	if claims.Issuer != t.Issuer ||
		claims.Audience != t.Audience ||
		claims.ClientID != t.ClientID {
		return errors.New("the token has other claims than requested")
	}
	return nil
}

func (t *run) post(ctx context.Context, endpoint string, form url.Values, answer any) error {
	return t.call(ctx, http.MethodPost, endpoint, form, answer)
}

func (t *run) call(ctx context.Context, method, endpoint string, form url.Values, answer any) error {
	r, err := http.NewRequestWithContext(ctx, method, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth(url.QueryEscape(t.ClientID), url.QueryEscape(t.ClientSecret))
	}
	response, err := t.http.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		refused := &refusal{}
		if err := json.Unmarshal(body, refused); err != nil {
			return fmt.Errorf("%s answers %s", endpoint, response.Status)
		}
		return refused
	}
	return json.Unmarshal(body, answer)
}

// refusal is an error answer of the server (RFC 6749 §5.2).
type refusal api.Error

// Error implements error.
func (r *refusal) Error() string { return string(r.Code) + ": " + r.Description }
