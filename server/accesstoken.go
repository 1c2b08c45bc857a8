package server

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// ticket is what an access token says of one grant.
type ticket struct {
	grant    storage.GrantID
	sub      string
	clientID string
	audience string
	scope    string
	roles    []string
	authTime time.Time
	issued   time.Time
	expires  time.Time
}

// lifetime is when an access token of the client that is issued now expires: after the client's TTL or the server's, and never after
// the grant.
func (s *Server) lifetime(c storage.Client, now, grantExpires time.Time) time.Time {
	ttl := time.Duration(c.AccessTTL)
	if ttl == 0 {
		ttl = time.Duration(s.config.AccessTTL)
	}
	expires := now.Add(ttl)
	if grantExpires.Before(expires) {
		return grantExpires
	}
	return expires
}

// accessToken signs the token of a ticket (RFC 9068 §2.2). Times in it are whole seconds.
func (s *Server) accessToken(signer keys.Signer, t ticket) (string, error) {
	id := make([]byte, 16)
	rand.Read(id)
	payload, err := json.Marshal(api.AccessToken{
		Issuer: s.config.Issuer, Subject: t.sub, Audience: t.audience, ClientID: t.clientID, Expires: t.expires.Unix(), IssuedAt: t.issued.Unix(),
		ID: base64.RawURLEncoding.EncodeToString(id), Scope: t.scope, AuthTime: t.authTime.Unix(), Session: t.grant.String(), Roles: t.roles,
	})
	if err != nil {
		return "", fmt.Errorf("access token: %w", err)
	}
	token, err := signer.Sign(payload)
	if err == nil {
		s.metrics.signed.WithLabelValues(signer.KID).Inc()
	}
	return token, err
}

// standing is what the text of an access token says by itself, without the database.
type standing int

const (
	unknown standing = iota // not a token that this server signed
	over                    // signed by this server, but expired, or under a key that has been revoked
	timely                  // to be asked about
)

// readAccessToken returns the claims of an access token, the kid of its key and where it stands. The error is of a server that cannot be sure.
func (s *Server) readAccessToken(token string) (claims api.AccessToken, kid string, at standing, err error) {
	payload, kid, err := s.ring.Verify(token)
	switch {
	case errors.Is(err, keys.ErrToken):
		return claims, "", unknown, nil
	case errors.Is(err, keys.ErrRevoked):
		return claims, "", over, nil
	case err != nil:
		return claims, "", unknown, err
	}
	if err := json.Unmarshal(payload, &claims); err != nil || claims.Issuer != s.config.Issuer {
		return claims, "", unknown, nil
	}
	if s.now().Unix() >= claims.Expires {
		return claims, kid, over, nil
	}
	return claims, kid, timely, nil
}

// accessGrant reads the grant of an access token, if it is that of the token and alive. The state of the key that signed it is read with
// it, so that the revocation of a key counts at once, and not only when this replica has polled.
func (s *Server) accessGrant(ctx context.Context, claims api.AccessToken, kid string) (state storage.TokenState, live bool, err error) {
	id, err := storage.ParseGrantID(claims.Session)
	if err != nil {
		return state, false, nil
	}
	state, err = s.db.TokenState(ctx, id, kid)
	if errors.Is(err, storage.ErrNotFound) {
		return state, false, nil
	}
	live = err == nil && state.Live(s.now()) && state.ClientID == claims.ClientID && *state.Sub == claims.Subject
	return state, live, err
}
