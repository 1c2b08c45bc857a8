package keys

import (
	"crypto/rsa"
	"errors"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/storage"
)

var (
	// ErrToken means that a text is no token signed by a key of this Ring. The error never says more.
	ErrToken = errors.New("not a token of this server")
	// ErrRevoked means that a text names a revoked key. The signature is not checked.
	ErrRevoked = errors.New("the key has been revoked")
)

// Trusts returns nil if tokens signed by the key are trusted now, and otherwise ErrRevoked, ErrToken, or ErrStale if
// this replica cannot be sure.
func (r *Ring) Trusts(kid string) error {
	r.cpus.noteRead()
	v, err := r.fresh()
	if err != nil {
		return err
	}
	_, err = v.trusted(kid)
	return err
}

func (v *view) trusted(kid string) (*rsa.PublicKey, error) {
	switch public := v.public[kid]; {
	case public != nil:
		return public, nil
	case v.revoked[kid]:
		return nil, ErrRevoked
	}
	return nil, ErrToken
}

// Verified is a token that a trusted key of the Ring signed.
type Verified struct {
	KID     string
	Payload []byte
	Origin  Origin
}

// Origin is who made a token that a trusted key signed.
type Origin int

// The origins of a token.
const (
	OriginServer Origin = iota // a server of this database
	OriginExempt               // unknown, and exempt for now: from before an upgrade or a restore
	OriginForged               // somebody who has the key
)

// Verify checks the signature of a token and who made it. The token must be a compact JWS in canonical base64url with
// exactly the header that Sign makes. The error is ErrToken, ErrRevoked, or ErrStale if this replica cannot be sure.
func (r *Ring) Verify(token string) (Verified, error) {
	r.cpus.noteRead()
	v, err := r.fresh()
	if err != nil {
		return Verified{}, err
	}
	kid, ok := tokenKID(token)
	if !ok {
		return Verified{}, ErrToken
	}
	public, err := v.trusted(kid)
	if err != nil {
		return Verified{}, err
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{signingAlg})
	if err != nil {
		return Verified{}, ErrToken
	}
	payload, err := jws.Verify(public)
	if err != nil {
		return Verified{}, ErrToken
	}
	row := v.rows[slices.IndexFunc(v.rows, func(k storage.SigningKey) bool { return k.KID == kid })]
	origin := v.secrets.origin(kid, payload, row.PublishedAt.Time, r.config().TokenTTL, r.options.Now())
	return Verified{kid, payload, origin}, nil
}

// JWKS is the set of public keys for verifiers.
type JWKS struct {
	Body   []byte
	ETag   string
	MaxAge time.Duration // how long a verifier may keep it
	*Published
}

// Published says which keys are in a JWKS.
type Published struct {
	Version int64    // of the set
	KIDs    []string // newest first
	Signer  string   // the kid that signs; "" if none does
}

// JWKS returns the published keys from memory, also while the database is away. MaxAge shrinks with the age of the
// view, since another replica may have published a key meanwhile. It is a minute at most if the view is stale, since a
// key may have been revoked.
func (r *Ring) JWKS() JWKS {
	r.cpus.noteRead()
	v, now := r.view.Load(), r.options.Now()
	age := MaxAge(v.rows, r.config(), now)
	switch old := now.Sub(v.readAt); {
	case old > StaleAfter:
		age = min(age, IncidentMaxAge)
	case old > PollInterval:
		age = max(age-old+PollInterval, 0).Truncate(time.Second)
	}
	return JWKS{v.jwks, v.etag, age, v.published}
}
