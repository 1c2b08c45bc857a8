package keys

import (
	"context"
	"slices"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Aftermath is what is to be expected of a registered verifier after a revocation, by what it has fetched.
type Aftermath struct {
	Verifier string `json:"verifier"`
	// Stuck means that it shows no habit by which it would fetch the keys again.
	Stuck bool `json:"stuck"`
	// Trusts means that its newest key set has a revoked key, and that it will trust it for longer than verifiers
	// that obey max-age. TrustsUntil is when it fetches another set, by its habit, or at the second rotation, if it
	// came back at the last rotation. nil: when it is restarted.
	Trusts      bool       `json:"trusts_revoked_key"`
	TrustsUntil *time.Time `json:"trusts_until"`
	// RefusesFrom and RefusesUntil are when it refuses good tokens, unless it fetches the keys at an unknown kid.
	RefusesFrom  *time.Time `json:"refuses_from"`
	RefusesUntil *time.Time `json:"refuses_until"` // nil: when it is restarted
}

// Aftermaths returns what is to be expected of registered verifiers after a revocation. Those of which nothing bad is
// to be expected are left out.
func (l *LifeCycle) Aftermaths(ctx context.Context, done Revocation) ([]Aftermath, error) {
	v, err := l.ring.intact(ctx)
	if err != nil {
		return nil, err
	}
	o, err := l.observe(ctx, v.rows)
	if err != nil {
		return nil, err
	}
	return o.aftermaths(done, l.ring.config(), l.ring.options.Now()), nil
}

func (o Observed) aftermaths(done Revocation, c Config, now time.Time) []Aftermath {
	all, byHandle := []Aftermath{}, o.byHandle()
	for _, v := range o.Verifiers {
		a := Aftermath{Verifier: v.Name}
		for _, f := range counting(byHandle[v.Handle], now) {
			if f.Via {
				continue // nothing is concluded from a cache
			}
			a.add(o.expect(f, done, c, now))
		}
		if a.Trusts || a.RefusesFrom != nil {
			all = append(all, a)
		}
	}
	return all
}

// expect returns what is to be expected of one source.
func (o Observed) expect(f storage.Fetch, done Revocation, c Config, now time.Time) (a Aftermath) {
	var comes *time.Time // by habit; nil: it does not
	if by := comesBy(f, c, now); !by.IsZero() {
		comes = &by
	}
	h, regular := habit(f.Times)
	if h == 0 || comes == nil {
		comes, a.Stuck = nil, true
	}
	has := func(kid string) bool { return slices.Contains(f.KIDs, kid) }
	inTime := comes != nil && !comes.After(done.ExposedUntil)
	if a.Trusts = slices.ContainsFunc(done.Revoked, has) && !inTime; a.Trusts {
		a.TrustsUntil = comes
		second := done.SecondRotation
		if second != nil && o.cameBack(f) && (comes == nil || second.Before(*comes)) {
			a.TrustsUntil = second
		}
	}
	from := now
	if done.Already { // it has refused them since then
		from = done.RevokedAt
	}
	switch {
	case !has(done.Current):
		a.RefusesFrom = &from
	case done.SecondRotation != nil && !has(done.Next):
		second := later(*done.SecondRotation, from)
		a.RefusesFrom = &second
	}
	if a.RefusesFrom != nil && (!regular && o.cameBack(f) || comes != nil && !comes.After(*a.RefusesFrom)) {
		a.RefusesFrom = nil // it fetches the key before, or at the unknown kid, as at the last rotation
	}
	a.RefusesUntil = comes
	return a
}

// cameBack reports whether a source fetched the keys soon after the key that signed at its last fetch began to sign.
func (o Observed) cameBack(f storage.Fetch) bool {
	i := slices.IndexFunc(o.Keys, func(k storage.SigningKey) bool { return k.KID == f.Signer })
	if i < 0 || o.Keys[i].ActivatedAt == nil {
		return false
	}
	began := o.Keys[i].ActivatedAt.Time
	return f.FirstAt.Before(began) && f.BackAt.Sub(began) <= soon
}

// add adds what is to be expected of another source: the worst counts.
func (a *Aftermath) add(b Aftermath) {
	if b.Trusts {
		until := b.TrustsUntil
		if a.Trusts {
			until = longer(a.TrustsUntil, until)
		}
		a.TrustsUntil = until
		a.Trusts, a.Stuck = true, a.Stuck || b.Stuck
	}
	if b.RefusesFrom == nil {
		return
	}
	if a.RefusesFrom == nil {
		a.RefusesFrom, a.RefusesUntil = b.RefusesFrom, b.RefusesUntil
		return
	}
	if b.RefusesFrom.Before(*a.RefusesFrom) {
		a.RefusesFrom = b.RefusesFrom
	}
	a.RefusesUntil = longer(a.RefusesUntil, b.RefusesUntil)
}

// longer returns the later of two ends. nil is no end.
func longer(a, b *time.Time) *time.Time {
	if a == nil || b == nil {
		return nil
	}
	if b.After(*a) {
		return b
	}
	return a
}
