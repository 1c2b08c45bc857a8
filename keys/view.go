package keys

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/keyturn/keyturn/storage"
)

// view is what a replica knows of the keys. It is immutable.
type view struct {
	readAt  time.Time
	version int64 // of the set
	rows    []storage.SigningKey
	master  *Master // the key that seals first
	secrets *Secrets
	public  map[string]*rsa.PublicKey // of all keys that are not revoked
	revoked map[string]bool
	signer  jose.Signer // of the current key; nil if there is none
	kid     string
	jwks    []byte
	etag    string
	altered error // of a tolerant ring: how the rows were altered
}

// newView builds a view from rows that are as keyturn wrote them and not older than those it has seen.
func (r *Ring) newView(set storage.KeySet, secretRows []storage.SecretKey, readAt time.Time) (*view, error) {
	old, master := r.view.Load(), r.master.Load()
	v := &view{readAt: readAt, version: set.Version, rows: set.Keys, master: master, public: map[string]*rsa.PublicKey{}, revoked: map[string]bool{}}
	if set.MAC != "" {
		v.master = master.sealing(sealedUnder(set.MAC))
	}
	var err error
	if v.secrets, err = master.openSecrets(secretRows); err != nil {
		return nil, err
	}
	err = master.checkSet(set)
	if err == nil && old != nil && set.Version < old.version {
		err = &AlteredError{[]string{fmt.Sprintf("the set is at version %d and was at %d: the database has gone back to an older state", set.Version, old.version)}}
	}
	var altered *AlteredError
	if errors.As(err, &altered) && r.options.Tolerant {
		v.altered = err
		return v, nil
	}
	if err != nil {
		return nil, err
	}
	return v, v.take(old)
}

// take reads the public halves, writes the JWKS and opens the current key.
func (v *view) take(old *view) error {
	published := []jose.JSONWebKey{}
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
		if row.State.Published() {
			published = append(published, jose.JSONWebKey{Key: public, KeyID: row.KID, Algorithm: row.Alg, Use: "sig"})
		}
	}
	if err := v.render(published); err != nil {
		return err
	}
	return v.takeSigner(old)
}

// render writes the JWKS (RFC 7517 §5) once for all requests.
func (v *view) render(published []jose.JSONWebKey) error {
	body, err := json.Marshal(jose.JSONWebKeySet{Keys: published})
	if err != nil {
		return fmt.Errorf("JWKS: %w", err)
	}
	sum := sha256.Sum256(body)
	v.jwks, v.etag = body, `"`+base64.RawURLEncoding.EncodeToString(sum[:12])+`"`
	return nil
}

// takeSigner opens the current key, or takes the signer over from the view before if it is the same key.
func (v *view) takeSigner(old *view) error {
	current := find(v.rows, storage.KeyCurrent)
	if current == nil {
		return nil
	}
	v.kid = current.KID
	if old != nil && old.kid == v.kid {
		v.signer = old.signer
		return nil
	}
	private, err := v.master.privateOf(*current)
	if err != nil {
		return err
	}
	key := jose.SigningKey{Algorithm: signingAlg, Key: jose.JSONWebKey{Key: private, KeyID: current.KID}}
	v.signer, err = jose.NewSigner(key, (&jose.SignerOptions{}).WithType("at+jwt"))
	return err
}
