package server

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

// selfTest is a client and a resource server that use a running keyturn as strangers do: over HTTP, by its metadata.
type selfTest struct {
	d        DevCredentials
	http     *http.Client
	metadata api.Metadata
}

// SelfTest runs the main job against a running server: password, verification by JWKS, refresh, reuse refused,
// introspection, revocation. It fails at the first step that does not do what it should. Then it logs in once more and
// returns that access token.
func SelfTest(ctx context.Context, d DevCredentials) (accessToken string, err error) {
	t := &selfTest{d: d, http: &http.Client{Timeout: 10 * time.Second}}
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
			return "", fmt.Errorf("self-test: %s: %w", step.name, err)
		}
	}
	tokens, err := t.login(ctx)
	if err != nil {
		return "", fmt.Errorf("self-test: %w", err)
	}
	return tokens.AccessToken, nil
}

func (t *selfTest) discover(ctx context.Context) error {
	if err := t.call(ctx, http.MethodGet, t.d.Issuer+api.PathMetadata, nil, &t.metadata); err != nil {
		return err
	}
	if t.metadata.Issuer != t.d.Issuer {
		return fmt.Errorf("the metadata is of %q", t.metadata.Issuer)
	}
	return nil
}

func (t *selfTest) mainJob(ctx context.Context) error {
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
	var refused *failure
	if _, err := t.refresh(ctx, first.RefreshToken); !errors.As(err, &refused) || refused.body.Code != api.InvalidGrant {
		return fmt.Errorf("a refresh token was used twice: %v", err)
	}
	return t.expectActive(ctx, third.AccessToken, false)
}

func (t *selfTest) revocation(ctx context.Context) error {
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

func (t *selfTest) login(ctx context.Context) (tokens api.TokenResponse, err error) {
	return tokens, t.post(ctx, t.metadata.TokenEndpoint, url.Values{api.ParamGrantType: {api.GrantPassword},
		api.ParamUsername: {t.d.Username}, api.ParamPassword: {t.d.Password}}, &tokens)
}

func (t *selfTest) refresh(ctx context.Context, token string) (tokens api.TokenResponse, err error) {
	return tokens, t.post(
		ctx,
		t.metadata.TokenEndpoint,
		url.Values{api.ParamGrantType: {api.GrantRefreshToken}, api.ParamRefreshToken: {token}},
		&tokens,
	)
}

func (t *selfTest) expectActive(ctx context.Context, token string, want bool) error {
	var answer api.Introspection
	err := t.post(ctx, t.metadata.IntrospectionEndpoint, url.Values{api.ParamToken: {token}}, &answer)
	if err == nil && answer.Active != want {
		err = fmt.Errorf("introspection says active: %v", answer.Active)
	}
	return err
}

// verify does what a resource server does: find the key in the JWKS, check the signature and the claims.
func (t *selfTest) verify(ctx context.Context, token string) error {
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
	if claims.Issuer != t.d.Issuer || claims.Audience != DevAudience || claims.ClientID != t.d.ClientID {
		return errors.New("the claims of the token are not those that were asked for")
	}
	return nil
}

func (t *selfTest) post(ctx context.Context, endpoint string, form url.Values, answer any) error {
	return t.call(ctx, http.MethodPost, endpoint, form, answer)
}

func (t *selfTest) call(ctx context.Context, method, endpoint string, form url.Values, answer any) error {
	r, err := http.NewRequestWithContext(ctx, method, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth(url.QueryEscape(t.d.ClientID), url.QueryEscape(t.d.ClientSecret))
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
		refused := &failure{status: response.StatusCode}
		if err := json.Unmarshal(body, &refused.body); err != nil {
			return fmt.Errorf("%s answers %s", endpoint, response.Status)
		}
		return refused
	}
	return json.Unmarshal(body, answer)
}
