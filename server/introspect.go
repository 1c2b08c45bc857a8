package server

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// introspect is POST /introspect (RFC 7662). It always asks the database whether the grant is alive, so a revocation
// works at once. If the token is not active, or the caller may not see it, the answer has nothing but active (§2.2).
func (s *Server) introspect(ctx context.Context, req *request, f referenceForm) (any, error) {
	if f.token == "" {
		return nil, fail(api.InvalidRequest, "token is missing")
	}
	// RFC 7662 §2.1: the caller must authenticate, which a public client cannot.
	if req.client.Public {
		return nil, errClient
	}
	if req.client.Resource != "" {
		s.observed.saw(storage.SawIntrospection, req.client.ID)
	}
	t, ok, err := s.ring.OpenRefreshToken(f.token)
	if err != nil {
		return nil, err
	}
	if ok {
		return s.introspectRefreshToken(ctx, req, t)
	}
	v, at, err := s.readAccessToken(f.token)
	if err != nil {
		return nil, err
	}
	switch at {
	case foreign:
		return s.unknownToken(req)
	case forged:
		s.forgeries.report(req, v)
		return api.Introspection{}, nil
	}
	if at == ended {
		return api.Introspection{}, nil
	}
	g, live, err := s.accessGrant(ctx, req, v)
	if err != nil || !live || !maySee(req.client, v.claims) {
		return api.Introspection{}, err
	}
	return v.introspection(g.Username)
}

// maySee reports whether a client may introspect an access token: as its client, or as the resource server that is its
// audience (RFC 7662 §4).
func maySee(c storage.Client, claims api.AccessToken) bool {
	if c.ID == claims.ClientID {
		return true
	}
	return c.Resource != "" && c.Resource == claims.Audience
}

// introspection returns the encoded response for a live token, and caches it. This is safe because a username never
// changes.
func (v *verified) introspection(username string) (any, error) {
	if body := v.body.Load(); body != nil {
		return *body, nil
	}
	c := v.claims
	body, err := encode(api.Introspection{
		Active:    true,
		Issuer:    c.Issuer,
		Subject:   c.Subject,
		Audience:  c.Audience,
		ClientID:  c.ClientID,
		Username:  username,
		Scope:     c.Scope,
		Expires:   c.Expires,
		IssuedAt:  c.IssuedAt,
		ID:        c.ID,
		TokenType: "Bearer",
		Session:   c.Session,
		Roles:     c.Roles,
	})
	if err == nil {
		v.body.Store(&body)
	}
	return body, err
}

// introspectRefreshToken answers for a refresh token. Only the newest token of a grant is active, and only for its own
// client.
func (s *Server) introspectRefreshToken(ctx context.Context, req *request, t keys.RefreshToken) (any, error) {
	g, err := s.db.Grants().State(ctx, t.Grant)
	if errors.Is(err, storage.ErrNotFound) {
		return api.Introspection{}, nil
	}
	if err != nil {
		return nil, err
	}
	presented := storage.Refresh{
		Generation: int64(t.Generation),
		FamilyHash: t.Family.Hash(),
		Caller:     storage.Caller{ID: req.client.ID},
	}
	outcome := presented.Classify(g, s.now())
	if outcome != storage.RefreshFresh && outcome != storage.RefreshAhead {
		return api.Introspection{}, nil
	}
	first, _, _ := strings.Cut(g.Audience, " ")
	audience, err := target([]string{first}, req.client, "")
	if err != nil {
		audience = ""
	}
	return api.Introspection{
		Active:    true,
		Issuer:    s.config().Issuer,
		Subject:   *g.Sub,
		Audience:  audience,
		ClientID:  g.ClientID,
		Username:  *g.Username,
		Scope:     g.Scope,
		Expires:   g.IdleExpiresAt.Unix(),
		IssuedAt:  g.RotatedAt.Unix(),
		ID:        g.ID.String() + "." + strconv.FormatUint(uint64(t.Generation), 10),
		TokenType: "refresh_token",
		Session:   g.ID.String(),
		Roles:     g.Roles,
	}, nil
}

// Limit of introspections of unknown tokens for each client, refilled evenly over the period.
const (
	unknownTokens       = 200
	unknownTokensPeriod = 10 * time.Minute
)

// unknownToken answers for a text that this server did not issue as a token. It limits how many a client may try,
// against token scanning (RFC 7662 §4).
func (s *Server) unknownToken(req *request) (any, error) {
	if wait := s.scans.wait(req.client.ID, s.now()); wait > 0 {
		s.throttledEvent(req, "introspection", throttledIntrospection)
		return nil, tooMany(wait)
	}
	client, now := req.client.ID, s.now()
	req.later(func() { s.scans.spend(client, now) })
	return api.Introspection{}, nil
}
