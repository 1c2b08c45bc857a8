package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// maxAccessToken is the size of the largest access token in bytes. Many servers take no larger header, and the forms
// of /introspect and /revoke must hold it.
const maxAccessToken = 8 << 10

// rolesClaim is what a payload has before the JSON text of the roles.
const rolesClaim = `,"roles":`

// largestKey is the size of the largest key that may sign, in bits.
const largestKey = 4096

// noRoles is the size of the JSON text of no roles, [].
const noRoles = 2

// tokenSize is the exact length of an access token as compact JWS (RFC 7515 §7.1), without signing it.
func tokenSize(typ keys.Typ, claims api.AccessToken, bits int) (int, error) {
	payload, err := json.Marshal(claims)
	return jwsSize(typ, len(payload), bits), err
}

func jwsSize(typ keys.Typ, payload, bits int) int {
	return base64.RawURLEncoding.EncodedLen(payload) + jwsFrame(typ, bits)
}

// jwsFrame is the length of all of a compact JWS but its payload. A kid is a SHA-256 thumbprint.
func jwsFrame(typ keys.Typ, bits int) int {
	b64 := base64.RawURLEncoding
	header := len(`{"alg":"RS256","kid":"","typ":""}`) + b64.EncodedLen(32) + len(typ)
	return b64.EncodedLen(header) + len("..") + b64.EncodedLen((bits+7)/8)
}

// withRoles is the size of a payload without roles once it has roles whose JSON text has a size.
func withRoles(payload, roles int) int {
	if roles <= noRoles {
		return payload
	}
	return payload + len(rolesClaim) + roles
}

// maxRoles is the size of the longest JSON text of roles that fits a token beside a payload without roles. 0 if not
// even none fit.
func maxRoles(typ keys.Typ, payload, bits int) int {
	room := base64.RawURLEncoding.DecodedLen(maxAccessToken-jwsFrame(typ, bits)) - payload
	if room < 0 {
		return 0
	}
	return max(noRoles, room-len(rolesClaim))
}

// largestPayload is the size of the payload of the largest access token that a client can get, without roles.
func largestPayload(issuer string, c storage.Client) (int, error) {
	t := ticket{
		sub:      unusedSub,
		clientID: c.ID,
		scope:    c.Scope,
		authTime: year2100,
		issued:   year2100,
		expires:  year2100,
	}
	payload, err := json.Marshal(t.claims(issuer, unusedID))
	longest := 0
	for _, audience := range c.Audiences {
		text, _ := json.Marshal(audience) // a string has no error
		longest = max(longest, len(text)-len(`""`))
	}
	return len(payload) + longest, err
}

// As long as the sub of a user and the id of a token.
var unusedSub, unusedID = newSub(), newTokenID()

// year2100 has as many digits in unix seconds as the times of all tokens until the year 2286.
var year2100 = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

// errTooLarge refuses a token that is larger than maxAccessToken.
var errTooLarge = fail(api.InvalidScope, "the access token would be larger than 8192 bytes: ask for less scope")

// checkSize refuses a token that would be too large, before anything is changed for it.
func (s *Server) checkSize(signer keys.Signer, t ticket) error {
	size, err := tokenSize(t.typ, t.claims(s.config().Issuer, unusedID), s.bitsOf(signer))
	if err == nil && size > maxAccessToken {
		err = s.tooLarge(t, size)
	}
	return err
}

func (s *Server) tooLarge(t ticket, size int) error {
	s.log.Warn("an access token is not issued because it would be too large",
		slog.String("client", t.clientID),
		slog.String("sub", t.sub),
		slog.Int("size", size),
		slog.Int("max", maxAccessToken),
		slog.Int("scope_size", len(t.scope)),
		slog.Int("roles_size", rolesSize(t.roles)),
		slog.Int("roles", len(t.roles)))
	return errTooLarge
}

// bitsOf is the size of the key that a signer signs with.
func (s *Server) bitsOf(signer keys.Signer) int {
	rows := s.ring.Rows()
	for i := range rows {
		if rows[i].KID == signer.KID {
			return rows[i].Bits
		}
	}
	return largestKey
}

// rolesThatFit bounds the roles of a refresh before its grant is read: by the client's whole scope and its longest
// audience.
func (s *Server) rolesThatFit(q *request, signer keys.Signer) (int64, error) {
	payload, err := largestPayload(s.config().Issuer, q.client)
	return int64(max(1, maxRoles(keys.Typ(q.client.TokenTyp), payload, s.bitsOf(signer)))), err
}

// rotate rotates a grant if the access token fits. r.MaxRoles may be too strict, since the grant may have less scope
// than the client: where it refuses, the grant decides.
func (s *Server) rotate(ctx context.Context, q *request, signer keys.Signer, r storage.Refresh, now time.Time) (
	g storage.GrantState, outcome storage.RefreshOutcome, err error,
) {
	g, outcome, err = s.db.Grants().Rotate(ctx, r, now)
	if err != nil || outcome != storage.RefreshTooLarge {
		return g, outcome, err
	}
	scope, audience, err := rights(q, g)
	if err != nil {
		return g, outcome, err
	}
	if s.checkSize(signer, s.refreshTicket(q, g, scope, audience, now)) != nil {
		return g, outcome, nil
	}
	r.MaxRoles = g.RolesSize
	return s.db.Grants().Rotate(ctx, r, now)
}

