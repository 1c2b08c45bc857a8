package verify

import (
	"context"
	"crypto/rsa"
	"fmt"
	"sync"
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
	life     context.Context        // of the Verifier
	set      atomic.Pointer[keySet] // nil: not fetched yet
	headers  headers
	fetching flight
	unknowns flight // fetches because of unknown kids
	asked    atomic.Int64
	mu       sync.Mutex
	failure  failure   // mu guards it, like the next two
	unknown  time.Time // of the last fetch because of an unknown kid
	unsure   error     // that fetch has failed, and none has succeeded since
}

// poll fetches the keys.
func (k *keyRing) poll(ctx context.Context) error { return k.fetching.do(ctx, k.life, k.refresh) }

// due reports whether it is time for a poll.
func (k *keyRing) due(now time.Time) bool {
	keep := time.Duration(0)
	if set := k.set.Load(); set != nil {
		keep = set.keep
	}
	return now.Sub(time.Unix(0, k.asked.Load())).Abs() >= interval(keep)
}

// refresh fetches the keys. Only fetching calls it.
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
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.Counters.Fetched(Keys, Failed)
		k.failure = failure{fmt.Errorf("%w: the keys at %s: %v", ErrUnavailable, k.JWKSURL, err), k.Now()}
		return k.failure.err
	}
	k.set.Store(next)
	k.unsure = nil
	k.Counters.Fetched(Keys, outcome)
	return nil
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
	err := k.unknowns.do(ctx, k.life, func(life context.Context) error {
		if k.set.Load().byID[kid] != nil || !k.mayLook() {
			return nil
		}
		begun := k.Now()
		err := k.poll(life)
		if set := k.set.Load(); err == nil && set.byID[kid] == nil && set.confirmed.Before(begun) {
			err = k.poll(life) // that poll had begun before, perhaps before the key was published
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.unsure = err
		return nil
	})
	if err != nil {
		return nil, err
	}
	if key := k.set.Load().byID[kid]; key != nil {
		return key, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unsure != nil { // the token may be valid
		return nil, k.unsure
	}
	return nil, invalid(UnknownKey)
}

// mayLook reports whether the last fetch because of an unknown kid is a minute ago, and notes another.
func (k *keyRing) mayLook() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.Now()
	if !k.unknown.IsZero() && now.Sub(k.unknown).Abs() < unknownKeys {
		return false
	}
	k.unknown = now
	return true
}

// usable returns the keys, unless they are missing or too old.
func (k *keyRing) usable(ctx context.Context) (*keySet, error) {
	if err := k.first(ctx); err != nil {
		return nil, err
	}
	set := k.set.Load()
	if k.Stale == Refuse && k.stale(set.confirmed) {
		return nil, fmt.Errorf("%w: the keys are older than %v", ErrUnavailable, staleAfter)
	}
	return set, nil
}

// stale reports whether what the server confirmed at the given time is too old.
func (k *keyRing) stale(confirmed time.Time) bool { return k.Now().Sub(confirmed) > staleAfter }

// first fetches the keys if nobody has, and if that has not just failed.
func (k *keyRing) first(ctx context.Context) error {
	if k.set.Load() != nil {
		return nil
	}
	k.mu.Lock()
	err := k.failure.recent(k.Now())
	k.mu.Unlock()
	if err != nil {
		return err
	}
	return k.fetching.do(ctx, k.life, func(life context.Context) error {
		if k.set.Load() != nil {
			return nil // a fetch has ended since the caller looked
		}
		return k.refresh(life)
	})
}
