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

// errRefresh is the one answer to every refresh token that cannot be used (RFC 6749 §5.2).
var errRefresh = fail(api.InvalidGrant, "the refresh token is invalid, expired, revoked or was used before")

// refresh is the refresh grant, RFC 6749 §6: a fresh token is one statement, a forged one costs no more than to ask who
// the client is.
func (s *Server) refresh(ctx context.Context, q *request) (api.TokenResponse, error) {
	none := api.TokenResponse{}
	text := q.form[api.ParamRefreshToken]
	if text == "" {
		return none, fail(api.InvalidRequest, "refresh_token is missing")
	}
	t, ok, err := s.ring.OpenRefreshToken(text)
	if err != nil {
		return none, err
	}
	if !ok || t.Generation == math.MaxUint32 {
		s.event(q, "refresh", "failed", slog.String("reason", "malformed"))
		return none, errRefresh
	}
	signed, err := s.ring.Admit(q.base)
	if err != nil {
		return none, err
	}
	defer signed()
	return s.refreshWith(ctx, q, t)
}

// refreshWith refreshes with a token whose MAC is right. From its statement on only bounded work follows.
func (s *Server) refreshWith(ctx context.Context, q *request, t keys.RefreshToken) (api.TokenResponse, error) {
	none := api.TokenResponse{}
	now := s.now().Truncate(time.Millisecond)
	// The latest moment that the access token can expire; the grant may end before.
	signer, err := s.ring.Signer(ctx, s.lifetime(q.client, now, now.Add(config.MaxAccessTTL)))
	if err != nil {
		return none, err
	}
	r := s.presentation(q, t, signer)
	if r.MaxRoles, err = s.rolesThatFit(q, signer); err != nil {
		return none, err
	}
	if err := s.checkBeforeRotation(ctx, q, r, now); err != nil {
		return none, err
	}
	rotating, rotated := s.span(ctx, "rotate grant")
	g, outcome, err := s.rotate(rotating, q, signer, r, now)
	rotated(err)
	if err != nil {
		return none, err
	}
	if outcome == storage.RefreshAsk {
		return none, errRefresh // which nobody sees: the client is read, and asks again
	}
	q.remembered = false
	s.metrics.refreshes.WithLabelValues(string(outcome)).Inc()
	switch outcome {
	case storage.RefreshDead, storage.RefreshReuse:
		err = errRefresh
	case storage.RefreshTooLarge:
		err = errTooLarge
	}
	if err != nil {
		s.event(q, "refresh", "failed", slog.String("reason", string(outcome)), slog.String("sid", t.Grant.String()))
		return none, err
	}
	s.event(q, "refresh", "ok", slog.String("kind", string(outcome)), slog.String("sid", t.Grant.String()))
	return s.refreshed(q, signer, t, g, now)
}

// presentation is the presentation of a token at this moment.
func (s *Server) presentation(q *request, t keys.RefreshToken, signer keys.Signer) storage.Refresh {
	c := s.config()
	return storage.Refresh{
		ID:          t.Grant,
		Generation:  int64(t.Generation),
		FamilyHash:  t.Family.Hash(),
		ClientID:    q.client.ID,
		Revision:    q.revision(),
		KID:         signer.KID,
		IdleTTL:     c.RefreshIdleTTL,
		RetryWindow: c.RefreshRetryWindow,
		LateRetry:   c.RefreshLateRetry,
		Arrived:     q.at,
		Outages:     s.outages(t.Grant),
		Unsure:      s.clock.Sure() != nil,
		Doubt:       s.clock.Doubt(),
	}
}

// noteUnanswered remembers that a refresh waited here in vain, whatever for, and that its client was told to come again
// after a while. Only a token of ours is remembered.
func (s *Server) noteUnanswered(q *request, told time.Duration) {
	text := q.form[api.ParamRefreshToken]
	if text == "" || q.form[api.ParamGrantType] != api.GrantRefreshToken {
		return
	}
	if t, ok, err := s.ring.OpenRefreshToken(text); ok && err == nil {
		s.unanswered.note(t.Grant, q.at, s.now().Add(told), s.config().RefreshRetryWindow)
	}
}

// outages are the times for which the retry window of a grant does not run, in order.
func (s *Server) outages(grant storage.GrantID) []storage.Span {
	s.noteSlowLook()
	waited := s.unanswered.of(grant)
	if len(waited) == 0 {
		return s.ring.Outages()
	}
	all := append(slices.Clone(s.ring.Outages()), waited...)
	slices.SortFunc(all, func(a, b storage.Span) int { return a.From.Compare(b.From) })
	return all
}

// checkBeforeRotation refuses a scope or resource that cannot be given while the token is still as it was. It reads the
// grant only when there is something to check: the request names one, or the client was updated while grants of today
// can have been made before.
func (s *Server) checkBeforeRotation(ctx context.Context, q *request, r storage.Refresh, now time.Time) error {
	updated := q.client.UpdatedAt.After(q.client.CreatedAt.Time) &&
		now.Sub(q.client.UpdatedAt.Time) < s.config().RefreshMaxTTL
	if q.form[api.ParamScope] == "" && q.form[api.ParamResource] == "" && !updated {
		return nil
	}
	g, err := s.db.Grants().State(ctx, r.ID)
	if errors.Is(err, storage.ErrNotFound) {
		return nil // the refresh itself says so
	}
	if err != nil {
		return err
	}
	if outcome := r.Classify(g, now); outcome == storage.RefreshDead || outcome == storage.RefreshReuse {
		return nil // the refresh itself says so, and ends the grant
	}
	_, _, err = rights(q, g)
	return err
}

// rights are scope and audience of the access token of a refresh.
func rights(q *request, g storage.GrantState) (scope, audience string, err error) {
	if scope, err = narrow(g.Scope, q.client, q.form[api.ParamScope]); err != nil {
		return "", "", err
	}
	if scope == "" && g.Scope != "" {
		return "", "", fail(api.InvalidScope, "the client may have none of the scope of the grant any more")
	}
	audience, err = target(strings.Fields(g.Audience), q.client, q.form[api.ParamResource])
	return scope, audience, err
}

// refreshed answers with a fresh access token and the successor of the refresh token, computed again from the row.
func (s *Server) refreshed(
	q *request,
	signer keys.Signer,
	t keys.RefreshToken,
	g storage.GrantState,
	now time.Time,
) (api.TokenResponse, error) {
	scope, audience, err := rights(q, g)
	if err != nil {
		return api.TokenResponse{}, err
	}
	response, err := s.respond(signer, s.refreshTicket(q, g, scope, audience, now))
	t.Generation = uint32(g.Generation)
	response.RefreshToken = s.ring.Secrets().SealRefreshToken(t, g.RotatedAt.Time)
	return response, err
}

// respond signs the access token and builds the body that all grants share.
func (s *Server) respond(signer keys.Signer, t ticket) (api.TokenResponse, error) {
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

func hasGrant(c storage.Client, grant string) bool { return slices.Contains(c.Grants, grant) }
