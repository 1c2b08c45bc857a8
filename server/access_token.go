package server

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// accessTokens issues and verifies access tokens.
type accessTokens struct {
	*core
	verified  *tokenCache
	forgeries *forgeries
}

// accessClaims are the facts of a grant that an access token carries.
type accessClaims struct {
	grant    storage.GrantID
	sub      string
	clientID string
	typ      keys.Typ
	audience string
	scope    string
	roles    []string
	username string      // "": not in the token
	status   *api.Status // nil: not in the token
	authTime time.Time
	issued   time.Time
	expires  time.Time
}

// claims returns the payload of the token (RFC 9068 §2.2). Its times are in whole seconds.
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
		Username: t.username,
		Status:   t.status,
	}
}

// lifetime returns the expiry of an access token that is issued now. The TTL is the client's or else the server's, and
// the token never outlives the grant. The limits apply again here because somebody may have edited the client's row.
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

// accessToken signs an access token, or returns errTooLarge.
func (s *accessTokens) accessToken(signer keys.Signer, t accessClaims) (string, error) {
	payload, err := json.Marshal(t.claims(s.config().Issuer, api.SampleTokenID))
	if err != nil {
		return "", fmt.Errorf("access token: %w", err)
	}
	if size := api.TokenSize(string(t.typ), len(payload), s.bitsOf(signer)); size > api.MaxAccessToken {
		return "", s.tooLarge(t, size)
	}
	token, err := signer.Sign(t.typ, payload)
	if err == nil {
		s.metrics.signed.WithLabelValues(signer.KID).Inc()
		s.observed.saw(storage.SawAudience, t.audience)
	}
	return token, err
}

// tokenStatus is the status of an access token as far as it is known without the database.
type tokenStatus int

const (
	foreign   tokenStatus = iota // this server did not sign it
	ended                        // this server signed it, but it has expired or its key is revoked
	forged                       // a key of this server signed it, but no server made it
	checkable                    // valid so far; the database knows whether its grant is alive
)

// verified is an access token whose signature is verified. It is immutable, except for the cached body.
type verified struct {
	kid    string
	digest [8]byte // the first bytes of its SHA-256
	origin keys.Origin
	claims api.AccessToken
	grant  storage.GrantID
	begins time.Time               // the later of iat and nbf
	body   atomic.Pointer[encoded] // the introspection response; nil: not made yet
}

// readAccessToken verifies an access token and returns its status. An error means that the server cannot decide now.
func (s *accessTokens) readAccessToken(token string) (*verified, tokenStatus, error) {
	sum := sha256.Sum256([]byte(token))
	v := s.verified.find(sum)
	if v == nil {
		var at tokenStatus
		var err error
		var lasting bool
		if v, lasting, at, err = s.verify(token, sum); v == nil {
			return nil, at, err
		}
		if lasting {
			s.verified.keep(sum, v)
		}
	}
	switch err := s.ring.Trusts(v.kid); {
	case errors.Is(err, keys.ErrToken), errors.Is(err, keys.ErrRevoked):
		return v, ended, nil
	case err != nil:
		return nil, foreign, err
	case v.origin == keys.OriginForged:
		return v, forged, nil
	case s.now().Unix() >= v.claims.Expires, s.clock.Over(v.begins, time.Unix(v.claims.Expires, 0)):
		return v, ended, nil
	}
	return v, checkable, nil
}

// verify verifies a token that is not in the cache. It returns nil for a token that cannot be used. lasting reports
// whether the verdict stays the same.
func (s *accessTokens) verify(
	token string, sum [sha256.Size]byte,
) (v *verified, lasting bool, at tokenStatus, err error) {
	t, err := s.ring.Verify(token)
	switch {
	case errors.Is(err, keys.ErrToken):
		return nil, false, foreign, nil
	case errors.Is(err, keys.ErrRevoked):
		return nil, false, ended, nil
	case err != nil:
		return nil, false, foreign, err
	}
	v = &verified{kid: t.KID, digest: [8]byte(sum[:8]), origin: t.Origin}
	ours := v.read(t.Payload, s.config().Issuer)
	if v.origin == keys.OriginExempt && !v.claims.Wrote(t.Payload) {
		v.origin = keys.OriginForged // no version has written it so
	}
	if v.origin == keys.OriginForged {
		v.claims = forgedClaims(v.claims)
	} else if !ours {
		return nil, false, foreign, nil
	}
	return v, v.origin != keys.OriginExempt && len(token) <= api.MaxAccessToken, checkable, nil
}

// forgedClaims returns the claims of a forged token that are recorded, each cut to a reasonable length.
func forgedClaims(c api.AccessToken) api.AccessToken {
	const most = 256 // bytes
	cut := func(text string) string { return strings.ToValidUTF8(text[:min(len(text), most)], "") }
	return api.AccessToken{
		Subject:  cut(c.Subject),
		ClientID: cut(c.ClientID),
		Audience: cut(c.Audience),
		IssuedAt: c.IssuedAt,
		Expires:  c.Expires,
	}
}

// read reads the claims of a payload. It reports whether they are those of an access token of the issuer.
func (v *verified) read(payload []byte, issuer string) bool {
	if err := json.Unmarshal(payload, &v.claims); err != nil || v.claims.Issuer != issuer {
		return false
	}
	var more struct {
		NotBefore int64 `json:"nbf"` // this server never sets it
	}
	if err := json.Unmarshal(payload, &more); err != nil {
		return false
	}
	v.begins = time.Unix(max(v.claims.IssuedAt, more.NotBefore), 0)
	var err error
	if v.grant, err = storage.ParseGrantID(v.claims.Session); err != nil {
		v.grant = 0 // no grant has this id
	}
	return true
}

// accessGrant reads the grant of an access token. live reports whether the grant is alive and the token comes from it.
// A token of unknown origin that goes beyond its grant is forged. One with a MAC is not: then somebody has changed the
// row, and whoever can do that must not make a server revoke a key.
func (s *accessTokens) accessGrant(
	ctx context.Context, req *request, v *verified,
) (state storage.TokenState, live bool, err error) {
	ctx, asked := s.span(ctx, "ask about token")
	state, err = s.db.Grants().TokenState(ctx, req.caller(), v.grant, v.kid, s.now())
	asked(err)
	if err != nil || state.ClientID == "" {
		return state, false, err
	}
	if c := v.claims; !state.Covers(c.ClientID, c.Subject, c.Scope, c.Audience) {
		if v.origin == keys.OriginExempt {
			v.claims = forgedClaims(v.claims)
			s.forgeries.report(req, v)
		}
		return state, false, nil
	}
	return state, state.Live, nil
}
