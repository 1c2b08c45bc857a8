package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// largestKey is the size in bits of the largest signing key.
const largestKey = 4096

// errTooLarge refuses a token above api.MaxAccessToken.
var errTooLarge = fail(api.InvalidScope, "the access token would be larger than 8192 bytes: ask for less scope")

// checkSize refuses a token that would be too large, before anything changes.
func (s *accessTokens) checkSize(signer keys.Signer, t accessClaims) error {
	payload, err := json.Marshal(t.claims(s.config().Issuer, api.SampleTokenID))
	if err != nil {
		return err
	}
	if size := api.TokenSize(string(t.typ), len(payload), s.bitsOf(signer)); size > api.MaxAccessToken {
		return s.tooLarge(t, size)
	}
	return nil
}

// tooLarge logs the size of a refused token.
func (s *accessTokens) tooLarge(t accessClaims, size int) error {
	s.log.Warn("an access token is not issued because it would be too large",
		slog.String("client", t.clientID),
		slog.String("sub", t.sub),
		slog.Int("size", size),
		slog.Int("max", api.MaxAccessToken),
		slog.Int("scope_size", len(t.scope)),
		slog.Int("roles_size", storage.List(t.roles).Size()),
		slog.Int("roles", len(t.roles)))
	return errTooLarge
}

// bitsOf returns the size in bits of the key of a signer.
func (s *accessTokens) bitsOf(signer keys.Signer) int {
	rows := s.ring.Rows()
	for i := range rows {
		if rows[i].KID == signer.KID {
			return rows[i].Bits
		}
	}
	return largestKey
}

// rolesThatFit returns a safe limit for the size of the roles before the grant is read. It assumes the client's whole
// scope and its longest audience.
func (s *refreshes) rolesThatFit(req *request, signer keys.Signer) (int64, error) {
	c := req.client
	payload, err := api.LargestPayload(s.config().Issuer, api.TokenRights{
		ClientID:  c.ID,
		Scope:     c.Scope,
		Audiences: c.Audiences,
		Username:  c.NamesUser(),
		Status:    s.config().StatusList == config.StatusListOn,
	})
	return int64(max(1, api.MaxRoles(req.client.TokenTyp, payload, s.bitsOf(signer)))), err
}

// rotate rotates a grant if the access token fits. MaxRoles may be too strict, because the grant may have less scope
// than the client. After a refusal, rotate computes the exact size from the grant.
func (s *refreshes) rotate(
	ctx context.Context, req *request, f tokenForm, signer keys.Signer, presented storage.Refresh, now time.Time,
) (g storage.GrantState, outcome storage.RefreshOutcome, err error) {
	presented.Caller = req.caller()
	g, outcome, err = s.db.Grants().Rotate(ctx, presented, now)
	if err != nil || outcome != storage.RefreshTooLarge {
		return g, outcome, err
	}
	scope, audience, err := rights(req.client, f, g)
	if err != nil {
		return g, outcome, err
	}
	if s.checkSize(signer, s.refreshClaims(req, g, scope, audience, now)) != nil {
		return g, outcome, nil
	}
	presented.MaxRoles = g.RolesSize
	return s.db.Grants().Rotate(ctx, presented, now)
}

// refreshClaims returns the access token of a refresh.
func (s *refreshes) refreshClaims(
	req *request, g storage.GrantState, scope, audience string, now time.Time,
) accessClaims {
	username := ""
	if req.client.NamesUser() {
		username = *g.Username
	}
	return accessClaims{
		grant:    g.ID,
		sub:      *g.Sub,
		clientID: g.ClientID,
		typ:      keys.Typ(req.client.TokenTyp),
		audience: audience,
		scope:    scope,
		roles:    g.Roles,
		status:   s.statusClaimOf(g),
		username: username,
		authTime: g.CreatedAt.Time,
		issued:   now,
		expires:  s.lifetime(req.client, now, g.ExpiresAt.Time),
	}
}
