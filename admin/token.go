package admin

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/api"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// Verdicts on a token. That of an ended token also has the reason, as in "ended: user disabled".
const (
	VerdictLive    = "live"
	VerdictExpired = "expired"
	VerdictNotOurs = "not ours"
	VerdictForged  = "signed by our key, not made by us"
	verdictEnded   = "ended: "
)

// TokenReport explains a token.
type TokenReport struct {
	Verdict string         `json:"verdict"`
	Why     *string        `json:"why"`  // details of the verdict; null: there are none
	Kind    string         `json:"kind"` // access token or refresh token
	Header  map[string]any `json:"header"`
	Claims  map[string]any `json:"claims"`
	Key     *TokenKey      `json:"key"`   // null: this server has no such key
	Grant   *Grant         `json:"grant"` // null: there is no such login
}

// TokenKey is the key that a token names.
type TokenKey struct {
	KID   string   `json:"kid"`
	State KeyState `json:"state"`
}

// Tokens explains tokens.
type Tokens struct{ *core }

// Tokens explains tokens.
func (a *Admin) Tokens() Tokens { return Tokens(*a) }

// Inspect explains an access token or refresh token. It returns ErrInvalid for a text that is neither. Neither the
// report nor an error contains the token.
func (t Tokens) Inspect(ctx context.Context, token string) (TokenReport, error) {
	if strings.HasPrefix(token, keys.RefreshPrefix) {
		return t.refreshToken(ctx, token)
	}
	r, claims, err := parseToken(token)
	if v, signed := t.ring.Verify(token); err != nil && signed == nil { // signed by our key, and yet no token
		r.Kind, r.Header, err = "access token", map[string]any{"kid": v.KID}, nil
	}
	if err != nil {
		return r, err
	}
	kid, _ := r.Header["kid"].(string)
	rows := t.ring.Rows()
	if i := slices.IndexFunc(rows, func(k SigningKey) bool { return k.KID == kid }); i >= 0 {
		r.Key = &TokenKey{kid, rows[i].State}
	}
	if r.Grant, err = t.grantOf(ctx, claims.Session); err != nil {
		return r, err
	}
	if err := t.judge(&r, token, claims); err != nil || r.Verdict != VerdictForged {
		return r, err
	}
	if err := t.alarm(ctx, kid, token, claims); err != nil && t.say != nil {
		t.say("keyturn: the forged token could not be recorded: %v", err)
	}
	return r, nil
}

// alarm records a forged token, as servers do.
func (t Tokens) alarm(ctx context.Context, kid, token string, claims api.AccessToken) error {
	sum := sha256.Sum256([]byte(token))
	now := t.now()
	_, err := t.db.Forgeries().Note(ctx, kid, storage.HourOf(now), []storage.Forgery{{
		KID:      kid,
		Sub:      claims.Subject,
		ClientID: claims.ClientID,
		Audience: claims.Audience,
		IssuedAt: claims.IssuedAt,
		Expires:  claims.Expires,
		Token:    hex.EncodeToString(sum[:8]),
		By:       t.by,
		At:       now,
	}}, 0)
	return err
}

// parseToken decodes a compact JWS without a check of its signature.
func parseToken(token string) (r TokenReport, claims api.AccessToken, err error) {
	bad := invalid("this is neither an access token (three parts of base64url with dots between them) nor a refresh " +
		"token (it begins with " + keys.RefreshPrefix + ")")
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return r, claims, bad
	}
	r.Kind = "access token"
	for i, into := range []any{&r.Header, &r.Claims} {
		text, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[i], "="))
		if err != nil || json.Unmarshal(text, into) != nil {
			return r, claims, bad
		}
	}
	text, _ := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "=")) // decoded above
	if json.Unmarshal(text, &claims) != nil {
		claims = api.AccessToken{} // claims of another issuer may have other types
	}
	return r, claims, nil
}

// grantOf returns the grant with a text id; nil if there is none.
func (t Tokens) grantOf(ctx context.Context, id string) (*Grant, error) {
	parsed, err := storage.ParseGrantID(id)
	if err != nil {
		return nil, nil
	}
	g, err := t.db.Grants().Listed(ctx, parsed, t.now())
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return &g, err
}

// judge sets the verdict on an access token.
func (t Tokens) judge(r *TokenReport, token string, claims api.AccessToken) error {
	verified, err := t.ring.Verify(token)
	expires := time.Unix(claims.Expires, 0)
	over := !t.now().Before(expires)
	why := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		r.Why = &text
	}
	switch {
	case errors.Is(err, keys.ErrRevoked):
		r.Verdict = verdictEnded + "key revoked"
	case errors.Is(err, keys.ErrToken) && r.Key != nil && over && r.Key.State == storage.KeyRetired:
		r.Verdict = VerdictExpired
		why("its key has left the JWKS, so that the signature was not checked")
	case errors.Is(err, keys.ErrToken):
		r.Verdict = VerdictNotOurs
		why("no key of this server made its signature")
	case err != nil:
		return err
	case verified.Origin == keys.OriginForged,
		verified.Origin == keys.OriginExempt && !(claims.Wrote(verified.Payload) && covers(r.Grant, claims)):
		r.Verdict = VerdictForged
		why("whoever made it has the key: revoke it with `keyturn keys revoke %s`", verified.KID)
	case t.config.Issuer != "" && claims.Issuer != t.config.Issuer:
		r.Verdict = VerdictNotOurs
		why("its issuer is %s, and that of this server is %s", claims.Issuer, t.config.Issuer)
	case over:
		r.Verdict = VerdictExpired
	case r.Grant == nil:
		r.Verdict = verdictEnded + "its login was deleted"
	default:
		r.Verdict = verdictOf(r.Grant, t.now())
	}
	return nil
}

// covers reports whether an access token with these claims can come from a grant; nil: there is none to compare with.
func covers(g *Grant, claims api.AccessToken) bool {
	if g == nil {
		return true
	}
	state := storage.TokenState{ClientID: g.ClientID, Scope: g.Scope, Audience: g.Audience}
	if g.Sub != nil {
		state.Sub = *g.Sub
	}
	return state.Covers(claims.ClientID, claims.Subject, claims.Scope, claims.Audience)
}

// verdictOf returns the verdict on a token of a grant.
func verdictOf(g *Grant, now time.Time) string {
	if g.Live(now) {
		return VerdictLive
	}
	if g.EndedReason == nil {
		return verdictEnded + "its login has ended"
	}
	return verdictEnded + *g.EndedReason
}

// refreshToken explains a refresh token.
func (t Tokens) refreshToken(ctx context.Context, token string) (r TokenReport, err error) {
	r.Kind = "refresh token"
	opened, ok, err := t.ring.OpenRefreshToken(token)
	if err != nil {
		return r, err
	}
	if !ok {
		r.Verdict = VerdictNotOurs
		return r, nil
	}
	if r.Grant, err = t.grantOf(ctx, opened.Grant.String()); err != nil {
		return r, err
	}
	switch g := r.Grant; {
	case g == nil, g.FamilyHash != opened.Family.Hash():
		r.Verdict = verdictEnded + "its login was deleted"
	case g.EndedReason != nil || !g.Live(t.now()):
		r.Verdict = verdictOf(g, t.now())
		if r.Verdict == VerdictLive { // access tokens outlive the idle limit
			r.Verdict = verdictEnded + *g.EndedReason
		}
	case g.Generation > int64(opened.Generation):
		r.Verdict = verdictEnded + "replaced by a newer refresh token"
	default:
		r.Verdict = VerdictLive
	}
	return r, nil
}
