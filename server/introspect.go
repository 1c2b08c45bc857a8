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

// introspect is POST /introspect, RFC 7662. Whether a token is alive is always asked of the database: there is nothing
// that could serve a revoked one. For anyone who may not know, and for anything not alive, the answer is Active alone.
func (s *Server) introspect(ctx context.Context, req *request, f referenceForm) (any, error) {
	if f.token == "" {
		return nil, fail(api.InvalidRequest, "token is missing")
	}
	if req.client.Public {
		return nil, errClient // RFC 7662 §2.1 wants authorization, which a public client cannot show
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
	if at == foreign {
		return s.unknownToken(req)
	}
	if at == ended ||
		req.client.ID != v.claims.ClientID && (req.client.Resource == "" || req.client.Resource != v.claims.Audience) {
		return api.Introspection{}, nil
	}
	g, live, err := s.accessGrant(ctx, req, v)
	if err != nil || !live {
		return api.Introspection{}, err
	}
	return v.introspection(g.Username)
}

// introspection is the answer for a token that is alive, in the form in which it is sent. A user's name does not
// change.
func (v *verified) introspection(username string) (any, error) {
	if body := v.body.Load(); body != nil {
		return *body, nil
	}
	c := v.claims
	body, err := encode(api.Introspection{
		Active:   true,
		Issuer:   c.Issuer,
		Subject:  c.Subject,
		Audience: c.Audience,
		ClientID: c.ClientID,
		Username: username,
		Scope:    c.Scope,
		Expires:  c.Expires, IssuedAt: c.IssuedAt, ID: c.ID, TokenType: "Bearer", Session: c.Session, Roles: c.Roles,
	})
	if err == nil {
		v.body.Store(&body)
	}
	return body, err
}

// introspectRefreshToken shows the newest refresh token of a grant to its own client.
func (s *Server) introspectRefreshToken(ctx context.Context, req *request, t keys.RefreshToken) (any, error) {
	g, err := s.db.Grants().State(ctx, t.Grant)
	if errors.Is(err, storage.ErrNotFound) {
		return api.Introspection{}, nil
	}
	if err != nil {
		return nil, err
	}
	r := storage.Refresh{Generation: int64(t.Generation), FamilyHash: t.Family.Hash(), ClientID: req.client.ID}
	if outcome := r.Classify(g, s.now()); outcome != storage.RefreshFresh && outcome != storage.RefreshAhead {
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
		TokenType: "refresh_token", Session: g.ID.String(), Roles: g.Roles,
	}, nil
}

// A resource server may ask for this many tokens that were never issued, and gets them back evenly over the period.
const (
	unknownTokens       = 200
	unknownTokensPeriod = 10 * time.Minute
)

// unknownToken answers for a text that is no token of this server. Who asks for many of them is looking for one (RFC
// 7662 §4).
func (s *Server) unknownToken(req *request) (any, error) {
	if wait := s.scans.wait(req.client.ID, s.now()); wait > 0 {
		s.throttledEvent(req, "introspection", throttledIntrospection)
		return nil, tooMany(wait)
	}
	client, now := req.client.ID, s.now()
	req.later(func() { s.scans.spend(client, now) })
	return api.Introspection{}, nil
}
