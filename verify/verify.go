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
	Config
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
	keys := &keyRing{Config: c, fetcher: newFetcher(c), fetching: newGate()}
	v := &Verifier{
		Config: c,
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
		v.Counters.Accepted()
		v.sample.take(t)
	case errors.As(err, &bad):
		v.Counters.Refused(bad.Reason)
	default:
		v.Counters.Refused(Unavailable)
	}
	return t, err
}

func (v *Verifier) token(ctx context.Context, raw string) (*Token, error) {
	if len(raw) > maxToken {
		return nil, invalid(Malformed)
	}
	sum := sha256.Sum256([]byte(raw))
	t := v.cache.find(sum)
	if t == nil {
		if _, err := v.keys.usable(ctx); err != nil {
			return nil, err
		}
		payload, kid, err := v.keys.verify(ctx, raw, "at+jwt")
		if err != nil {
			return nil, err
		}
		if t, err = v.readToken(payload); err != nil {
			return nil, err
		}
		t.raw, t.kid = raw, kid
		if t.key, err = v.keys.key(ctx, kid); err != nil {
			return nil, err
		}
		v.cache.keep(sum, t)
	} else if err := v.recheck(ctx, t); err != nil {
		return nil, err
	}
	if t.status != nil {
		if err := v.lists.check(ctx, t.status.URI, *t.status.Index); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// recheck checks what can have changed since a token was verified: the time, and the keys.
func (v *Verifier) recheck(ctx context.Context, t *Token) error {
	if !v.Now().Before(t.Expires) {
		return invalid(Expired)
	}
	set, err := v.keys.usable(ctx)
	if err != nil {
		return err
	}
	if set.byID[t.kid] != t.key {
		return invalid(UnknownKey)
	}
	return nil
}

const (
	tick   = 250 * time.Millisecond // between two looks at what is due
	atOnce = 16                     // lists to fetch at once
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
			look(v.Now().Add(tick)) // the next look would be too late for what is due until then
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

// pollLists polls the status lists that are due.
func (v *Verifier) pollLists(ctx context.Context) {
	slots := make(chan struct{}, atOnce)
	v.each(ctx, func(now time.Time) {
		for _, l := range v.lists.due(now) {
			slots <- struct{}{}
			l.asked.Store(v.Now().UnixNano())
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
		v.Problem(err)
	}
}
