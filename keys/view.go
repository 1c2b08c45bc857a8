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

// view is the keys at one poll. It is immutable.
type view struct {
	readAt       time.Time
	polled       time.Duration // the same moment, by Options.Elapsed
	version      int64         // of the set
	setMAC       string
	leastVersion int64 // the least version of the next change
	rows         []storage.SigningKey
	master       *Master // the first of its keys seals
	secrets      *Secrets
	public       map[string]*rsa.PublicKey // all keys that are not revoked
	revoked      map[string]bool
	signers      map[Typ]jose.Signer // of the current key; nil if there is none
	kid          string              // of the current key
	jwks         []byte
	etag         string
	published    *Published
	altered      error // how the rows were altered; only in a tolerant Ring
}

// seenBy returns ErrChanged if the actor saw another version of the set.
func (v *view) seenBy(by storage.Actor) error {
	if v != nil && by.Saw != 0 && by.Saw != v.version {
		return fmt.Errorf("signing keys: %w", storage.ErrChanged)
	}
	return nil
}

// newView builds a view if the rows are as keyturn wrote them and not older than those of the last view. Otherwise it
// returns an *AlteredError, or ErrWrongMaster if a master key is missing for the check, with a view that holds the rows
// only, for a person to inspect.
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
	return v, v.take(old, r.options.Module)
}

// tolerate turns a view that could not be built into one for inspection and repair, and reports whether it could. A
// repair seals under the master key of the oldest refresh key: that row is authentic, since it opens. An altered row
// could name any master key.
func (v *view) tolerate(m *Master, err error) bool {
	if errors.Is(err, ErrWrongMaster) {
		err = &AlteredError{Problems: []string{err.Error() + ", or the rows were altered"}, UnknownMaster: true}
	}
	if v == nil || !errors.As(err, new(*AlteredError)) {
		return false
	}
	oldest := v.secrets.byPurpose[purposeRefresh][0].row
	v.altered, v.master, v.signers = err, m.sealing(sealedUnder(oldest.Sealed)), nil
	return true
}

// precedes returns an *AlteredError if the next view shows an older state of the database than v.
func (v *view) precedes(next *view) error {
	var altered AlteredError
	add := func(format string, args ...any) {
		altered.Problems = append(altered.Problems, fmt.Sprintf(format, args...))
	}
	switch {
	case next.version < v.version:
		add(
			"the set is at version %d and was at %d: the database has gone back to an older state",
			next.version,
			v.version,
		)
	case next.version == v.version && next.setMAC != v.setMAC:
		add(
			"there are two sets of version %d: the database has gone back to an older state and on from there",
			next.version,
		)
	}
	for kid := range v.revoked {
		i := slices.IndexFunc(next.rows, func(k storage.SigningKey) bool { return k.KID == kid })
		if i >= 0 && next.rows[i].State != storage.KeyRevoked {
			add("key %s was revoked and is not any more: the database has gone back to an older state", kid)
		}
	}
	if altered.Problems != nil {
		return &altered
	}
	return nil
}

// withoutRevoked returns v without the keys that an altered set shows as revoked. It checks the MAC of each revoked
// row: a revocation counts although other rows were altered. It returns v itself if there is no such key.
func (v *view) withoutRevoked(m *Master, set storage.KeySet) (*view, error) {
	less := *v
	less.rows, less.public, less.revoked = slices.Clone(v.rows), maps.Clone(v.public), maps.Clone(v.revoked)
	for _, row := range set.Keys {
		k := m.byID(sealedUnder(row.MAC))
		if row.State == storage.KeyRevoked &&
			v.public[row.KID] != nil &&
			k != nil &&
			k.wrote(row) {
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

// take reads the public halves, renders the JWKS and opens the current key.
func (v *view) take(old *view, module CryptoModule) error {
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
	return v.takeSigners(old, module)
}

// render makes the JWKS (RFC 7517 §5) once for all requests.
func (v *view) render() error {
	set := []jose.JSONWebKey{}
	v.published = &Published{Version: v.version, Signer: kidOf(find(v.rows, storage.KeyCurrent))}
	for _, row := range v.rows {
		if row.State.Published() {
			set = append(set, jose.JSONWebKey{Key: v.public[row.KID], KeyID: row.KID, Algorithm: row.Alg, Use: "sig"})
			v.published.KIDs = append(v.published.KIDs, row.KID)
		}
	}
	body, err := json.Marshal(jose.JSONWebKeySet{Keys: set})
	if err != nil {
		return fmt.Errorf("JWKS: %w", err)
	}
	sum := sha256.Sum256(body)
	v.jwks, v.etag = body, `"`+base64.RawURLEncoding.EncodeToString(sum[:12])+`"`
	return nil
}

// takeSigners opens the current key. If the old view has the same current key, it reuses its signers.
func (v *view) takeSigners(old *view, module CryptoModule) error {
	current := find(v.rows, storage.KeyCurrent)
	if current == nil {
		return nil
	}
	v.kid = current.KID
	if old != nil && old.kid == v.kid {
		v.signers = old.signers
		return nil
	}
	private, err := v.master.privateOf(*current, module)
	if err != nil {
		return err
	}
	key := joseKey(private, current.KID)
	signers := map[Typ]jose.Signer{}
	for _, typ := range []Typ{TypAccessToken, TypJWT, typStatusList} {
		options := (&jose.SignerOptions{}).WithType(jose.ContentType(typ))
		if signers[typ], err = jose.NewSigner(key, options); err != nil {
			return err
		}
	}
	v.signers = signers
	return nil
}
