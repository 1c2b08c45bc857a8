package server

import (
	"context"
	"log/slog"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/storage"
)

// revoke is POST /revoke, RFC 7009: any token of a grant, whatever its type and generation, ends the grant of the
// client that presents it. A token that is nobody's, or another client's, is none of this client's business, and gone
// as far as it can tell (RFC 7009 §2.2).
func (s *Server) revoke(ctx context.Context, req *request, f referenceForm) (any, error) {
	if f.token == "" {
		return nil, fail(api.InvalidRequest, "token is missing")
	}
	id, family, ok, err := s.grantOf(f.token, req.client.ID)
	if err != nil {
		return nil, err
	}
	if !ok {
		s.event(req, "revocation", "nothing to revoke")
		return api.Revocation{}, nil
	}
	ended, err := s.db.Grants().Revoke(ctx, storage.Actor{Name: "client:" + req.client.ID},
		storage.Revocation{ID: id, ClientID: req.client.ID, FamilyHash: family}, req.at)
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

// grantOf tells which grant a token of the client belongs to: from the token alone, without a query.
func (s *Server) grantOf(text, clientID string) (id storage.GrantID, familyHash string, ok bool, err error) {
	if t, ok, err := s.ring.OpenRefreshToken(text); ok || err != nil {
		return t.Grant, t.Family.Hash(), ok, err
	}
	v, at, err := s.readAccessToken(text)
	if err != nil || at != checkable || v.claims.ClientID != clientID {
		return 0, "", false, err
	}
	return v.grant, "", true, nil
}
