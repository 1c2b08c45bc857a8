package admin

import (
	"context"
	"errors"
	"strings"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// unknownIssuer stands for the issuer until a server has recorded it.
var unknownIssuer = strings.Repeat("x", 128)

// tokenIssuer returns the issuer for estimates of the token size.
func (a *core) tokenIssuer() string {
	if a.config.Issuer == "" {
		return unknownIssuer
	}
	return a.config.Issuer
}

// tokenBits returns the size of the largest key that may sign: an existing key, or a new one.
func (a *core) tokenBits() int {
	bits := a.config.KeyBits
	for _, row := range a.ring.Rows() {
		if row.State != storage.KeyRetired && row.State != storage.KeyRevoked {
			bits = max(bits, row.Bits)
		}
	}
	return bits
}

// largestPayload returns the largest payload without roles of a client.
func (a *core) largestPayload(c Client) (int, error) {
	return api.LargestPayload(a.tokenIssuer(), api.TokenRights{
		ClientID:  c.ID,
		Scope:     c.Scope,
		Audiences: c.Audiences,
		Username:  c.NamesUser(),
		Status:    a.config.StatusList == config.StatusListOn,
	})
}

// roleLimit bounds the roles of a user, by the client with the largest tokens.
type roleLimit struct {
	client  string // "": no client gets tokens
	typ     string
	payload int // of the client's largest token, without roles
	bits    int
}

// roleLimit finds the client with the largest tokens. It ignores clients whose tokens are too large without roles.
func (a *core) roleLimit(ctx context.Context) (roleLimit, error) {
	limit := roleLimit{bits: a.tokenBits()}
	err := Clients{a}.Each(ctx, func(page []Client) error {
		for _, c := range page {
			if len(c.Grants) == 0 {
				continue
			}
			payload, err := a.largestPayload(c)
			if err != nil {
				return err
			}
			limit.take(c, payload)
		}
		return nil
	})
	return limit, err
}

// take applies a client if its tokens are larger.
func (l *roleLimit) take(c Client, payload int) {
	size := api.TokenSize(c.TokenTyp, payload, l.bits)
	if size <= api.MaxAccessToken && size > api.TokenSize(l.typ, l.payload, l.bits) {
		l.client, l.typ, l.payload = c.ID, c.TokenTyp, payload
	}
}

// check refuses roles that would make an access token too large.
func (l roleLimit) check(roles []string) error {
	bytes := storage.List(roles).Size()
	size := api.TokenSize(l.typ, api.WithRoles(l.payload, bytes), l.bits)
	if l.client == "" || size <= api.MaxAccessToken {
		return nil
	}
	return invalid("roles: %d with %d bytes would make an access token of client %s %d bytes long, and the limit "+
		"is %d: give the user fewer or shorter roles, or the client less scope",
		len(roles), bytes, l.client, size, api.MaxAccessToken)
}

// most returns the size of the longest roles that fit, as JSON.
func (l roleLimit) most() int {
	if l.client == "" {
		return api.MaxAccessToken
	}
	return api.MaxRoles(l.typ, l.payload, l.bits)
}

// longestRoles returns the size of the longest roles that fit the token of a client without scope. A new client need
// not fit users with longer roles, who are older than the limit.
func (a *core) longestRoles() (int, error) {
	payload, err := a.largestPayload(Client{})
	return api.MaxRoles(string(keys.TypJWT), payload, a.tokenBits()), err
}

// checkClientSize refuses a client whose access token would be too large for the user with the longest roles, unless
// the change does not enlarge it.
func (a *core) checkClientSize(ctx context.Context, before, c storage.Client) error {
	payload, err := a.largestPayload(c)
	if err != nil || len(c.Grants) == 0 {
		return err
	}
	if was, err := a.largestPayload(before); err != nil ||
		before.ID != "" && payload <= was {
		return err
	}
	most, err := a.longestRoles()
	if err != nil {
		return err
	}
	user, roles, err := a.db.Users().LongestRoles(ctx, most, a.count)
	if errors.Is(err, storage.ErrTooSlow) {
		roles, err = 0, nil // too many users to check: the token endpoint refuses tokens that are too large
	}
	size := api.TokenSize(c.TokenTyp, api.WithRoles(payload, int(roles)), a.tokenBits())
	if err != nil || size <= api.MaxAccessToken {
		return err
	}
	return invalid("scope: with all its scope (%d bytes), its longest audience and the roles of user %q (%d bytes), "+
		"an access token of client %s would have %d bytes, and the limit is %d: give the client less scope",
		len(c.Scope), user, roles, c.ID, size, api.MaxAccessToken)
}

// tooLargeAlone reports the size of a client's access tokens without roles, and whether it is too large.
func (a *core) tooLargeAlone(c storage.Client) (size int, tooLarge bool) {
	payload, err := a.largestPayload(c)
	size = api.TokenSize(c.TokenTyp, payload, a.tokenBits())
	return size, err == nil && size > api.MaxAccessToken
}
