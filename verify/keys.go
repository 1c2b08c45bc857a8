package verify

import (
	"context"
	"crypto/rsa"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

// keySet is the keys of the server. It is immutable.
type keySet struct {
	byID      map[string]*rsa.PublicKey
	etag      string
	confirmed time.Time     // when the server was asked last, and answered
	keep      time.Duration // how long it may be kept
}

// keyRing polls the keys.
type keyRing struct {
	Config
	*fetcher
	set      atomic.Pointer[keySet] // nil: not fetched yet
	headers  headers
	fetching gate
	failure  failure   // fetching guards it
	unknown  time.Time // of the last fetch because of an unknown kid; fetching guards it
	asked    atomic.Int64
}

// poll fetches the keys.
func (k *keyRing) poll(ctx context.Context) error { return k.fetching.do(ctx, k.refresh) }

// due reports whether it is time for a poll.
func (k *keyRing) due(now time.Time) bool {
	keep := time.Duration(0)
	if set := k.set.Load(); set != nil {
		keep = set.keep
	}
	return now.Sub(time.Unix(0, k.asked.Load())).Abs() >= interval(keep)
}

// refresh fetches the keys; fetching is held.
func (k *keyRing) refresh(ctx context.Context) error {
	old := k.set.Load()
	k.asked.Store(k.Now().UnixNano())
	etag, asked := "", k.Now()
	if old != nil {
		etag = old.etag
	}
	d, err := k.fetch(ctx, k.JWKSURL, "application/jwk-set+json, application/json", etag)
	if err == nil && d.gone {
		err = fmt.Errorf("status 404")
	}
	next := &keySet{etag: d.etag, confirmed: asked, keep: d.maxAge}
	outcome := Changed
	switch {
	case err != nil:
	case d.body == nil:
		next.byID, next.etag, outcome = old.byID, old.etag, Unchanged
	default:
		next.byID, err = parseKeys(d.body)
	}
	if err != nil {
		k.Counters.Fetched(Keys, Failed)
		err = fmt.Errorf("%w: the keys at %s: %v", ErrUnavailable, k.JWKSURL, err)
		return k.failure.note(err, asked)
	}
	if outcome == Changed {
		next.keepKnown(old)
	}
	k.set.Store(next)
	k.Counters.Fetched(Keys, outcome)
	return nil
}

// keepKnown keeps the keys of the set before that are in this one, so that they can be compared.
func (s *keySet) keepKnown(old *keySet) {
	if old == nil {
		return
	}
	for kid, key := range s.byID {
		if known := old.byID[kid]; known != nil && known.Equal(key) {
			s.byID[kid] = known
		}
	}
}

// parseKeys returns the RSA keys of a JWKS (RFC 7517 §5) that verify RS256 signatures. A set without any, with a
// private key, or with two keys of one id is refused as a whole.
func parseKeys(body []byte) (map[string]*rsa.PublicKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("no JWKS: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%d keys, at most %d", len(set.Keys), maxKeys)
	}
	keys := map[string]*rsa.PublicKey{}
	for _, text := range set.Keys {
		var key jose.JSONWebKey
		if err := key.UnmarshalJSON(text); err != nil {
			continue // a key of a kind that is not known (RFC 7517 §5)
		}
		if _, symmetric := key.Key.([]byte); symmetric || !key.IsPublic() {
			return nil, fmt.Errorf("key %q is secret: it must not be published", key.KeyID)
		}
		public, ok := key.Key.(*rsa.PublicKey)
		if !ok || key.KeyID == "" ||
			key.Use != "" && key.Use != "sig" ||
			key.Algorithm != "" && key.Algorithm != string(jose.RS256) {
			continue
		}
		if bits := public.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return nil, fmt.Errorf("key %q has %d bits", key.KeyID, bits)
		}
		if keys[key.KeyID] != nil {
			return nil, fmt.Errorf("two keys have the id %q", key.KeyID)
		}
		keys[key.KeyID] = public
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no key for RS256")
	}
	return keys, nil
}

// key returns the key with an id, however old the keys are. If there is none, it asks the server, at most once a
// minute: whoever invents kids must not make this verifier ask all the time.
func (k *keyRing) key(ctx context.Context, kid string) (*rsa.PublicKey, error) {
	if err := k.first(ctx); err != nil {
		return nil, err
	}
	if key := k.set.Load().byID[kid]; key != nil {
		return key, nil
	}
	err := k.fetching.do(ctx, func(ctx context.Context) error {
		now := k.Now()
		if k.set.Load().byID[kid] != nil || // somebody else has just fetched it
			!k.unknown.IsZero() && now.Sub(k.unknown).Abs() < unknownKeys {
			return nil
		}
		k.unknown = now
		return k.refresh(ctx)
	})
	if err != nil {
		return nil, err
	}
	if key := k.set.Load().byID[kid]; key != nil {
		return key, nil
	}
	return nil, invalid(UnknownKey)
}

// usable returns the keys, unless they are missing or too old.
func (k *keyRing) usable(ctx context.Context) (*keySet, error) {
	if err := k.first(ctx); err != nil {
		return nil, err
	}
	set := k.set.Load()
	if k.Stale == Refuse && k.Now().Sub(set.confirmed) > staleAfter {
		return nil, fmt.Errorf("%w: the keys are older than %v", ErrUnavailable, staleAfter)
	}
	return set, nil
}

// first fetches the keys if nobody has, and if that has not just failed.
func (k *keyRing) first(ctx context.Context) error {
	if k.set.Load() != nil {
		return nil
	}
	return k.fetching.do(ctx, func(ctx context.Context) error {
		if k.set.Load() != nil {
			return nil
		}
		if err := k.failure.recent(k.Now()); err != nil {
			return err
		}
		return k.refresh(ctx)
	})
}
