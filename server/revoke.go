package server

import (
	"context"
	"log/slog"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/storage"
)

// revoke is POST /revoke (RFC 7009). Any token of a grant, of any type and generation, ends the whole grant. For an
// unknown token, and for a token of another client, the answer is 200 and nothing changes (§2.2).
func (s *Server) revoke(ctx context.Context, req *request, f referenceForm) (any, error) {
	if f.token == "" {
		return nil, fail(api.InvalidRequest, "token is missing")
	}
	id, family, ok, err := s.grantOf(ctx, req, f.token)
	if err != nil {
		return nil, err
	}
	if !ok {
		s.event(req, "revocation", "nothing to revoke")
		return api.Revocation{}, nil
	}
	ended, err := s.db.Grants().Revoke(ctx, storage.Actor{Name: "client:" + req.client.ID},
		storage.Revocation{ID: id, Caller: req.caller(), FamilyHash: family}, req.at)
	if err != nil {
		return nil, err
	}
	outcome := "nothing to revoke"
	if ended {
		outcome = "ok"
	}
	s.event(req, "revocation", outcome, slog.String("sid", id.String()))
	return api.Revocation{}, nil
}

// grantOf finds the grant of a token. ok is false if the token does not belong to the client, or its grant has ended.
func (s *Server) grantOf(
	ctx context.Context, req *request, text string,
) (id storage.GrantID, familyHash string, ok bool, err error) {
	if t, ok, err := s.ring.OpenRefreshToken(text); ok || err != nil {
		return t.Grant, t.Family.Hash(), ok, err
	}
	v, at, err := s.readAccessToken(text)
	if err == nil && at == forged {
		s.forgeries.report(req, v)
	}
	if err != nil ||
		at != checkable ||
		v.claims.ClientID != req.client.ID {
		return 0, "", false, err
	}
	_, live, err := s.accessGrant(ctx, req, v)
	return v.grant, "", live, err
}
