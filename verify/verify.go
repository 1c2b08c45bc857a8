package verify

import (
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"time"
)

// Verifier verifies access tokens. It is safe for concurrent use.
type Verifier struct {
	config Config
	keys   *keyRing
	lists  *statusLists
	cache  *cache
	sample *sampler
}

// New returns a Verifier that polls the server until ctx ends. It tries to fetch the keys, and returns an error only
// for a wrong configuration: while the server is away, the Verifier answers [ErrUnavailable].
func New(ctx context.Context, c Config) (*Verifier, error) {
	c, err := c.fill()
	if err != nil {
		return nil, err
	}
	keys := &keyRing{Config: c, fetcher: newFetcher(c), life: ctx}
	v := &Verifier{
		config: c,
		keys:   keys,
		lists:  &statusLists{keyRing: keys, lists: map[string]*statusList{}},
		cache:  newCache(),
		sample: newSampler(ctx, c),
	}
	if err := keys.poll(ctx); err != nil {
		c.Problem(err)
	}
	go v.pollKeys(ctx)
	go v.pollLists(ctx)
	return v, nil
}

// Token verifies an access token (RFC 9068 §4). The error is [ErrInvalid] or [ErrUnavailable].
func (v *Verifier) Token(ctx context.Context, raw string) (*Token, error) {
	t, err := v.token(ctx, raw)
	var bad *InvalidError
	switch {
	case err == nil:
		v.config.Counters.Accepted()
		v.sample.take(t)
		return t.copy(), nil
	case errors.As(err, &bad):
		v.config.Counters.Refused(bad.Reason)
	default:
		v.config.Counters.Refused(Unavailable)
	}
	return nil, err
}

func (v *Verifier) token(ctx context.Context, raw string) (*Token, error) {
	if len(raw) > maxToken {
		return nil, invalid(Malformed)
	}
	keys, err := v.keys.usable(ctx)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(raw))
	t := v.cache.find(sum)
	// What can have changed since a token was verified is the time, its status, and the keys.
	if t == nil || !t.by.isIn(keys) {
		if t, err = v.first(ctx, raw); err != nil {
			return nil, err
		}
		v.cache.keep(sum, t)
	}
	if !v.config.Now().Before(t.Expires) {
		return nil, invalid(Expired)
	}
	if t.status != nil {
		if err := v.lists.check(ctx, t.status.URI, *t.status.Index); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// first verifies a token that is not in the cache.
func (v *Verifier) first(ctx context.Context, raw string) (*Token, error) {
	payload, by, err := v.keys.verify(ctx, raw, "at+jwt")
	if err != nil {
		return nil, err
	}
	t, err := v.config.readToken(payload)
	if err != nil {
		return nil, err
	}
	if t.by = by; v.sample != nil {
		t.raw = raw
	}
	return t, nil
}

// isIn reports whether a key set still has the key.
func (s signer) isIn(set *keySet) bool {
	key := set.byID[s.kid]
	return key == s.key || key != nil && key.Equal(s.key)
}

const (
	tick   = 250 * time.Millisecond // between two looks at what is due
	atOnce = 64                     // lists to fetch at once
)

// each calls look every tick until the context ends. Many verifiers that began at one moment must not ask at one
// moment.
func (v *Verifier) each(ctx context.Context, look func(now time.Time)) {
	for {
		wait := time.NewTimer(tick/2 + rand.N(tick/2))
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
			look(v.config.Now().Add(tick)) // the next look would be too late for what is due until then
		}
	}
}

// pollKeys polls the keys when they are due.
func (v *Verifier) pollKeys(ctx context.Context) {
	v.each(ctx, func(now time.Time) {
		if v.keys.due(now) {
			v.note(ctx, v.keys.poll(ctx))
		}
	})
}

// pollLists polls the status lists that are due. If no slot becomes free for a while, the rest waits for the next look,
// at which lists that can be fetched come first.
func (v *Verifier) pollLists(ctx context.Context) {
	slots := make(chan struct{}, atOnce)
	v.each(ctx, func(now time.Time) {
		for _, l := range v.lists.due(now) {
			full := time.NewTimer(tick)
			select {
			case slots <- struct{}{}:
				full.Stop()
			case <-full.C:
				return
			case <-ctx.Done():
				full.Stop()
				return
			}
			l.asked.Store(v.config.Now().UnixNano())
			go func() {
				defer func() { <-slots }()
				v.note(ctx, v.lists.poll(ctx, l))
			}()
		}
	})
}

// note reports a problem, unless the verifier has ended.
func (v *Verifier) note(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		v.config.Problem(err)
	}
}
