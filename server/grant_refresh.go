package server

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// refreshes implements the refresh grant.
type refreshes struct {
	*accessTokens
	health     *health
	unanswered *unanswered
	places     *statusPlaces
}

// errRefresh is the answer to every refresh token that is not valid (RFC 6749 §5.2).
var errRefresh = fail(api.InvalidGrant, "the refresh token is invalid, expired, revoked or was used before")

// refresh is the refresh grant (RFC 6749 §6). A current token costs one statement. A forged token costs no database
// call beyond the authentication of the client.
func (s *refreshes) refresh(ctx context.Context, req *request, f tokenForm) (api.TokenResponse, error) {
	none := api.TokenResponse{}
	// RFC 6749 §6: required.
	if f.refreshToken == "" {
		return none, fail(api.InvalidRequest, "refresh_token is missing")
	}
	t, ok, err := s.ring.OpenRefreshToken(f.refreshToken)
	if err != nil {
		return none, err
	}
	if !ok || t.Generation == math.MaxUint32 {
		s.event(req, "refresh", "failed", slog.String("reason", "malformed"))
		return none, errRefresh
	}
	// Wait for a slot to sign before anything changes.
	signed, err := s.ring.Admit(req.base)
	if err != nil {
		return none, err
	}
	defer signed()
	return s.refreshWith(ctx, req, f, t)
}

// refreshWith refreshes with a token whose MAC is valid. After the statement that rotates the grant, nothing waits,
// except once for a grant from before status_list was turned on.
func (s *refreshes) refreshWith(
	ctx context.Context, req *request, f tokenForm, t keys.RefreshToken,
) (api.TokenResponse, error) {
	none := api.TokenResponse{}
	now := s.now().Truncate(time.Millisecond)
	// The signer must be valid until the latest possible expiry. The grant may end before.
	signer, err := s.ring.Signer(ctx, s.lifetime(req.client, now, now.Add(config.MaxAccessTTL)))
	if err != nil {
		return none, err
	}
	presented := s.presentation(req, t, signer)
	if presented.MaxRoles, err = s.rolesThatFit(req, signer); err != nil {
		return none, err
	}
	if err := s.checkBeforeRotation(ctx, req, f, presented, now); err != nil {
		return none, err
	}
	rotating, rotated := s.span(ctx, "rotate grant")
	g, outcome, err := s.rotate(rotating, req, f, signer, presented, now)
	rotated(err)
	if err != nil {
		return none, err
	}
	s.metrics.refreshes.WithLabelValues(string(outcome)).Inc()
	switch outcome {
	case storage.RefreshDead, storage.RefreshReuse:
		err = errRefresh
	case storage.RefreshTooLarge:
		err = errTooLarge
	}
	if err != nil {
		s.event(req, "refresh", "failed", slog.String("reason", string(outcome)), slog.String("sid", t.Grant.String()))
		return none, err
	}
	s.event(req, "refresh", "ok", slog.String("kind", string(outcome)), slog.String("sid", t.Grant.String()))
	s.places.assign(ctx, req.client, &g)
	tokens, err := s.refreshed(req, f, signer, t, g, now)
	if outcome == storage.RefreshKept {
		tokens.RefreshToken = f.refreshToken
	}
	return tokens, err
}

// presentation describes the use of a refresh token for storage.
func (s *refreshes) presentation(req *request, t keys.RefreshToken, signer keys.Signer) storage.Refresh {
	c := s.config()
	return storage.Refresh{
		ID:          t.Grant,
		Generation:  int64(t.Generation),
		FamilyHash:  t.Family.Hash(),
		Caller:      storage.Caller{ID: req.client.ID},
		KID:         signer.KID,
		IdleTTL:     c.RefreshIdleTTL,
		RetryWindow: c.RefreshRetryWindow,
		LateRetry:   c.RefreshLateRetry,
		Arrived:     req.at,
		Outages:     s.outages(t.Grant),
		Unsure:      s.clock.Sure() != nil,
		Doubt:       s.clock.Doubt(),
		Keep:        !req.client.RefreshRotation,
	}
}

// noteUnanswered records that a refresh got no answer, plus the Retry-After of its refusal. It records only tokens that
// this server issued.
func (s *refreshes) noteUnanswered(req *request, retryAfter time.Duration) {
	if req.repeats == "" {
		return
	}
	if t, ok, err := s.ring.OpenRefreshToken(req.repeats); ok && err == nil {
		s.unanswered.note(t.Grant, req.at, s.now().Add(retryAfter), s.config().RefreshRetryWindow)
	}
}

// outages returns the times during which the retry window of a grant does not run, in order.
func (s *refreshes) outages(grant storage.GrantID) []storage.Span {
	s.health.noteSlowLook()
	waited := s.unanswered.of(grant)
	if len(waited) == 0 {
		return s.ring.Outages()
	}
	all := append(slices.Clone(s.ring.Outages()), waited...)
	slices.SortFunc(all, func(a, b storage.Span) int { return a.From.Compare(b.From) })
	return all
}

// checkBeforeRotation refuses a scope or a resource that the grant does not allow, before the token is rotated. It
// reads the grant only if the request names one of them, or if the client was updated after live grants may have begun.
func (s *refreshes) checkBeforeRotation(
	ctx context.Context, req *request, f tokenForm, presented storage.Refresh, now time.Time,
) error {
	updated := req.client.UpdatedAt.After(req.client.CreatedAt.Time) &&
		now.Sub(req.client.UpdatedAt.Time) < s.config().RefreshMaxTTL
	if f.scope == "" &&
		f.resource == "" &&
		!updated {
		return nil
	}
	g, err := s.db.Grants().State(ctx, presented.ID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil // the rotation reports it
	}
	if err != nil {
		return err
	}
	if outcome := presented.Classify(g, now); outcome == storage.RefreshDead || outcome == storage.RefreshReuse {
		return nil // the rotation reports it, and ends the grant
	}
	_, _, err = rights(req.client, f, g)
	return err
}

// rights returns the scope and the audience of the access token of a refresh.
func rights(c storage.Client, f tokenForm, g storage.GrantState) (scope, audience string, err error) {
	if scope, err = narrow(g.Scope, c, f.scope); err != nil {
		return "", "", err
	}
	if scope == "" && g.Scope != "" {
		return "", "", fail(api.InvalidScope, "the client may have none of the scope of the grant any more")
	}
	audience, err = target(strings.Fields(g.Audience), c, f.resource)
	return scope, audience, err
}

// refreshed returns a new access token and the successor of the refresh token. The successor follows from the row, so a
// retry gets the same one.
func (s *refreshes) refreshed(
	req *request, f tokenForm, signer keys.Signer, t keys.RefreshToken, g storage.GrantState, now time.Time,
) (api.TokenResponse, error) {
	scope, audience, err := rights(req.client, f, g)
	if err != nil {
		return api.TokenResponse{}, err
	}
	tokens, err := s.respond(signer, s.refreshClaims(req, g, scope, audience, now))
	t.Generation = uint32(g.Generation)
	tokens.RefreshToken = s.ring.Secrets().SealRefreshToken(t, g.RotatedAt.Time)
	return tokens, err
}

// respond signs the access token and returns the response that all grants share.
func (s *accessTokens) respond(signer keys.Signer, t accessClaims) (api.TokenResponse, error) {
	token, err := s.accessToken(signer, t)
	if err != nil {
		return api.TokenResponse{}, err
	}
	return api.TokenResponse{
		AccessToken: token,
		TokenType:   "Bearer",
		ExpiresIn:   t.expires.Unix() - t.issued.Unix(),
		Scope:       t.scope,
	}, nil
}
