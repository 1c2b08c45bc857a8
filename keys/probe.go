package keys

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/storage"
)

// ProbeBounds are what a ProbeSigner keeps to, whatever it is asked to sign.
type ProbeBounds struct {
	Subject, ClientID string        // of this run alone
	Resource          string        // the only real audience
	OtherAudiences    string        // the beginning of all other audiences, which no API has
	Typs              []string      // that the header may have; "" is none
	Lifetime          time.Duration // the longest time until exp
	Endless           bool          // tokens without exp are allowed
}

// ProbeSigner signs the tokens of a probe: wrong in a known way, and of no use anywhere else.
type ProbeSigner struct {
	bounds  ProbeBounds
	kid     string
	private PrivateKey
	secrets *Secrets
	now     func() time.Time
}

// ProbeSigner returns a signer of the current key, or of the next one. The next key must have been published for
// key_publish_lead: otherwise it returns a *TooYoungError. The row of the key notes until when it has signed.
func (l *LifeCycle) ProbeSigner(ctx context.Context, b ProbeBounds, next bool) (ProbeSigner, error) {
	v, err := l.ring.intact(ctx)
	if err != nil {
		return ProbeSigner{}, err
	}
	now := l.ring.options.Now()
	row := find(v.rows, storage.KeyCurrent)
	if next {
		row = find(v.rows, storage.KeyNext)
	}
	if row == nil {
		return ProbeSigner{}, fmt.Errorf("probe: there is no such key yet: start the server once: "+
			"%w", storage.ErrConflict)
	}
	if earliest := safeFrom(v.rows, l.ring.config()); next && now.Before(earliest) {
		return ProbeSigner{}, &TooYoungError{row.KID, earliest}
	}
	s := ProbeSigner{bounds: b, kid: row.KID, secrets: v.secrets, now: l.ring.options.Now}
	if s.private, err = v.master.privateOf(*row, l.ring.options.Module); err != nil {
		return ProbeSigner{}, err
	}
	return s, l.ring.db.SigningKeys().ReserveProbe(ctx, row.KID, now.Add(maxProbe))
}

// maxProbe is for how long a ProbeSigner may sign.
const maxProbe = 10 * time.Minute

// KID names the key.
func (s ProbeSigner) KID() string { return s.kid }

// Public is the public half of the key.
func (s ProbeSigner) Public() *rsa.PublicKey { return s.private.Public().(*rsa.PublicKey) }

// Sign makes the compact JWS of claims, with a jti that only this server can make. critical names a header parameter
// that must be understood (RFC 7515 §4.1.11); "": none. It refuses what is beyond its bounds.
func (s ProbeSigner) Sign(typ, critical string, claims map[string]any) (string, error) {
	if err := s.bounds.check(typ, claims, s.now()); err != nil {
		return "", fmt.Errorf("probe: refusing to sign: %w", err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("probe: %w", err)
	}
	if err := s.secrets.stamp(s.kid, payload); err != nil {
		return "", err
	}
	key := joseKey(s.private, s.kid)
	options := &jose.SignerOptions{}
	if typ != "" {
		options.WithType(jose.ContentType(typ))
	}
	if critical != "" {
		options.WithHeader("crit", []string{critical}).WithHeader(jose.HeaderKey(critical), true)
	}
	signer, err := jose.NewSigner(key, options)
	if err != nil {
		return "", fmt.Errorf("probe: %w", err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("probe: %w", err)
	}
	return jws.CompactSerialize()
}

// check returns an error for a token that could be of use elsewhere, or for longer.
func (b ProbeBounds) check(typ string, claims map[string]any, now time.Time) error {
	allowed := false
	for _, t := range b.Typs {
		allowed = allowed || t == typ
	}
	if !allowed {
		return fmt.Errorf("typ %q", typ)
	}
	if sub, given := claims["sub"]; given && sub != b.Subject || claims["client_id"] != b.ClientID {
		return errors.New("another subject or client than those of the run")
	}
	if exp, given := claims["exp"]; given || !b.Endless {
		seconds, ok := exp.(int64)
		if !ok || seconds > now.Add(b.Lifetime).Unix() {
			return fmt.Errorf("exp %v", exp)
		}
	}
	var audiences []string
	switch aud := claims["aud"].(type) {
	case nil:
	case string:
		audiences = []string{aud}
	case []string:
		audiences = aud
	default:
		return fmt.Errorf("aud %v", aud)
	}
	for _, aud := range audiences {
		if aud != b.Resource && !strings.HasPrefix(aud, b.OtherAudiences) {
			return fmt.Errorf("aud %q", aud)
		}
	}
	return nil
}
