package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// accessTokens issues access tokens, and reads those that are presented.
type accessTokens struct {
	*core
	verified *tokenCache
}

// accessClaims is what an access token says of one grant.
type accessClaims struct {
	grant    storage.GrantID
	sub      string
	clientID string
	typ      keys.Typ
	audience string
	scope    string
	roles    []string
	authTime time.Time
	issued   time.Time
	expires  time.Time
}

// claims are the payload of a accessClaims's token (RFC 9068 §2.2). Times in it are whole seconds.
func (t accessClaims) claims(issuer, id string) api.AccessToken {
	return api.AccessToken{
		Issuer:   issuer,
		Subject:  t.sub,
		Audience: t.audience,
		ClientID: t.clientID,
		Expires:  t.expires.Unix(),
		IssuedAt: t.issued.Unix(),
		ID:       id,
		Scope:    t.scope,
		AuthTime: t.authTime.Unix(),
		Session:  t.grant.String(),
		Roles:    t.roles,
	}
}

func newTokenID() string {
	id := make([]byte, 16)
	rand.Read(id)
	return base64.RawURLEncoding.EncodeToString(id)
}

// lifetime is when an access token of the client that is issued now expires: after the client's TTL or the server's,
// and never after the grant. The row of a client may have been written by others than Admin: the TTL is between a
// second and an hour whatever it says.
func (s *accessTokens) lifetime(c storage.Client, now, grantExpires time.Time) time.Time {
	ttl := time.Duration(c.AccessTTL)
	if ttl == 0 {
		ttl = s.config().AccessTTL
	}
	expires := now.Add(min(max(ttl, config.MinAccessTTL), config.MaxAccessTTL))
	if grantExpires.Before(expires) {
		return grantExpires
	}
	return expires
}

// accessToken signs the token of a accessClaims, unless it would be too large.
func (s *accessTokens) accessToken(signer keys.Signer, t accessClaims) (string, error) {
	payload, err := json.Marshal(t.claims(s.config().Issuer, newTokenID()))
	if err != nil {
		return "", fmt.Errorf("access token: %w", err)
	}
	if size := api.TokenSize(string(t.typ), len(payload), s.bitsOf(signer)); size > api.MaxAccessToken {
		return "", s.tooLarge(t, size)
	}
	token, err := signer.Sign(t.typ, payload)
	if err == nil {
		s.metrics.signed.WithLabelValues(signer.KID).Inc()
	}
	return token, err
}

// tokenStatus is what the text of an access token says by itself, without the database.
type tokenStatus int

const (
	foreign   tokenStatus = iota // not a token that this server signed
	ended                        // signed by this server, but expired, or under a key that has been revoked
	checkable                    // to be asked about
)

// verified is what an access token says, once its signature has been verified. It does not change.
type verified struct {
	kid    string
	claims api.AccessToken
	grant  storage.GrantID
	begins time.Time               // the later of its iat and nbf
	body   atomic.Pointer[encoded] // of its introspection, once it was made
}

// readAccessToken returns what an access token says and where it stands. The error is of a server that cannot be sure.
func (s *accessTokens) readAccessToken(token string) (*verified, tokenStatus, error) {
	sum := sha256.Sum256([]byte(token))
	v := s.verified.find(sum)
	if v == nil {
		var at tokenStatus
		var err error
		if v, at, err = s.verify(token); v == nil {
			return nil, at, err
		}
		s.verified.keep(sum, v)
	}
	switch err := s.ring.Trusts(v.kid); {
	case errors.Is(err, keys.ErrToken), errors.Is(err, keys.ErrRevoked):
		return v, ended, nil
	case err != nil:
		return nil, foreign, err
	case s.now().Unix() >= v.claims.Expires, s.clock.Over(v.begins, time.Unix(v.claims.Expires, 0)):
		return v, ended, nil
	}
	return v, checkable, nil
}

// verify reads a token that has not been seen before. Nothing if it is none that can be used.
func (s *accessTokens) verify(token string) (*verified, tokenStatus, error) {
	payload, kid, err := s.ring.Verify(token)
	switch {
	case errors.Is(err, keys.ErrToken):
		return nil, foreign, nil
	case errors.Is(err, keys.ErrRevoked):
		return nil, ended, nil
	case err != nil:
		return nil, foreign, err
	}
	v := &verified{kid: kid}
	if err := json.Unmarshal(payload, &v.claims); err != nil || v.claims.Issuer != s.config().Issuer {
		return nil, foreign, nil
	}
	var more struct {
		NotBefore int64 `json:"nbf"` // none that this server issues has it
	}
	if err := json.Unmarshal(payload, &more); err != nil {
		return nil, foreign, nil
	}
	v.begins = time.Unix(max(v.claims.IssuedAt, more.NotBefore), 0)
	if v.grant, err = storage.ParseGrantID(v.claims.Session); err != nil {
		v.grant = 0 // that of nobody
	}
	return v, checkable, nil
}

// accessGrant asks for the grant of an access token, if it is that of the token and alive.
func (s *accessTokens) accessGrant(
	ctx context.Context, req *request, v *verified,
) (state storage.TokenState, live bool, err error) {
	ctx, asked := s.span(ctx, "ask about token")
	state, err = s.db.Grants().TokenState(ctx, req.client.Caller(), v.grant, v.kid, s.now())
	asked(err)
	req.confirmed = err == nil
	return state, err == nil && state.Live && state.ClientID == v.claims.ClientID && state.Sub == v.claims.Subject, err
}
