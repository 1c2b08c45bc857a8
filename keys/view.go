package keys

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/storage"
)

// view is what a replica knows of the keys. It is immutable.
type view struct {
	readAt       time.Time
	polled       time.Duration // when, by the time that passes
	version      int64         // of the set
	setMAC       string
	leastVersion int64 // that the next change must have at least
	rows         []storage.SigningKey
	master       *Master // the key that seals first
	secrets      *Secrets
	public       map[string]*rsa.PublicKey // of all keys that are not revoked
	revoked      map[string]bool
	signers      map[Typ]jose.Signer // of the current key; nil if there is none
	kid          string
	jwks         []byte
	etag         string
	altered      error // of a tolerant ring: how the rows were altered
}

// newView builds a view from rows that are as keyturn wrote them and not older than those it has seen. *AlteredError if
// they are not, or ErrWrongMaster if that cannot be known; the view then holds the rows and no more, for a person to
// look at.
func (r *Ring) newView(set storage.KeySet, secretRows []storage.SecretKey, readAt time.Time) (*view, error) {
	old, master := r.view.Load(), r.masters.load()
	v := &view{
		readAt:  readAt,
		version: set.Version,
		setMAC:  set.MAC,
		rows:    set.Keys,
		master:  master,
		public:  map[string]*rsa.PublicKey{},
		revoked: map[string]bool{},
	}
	if set.MAC != "" {
		v.master = master.sealing(sealedUnder(set.MAC))
	}
	var err error
	if v.secrets, err = master.openSecrets(secretRows, r.options.Tolerant); err != nil {
		return nil, err
	}
	err = master.checkSet(set)
	if err == nil && old != nil && old.altered == nil {
		err = old.precedes(v)
	}
	if err != nil {
		return v, err
	}
	return v, v.take(old)
}

// tolerate makes a view that tells how its rows were altered of one that could not be built. What mends it is sealed
// under the master key of the refresh tokens' key, which is authentic, since it opens, and not under one that an
// altered row names.
func (v *view) tolerate(m *Master, err error) bool {
	if errors.Is(err, ErrWrongMaster) {
		err = &AlteredError{Problems: []string{err.Error() + ", or the rows were altered"}, UnknownMaster: true}
	}
	if v == nil || !errors.As(err, new(*AlteredError)) {
		return false
	}
	v.altered, v.master, v.signers = err, m.sealing(sealedUnder(v.secrets.byPurpose[purposeRefresh][0].row.Sealed)), nil
	return true
}

// precedes tells whether the rows of a view may follow those of v. *AlteredError if the database has gone back to an
// older state.
func (v *view) precedes(next *view) error {
	var altered AlteredError
	tell := func(format string, args ...any) {
		altered.Problems = append(altered.Problems, fmt.Sprintf(format, args...))
	}
	switch {
	case next.version < v.version:
		tell("the set is at version %d and was at %d: the database has gone back to an older state", next.version, v.version)
	case next.version == v.version && next.setMAC != v.setMAC:
		tell("there are two sets of version %d: the database has gone back to an older state and on from there", next.version)
	}
	for kid := range v.revoked {
		if i := slices.IndexFunc(next.rows, func(k storage.SigningKey) bool { return k.KID == kid }); i >= 0 &&
			next.rows[i].State != storage.KeyRevoked {
			tell("key %s was revoked and is not any more: the database has gone back to an older state", kid)
		}
	}
	if altered.Problems != nil {
		return &altered
	}
	return nil
}

// withoutRevoked is v less the keys that rows of an altered set say are revoked, as far as these rows are as keyturn
// wrote them: whatever was done to the others, a revocation counts. It is v itself if there are none.
func (v *view) withoutRevoked(m *Master, set storage.KeySet) (*view, error) {
	less := *v
	less.rows, less.public, less.revoked = slices.Clone(v.rows), maps.Clone(v.public), maps.Clone(v.revoked)
	for _, row := range set.Keys {
		if k := m.byID(sealedUnder(row.MAC)); row.State == storage.KeyRevoked && k != nil && k.wrote(row) &&
			v.public[row.KID] != nil {
			delete(less.public, row.KID)
			less.revoked[row.KID] = true
			less.rows[slices.IndexFunc(v.rows, func(k storage.SigningKey) bool { return k.KID == row.KID })] = row
		}
	}
	if len(less.revoked) == len(v.revoked) {
		return v, nil
	}
	if less.revoked[v.kid] {
		less.kid, less.signers = "", nil
	}
	return &less, less.render()
}

// take reads the public halves, writes the JWKS and opens the current key.
func (v *view) take(old *view) error {
	for _, row := range v.rows {
		if row.State == storage.KeyRevoked {
			v.revoked[row.KID] = true
			continue
		}
		public, _, err := publicOf(row)
		if err != nil {
			return err
		}
		v.public[row.KID] = public
	}
	if err := v.render(); err != nil {
		return err
	}
	return v.takeSigners(old)
}

// render writes the JWKS (RFC 7517 §5) once for all requests.
func (v *view) render() error {
	published := []jose.JSONWebKey{}
	for _, row := range v.rows {
		if row.State.Published() {
			published = append(
				published,
				jose.JSONWebKey{Key: v.public[row.KID], KeyID: row.KID, Algorithm: row.Alg, Use: "sig"},
			)
		}
	}
	body, err := json.Marshal(jose.JSONWebKeySet{Keys: published})
	if err != nil {
		return fmt.Errorf("JWKS: %w", err)
	}
	sum := sha256.Sum256(body)
	v.jwks, v.etag = body, `"`+base64.RawURLEncoding.EncodeToString(sum[:12])+`"`
	return nil
}

// takeSigners opens the current key, or takes its signers over from the view before if it is the same key.
func (v *view) takeSigners(old *view) error {
	current := find(v.rows, storage.KeyCurrent)
	if current == nil {
		return nil
	}
	v.kid = current.KID
	if old != nil && old.kid == v.kid {
		v.signers = old.signers
		return nil
	}
	private, err := v.master.privateOf(*current)
	if err != nil {
		return err
	}
	key := jose.SigningKey{Algorithm: signingAlg, Key: jose.JSONWebKey{Key: private, KeyID: current.KID}}
	signers := map[Typ]jose.Signer{}
	for _, typ := range []Typ{TypAccessToken, TypJWT} {
		if signers[typ], err = jose.NewSigner(key, (&jose.SignerOptions{}).WithType(jose.ContentType(typ))); err != nil {
			return err
		}
	}
	v.signers = signers
	return nil
}