// refreshTicket is the access token of a refresh.
func (s *Server) refreshTicket(q *request, g storage.GrantState, scope, audience string, now time.Time) ticket {
	return ticket{
		grant:    g.ID,
		sub:      *g.Sub,
		clientID: g.ClientID,
		typ:      keys.Typ(q.client.TokenTyp),
		audience: audience,
		scope:    scope,
		roles:    g.Roles,
		authTime: g.CreatedAt.Time,
		issued:   now,
		expires:  s.lifetime(q.client, now, g.ExpiresAt.Time),
	}
}

// rolesSize is the size of roles as JSON text, as the database and tokens have them.
func rolesSize(roles []string) int {
	text, err := storage.List(roles).Value()
	if err != nil {
		return 0
	}
	return len(text.(string))
}

// unknownIssuer stands for the issuer until a server has recorded it.
var unknownIssuer = strings.Repeat("x", 128)

// tokenIssuer is the issuer of the tokens whose size an administrator decides.
func (a *Admin) tokenIssuer() string {
	if a.config.Issuer == "" {
		return unknownIssuer
	}
	return a.config.Issuer
}

// tokenBits is the size of the largest key that may sign: one that is there, or a new one.
func (a *Admin) tokenBits() int {
	bits := a.config.KeyBits
	for _, row := range a.ring.Rows() {
		if row.State != storage.KeyRetired && row.State != storage.KeyRevoked {
			bits = max(bits, row.Bits)
		}
	}
	return bits
}

// roleLimit is how long the roles of a user may be, and because of which client.
type roleLimit struct {
	client  string // "": there is none that gets tokens
	typ     keys.Typ
	payload int // of the client's largest token, without roles
	bits    int
}

// roleLimit looks for the client with the largest tokens. One whose tokens are too large without roles limits no user.
func (a *Admin) roleLimit(ctx context.Context) (roleLimit, error) {
	limit := roleLimit{bits: a.tokenBits()}
	err := a.EachClient(ctx, func(page []Client) error {
		for _, c := range page {
			if err := limit.take(c, a.tokenIssuer()); err != nil {
				return err
			}
		}
		return nil
	})
	return limit, err
}

// take makes the limit that of a client whose tokens are larger.
func (l *roleLimit) take(c Client, issuer string) error {
	if len(c.Grants) == 0 {
		return nil
	}
	payload, err := largestPayload(issuer, c)
	size := jwsSize(keys.Typ(c.TokenTyp), payload, l.bits)
	if size <= maxAccessToken && size > jwsSize(l.typ, l.payload, l.bits) {
		l.client, l.typ, l.payload = c.ID, keys.Typ(c.TokenTyp), payload
	}
	return err
}

// check refuses roles that would make an access token too large.
func (l roleLimit) check(roles []string) error {
	size := jwsSize(l.typ, withRoles(l.payload, rolesSize(roles)), l.bits)
	if l.client == "" || size <= maxAccessToken {
		return nil
	}
	return invalid("roles: %d with %d bytes would make an access token of client %s %d bytes long, and the limit "+
		"is %d: give the user fewer or shorter roles, or the client less scope", len(roles), rolesSize(roles), l.client,
		size, maxAccessToken)
}

// most is the size of the longest roles that fit, as JSON text.
func (l roleLimit) most() int {
	if l.client == "" {
		return maxAccessToken
	}
	return maxRoles(l.typ, l.payload, l.bits)
}

// longestRoles is the size of the longest roles that fit the token of a client without scope. Users with more, from
// before there was a limit, are not those that a new client must fit.
func (a *Admin) longestRoles() (int, error) {
	payload, err := largestPayload(a.tokenIssuer(), storage.Client{})
	return maxRoles(keys.TypJWT, payload, a.tokenBits()), err
}

// checkClientSize refuses a client whose access token would be too large for the user with the longest roles, unless it
// was as large before.
func (a *Admin) checkClientSize(ctx context.Context, before, c storage.Client) error {
	payload, err := largestPayload(a.tokenIssuer(), c)
	if err != nil || len(c.Grants) == 0 {
		return err
	}
	if was, err := largestPayload(a.tokenIssuer(), before); err != nil || before.ID != "" && payload <= was {
		return err
	}
	most, err := a.longestRoles()
	if err != nil {
		return err
	}
	user, roles, err := a.db.Users().LongestRoles(ctx, most, a.countTime())
	if errors.Is(err, storage.ErrTooSlow) {
		roles, err = 0, nil // too many users to look at: a token that is too large is refused when it is issued
	}
	size := jwsSize(keys.Typ(c.TokenTyp), withRoles(payload, int(roles)), a.tokenBits())
	if err != nil || size <= maxAccessToken {
		return err
	}
	return invalid("scope: with all its scope (%d bytes), its longest audience and the roles of user %q (%d bytes), an "+
		"access token of client %s would have %d bytes, and the limit is %d: give the client less scope",
		len(c.Scope), user, roles, c.ID, size, maxAccessToken)
}

// tooLargeAlone reports whether the access tokens of a client are too large for a user without roles, and how large.
func (a *Admin) tooLargeAlone(c storage.Client) (size int, tooLarge bool) {
	payload, err := largestPayload(a.tokenIssuer(), c)
	size = jwsSize(keys.Typ(c.TokenTyp), payload, a.tokenBits())
	return size, err == nil && size > maxAccessToken
}
