package keys

import (
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/storage"
)

const (
	// Skew is how far the clock of a verifier may be behind without refusing a token whose key it looks up again.
	Skew = time.Minute
	// IncidentMaxAge is how long the JWKS may be kept after a key was revoked, until every verifier has had the time to
	// see the new set.
	IncidentMaxAge = time.Minute
)

// Config is the schedule of the signing keys.
type Config struct {
	RotationInterval time.Duration // how long a key signs
	PublishLead      time.Duration // how long a key is in the JWKS before it signs
	JWKSMaxAge       time.Duration // how long a verifier may keep the JWKS
	Bits             int           // of a new RSA key: 2048, 3072 or 4096
	GrantTTL         time.Duration // the longest life of a grant: keys of refresh tokens turn slowly enough for it
	// the longest life of a token; plans are made with it, what is done follows SigningKey.SignsUntil
	TokenTTL time.Duration
}

// Problems tells every rule that the schedule breaks, with its numbers: what could leave a verifier without the key of
// a live token.
func (c Config) Problems() []error {
	var problems []error
	refuse := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Bits != 2048 && c.Bits != 3072 && c.Bits != 4096 {
		refuse("key_bits: %d is none of 2048, 3072, 4096", c.Bits)
	}
	if c.JWKSMaxAge < time.Second || c.JWKSMaxAge > 24*time.Hour {
		refuse("jwks_max_age: %v is not between 1s and 24h", c.JWKSMaxAge)
	}
	if c.PublishLead < 2*c.JWKSMaxAge {
		refuse(
			"key_publish_lead: %v is less than twice jwks_max_age (%v): a verifier could meet a token before its key",
			c.PublishLead,
			c.JWKSMaxAge,
		)
	}
	if c.RotationInterval < c.PublishLead {
		refuse(
			"key_rotation_interval: %v is less than key_publish_lead (%v): the next key could not be published in time",
			c.RotationInterval,
			c.PublishLead,
		)
	}
	return problems
}

// StepKind is a kind of step in the life of the keys.
type StepKind string

// The steps that come due by themselves.
const (
	StepBegin   StepKind = "begin"   // there is no current key and none that could become it: make one
	StepPublish StepKind = "publish" // there is no next key: make one
	// the current key has signed for its interval, the next has been published for its lead
	StepRotate StepKind = "rotate"
	StepRetire StepKind = "retire" // the last token of a previous key has expired
)

// Step is one step that is due.
type Step struct {
	Kind StepKind
	KID  string // of the key that retires
}

// Due tells the steps that are due, in the order in which to take them. It is a pure function.
func Due(rows []storage.SigningKey, c Config, now time.Time) []Step {
	var steps []Step
	current, next := find(rows, storage.KeyCurrent), find(rows, storage.KeyNext)
	switch {
	case current == nil && next == nil:
		steps = append(steps, Step{Kind: StepBegin})
	case next == nil:
		steps = append(steps, Step{Kind: StepPublish})
	case current == nil || !now.Before(rotatesAt(rows, c)):
		steps = append(steps, Step{Kind: StepRotate})
	}
	for _, k := range rows {
		if k.State == storage.KeyPrevious && !now.Before(k.RetiresAt.Time) {
			steps = append(steps, Step{StepRetire, k.KID})
		}
	}
	return steps
}

// rotatesAt is the moment of the planned rotation: after the interval and not before the next key is safe, or, when a
// leak calls for a second rotation, as soon as it is. The zero time if there is no current or no next key.
func rotatesAt(rows []storage.SigningKey, c Config) time.Time {
	current, next := find(rows, storage.KeyCurrent), find(rows, storage.KeyNext)
	if current == nil || next == nil || current.ActivatedAt == nil {
		return time.Time{}
	}
	safe := safeFrom(rows, c)
	if secondRotation(rows) {
		return safe
	}
	return later(current.ActivatedAt.Add(c.RotationInterval), safe)
}

// safeFrom is the moment from which the next key may sign without a verifier that keeps the JWKS missing it: the longer
// of the lead at its publication and that of today.
func safeFrom(rows []storage.SigningKey, c Config) time.Time {
	next := find(rows, storage.KeyNext)
	if secondRotation(rows) {
		return next.SafeFrom.Time
	}
	return later(next.SafeFrom.Time, next.PublishedAt.Add(c.PublishLead))
}

// lastRevocation is when a key was revoked last; the zero time if none was.
func lastRevocation(rows []storage.SigningKey) (at time.Time) {
	for _, k := range rows {
		if k.RevokedAt != nil {
			at = later(at, k.RevokedAt.Time)
		}
	}
	return at
}

// secondRotation tells whether a rotation is owed that makes verifiers drop a revoked key. Some keep a key set for ever
// and fetch it again only when they meet a kid that is not in it. As long as the current key is older than the
// revocation, they may never meet one.
func secondRotation(rows []storage.SigningKey) bool {
	current, next, revoked := find(rows, storage.KeyCurrent), find(rows, storage.KeyNext), lastRevocation(rows)
	return current != nil && next != nil && !revoked.IsZero() && current.PublishedAt.Before(revoked) &&
		!next.PublishedAt.Before(revoked)
}

// incident tells whether a revoked key may still be trusted by verifiers that keep the JWKS for as long as they were
// told.
func incident(rows []storage.SigningKey, now time.Time) bool {
	return secondRotation(rows) || now.Before(exposedUntil(rows))
}

// exposedUntil is the moment after which no verifier that obeys max-age trusts a revoked key; the zero time if none was
// revoked.
func exposedUntil(rows []storage.SigningKey) (at time.Time) {
	for _, k := range rows {
		if k.ExposedUntil != nil {
			at = later(at, k.ExposedUntil.Time)
		}
	}
	return at
}

// MaxAge is how long the JWKS may be kept: at most jwks_max_age and half the lead, never past a planned change, and a
// minute at most during an incident. Whole seconds.
func MaxAge(rows []storage.SigningKey, c Config, now time.Time) time.Duration {
	age := min(c.JWKSMaxAge, c.PublishLead/2)
	if at := rotatesAt(rows, c); !at.IsZero() {
		age = min(age, at.Sub(now))
	}
	for _, k := range rows {
		if k.State == storage.KeyPrevious {
			age = min(age, k.RetiresAt.Sub(now))
		}
	}
	if incident(rows, now) {
		age = min(age, IncidentMaxAge)
	}
	return max(age, 0).Truncate(time.Second)
}

// retirement is when a key that stops signing leaves the JWKS: after its last token, and after the last copy of the
// JWKS.
func retirement(k storage.SigningKey, c Config, now time.Time) time.Time {
	return later(k.SignsUntil.Time, now).Add(Skew + c.JWKSMaxAge)
}

// find returns the first row in a state, or nil.
func find(rows []storage.SigningKey, state storage.KeyState) *storage.SigningKey {
	for i := range rows {
		if rows[i].State == state {
			return &rows[i]
		}
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func isNotFound(err error) bool { return errors.Is(err, storage.ErrNotFound) }
