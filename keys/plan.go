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
	// IncidentMaxAge is the longest max-age of the JWKS after a revocation, until every verifier has had time to fetch
	// the new set.
	IncidentMaxAge = time.Minute
)

// Config is the schedule of the signing keys.
type Config struct {
	RotationInterval time.Duration // how long a key signs
	PublishLead      time.Duration // how long a key is in the JWKS before it signs
	JWKSMaxAge       time.Duration // how long a verifier may keep the JWKS
	Bits             int           // of a new RSA key: 2048, 3072 or 4096
	GrantTTL         time.Duration // the longest life of a grant, which bounds how often keys of refresh tokens turn
	TokenTTL         time.Duration // the longest life of a token, for plans; steps use SigningKey.SignsUntil
	WaitsFor         string        // whom the schedule waits for before it rotates: WaitsForNamed, or nobody
	Patience         time.Duration // how long it waits
	Signer           string        // the CryptoModule: SignerAuto, SignerGo or SignerOpenSSL
}

// WaitsForNamed makes the schedule wait for registered verifiers.
const WaitsForNamed = "named"

// waits reports whether the planned rotation waits for verifiers. Nobody waits after a leak.
func waits(rows []storage.SigningKey, c Config) bool {
	return c.WaitsFor == WaitsForNamed && !secondRotation(rows)
}

// Problems returns an error for every rule that the schedule breaks. A schedule that breaks one could leave a verifier
// without the key of a live token.
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

// The steps of the schedule.
const (
	StepBegin   StepKind = "begin"   // make a current key: there is neither a current nor a next key
	StepPublish StepKind = "publish" // make a next key
	StepRotate  StepKind = "rotate"  // the interval of the current key and the lead of the next key are over
	StepRetire  StepKind = "retire"  // the last token of a previous key has expired
)

// Step is one step that is due.
type Step struct {
	Kind StepKind
	KID  string // of the key that retires
}

// Due returns the steps that are due, in the order in which to take them.
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

// rotatesAt returns the moment of the planned rotation: after the interval, but not before the next key is safe. A
// second rotation after a leak does not wait for the interval. It is zero if there is no current or no next key.
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

// rotatesBy is rotatesAt, or, when that is over and the rotation may wait for verifiers, the end of the patience.
func rotatesBy(rows []storage.SigningKey, c Config, now time.Time) time.Time {
	at := rotatesAt(rows, c)
	if !at.IsZero() && !now.Before(at) && waits(rows, c) {
		return at.Add(c.Patience)
	}
	return at
}

// safeFrom returns the moment from which every verifier knows the next key. It uses the longer of the configured lead
// and the lead at the publication.
func safeFrom(rows []storage.SigningKey, c Config) time.Time {
	next := find(rows, storage.KeyNext)
	if secondRotation(rows) {
		return next.SafeFrom.Time
	}
	return later(next.SafeFrom.Time, next.PublishedAt.Add(c.PublishLead))
}

// lastRevocation returns when a key was revoked last, or zero.
func lastRevocation(rows []storage.SigningKey) (at time.Time) {
	for _, k := range rows {
		if k.RevokedAt != nil {
			at = later(at, k.RevokedAt.Time)
		}
	}
	return at
}

// secondRotation reports whether verifiers need another rotation to drop a revoked key. Some keep a key set for ever
// and fetch it again only when they meet an unknown kid. While the current key is older than the revocation, they may
// never meet one.
func secondRotation(rows []storage.SigningKey) bool {
	current, next, revoked := find(rows, storage.KeyCurrent), find(rows, storage.KeyNext), lastRevocation(rows)
	return current != nil &&
		next != nil &&
		!revoked.IsZero() &&
		current.PublishedAt.Before(revoked) &&
		!next.PublishedAt.Before(revoked)
}

// incident reports whether a verifier that obeys max-age may still trust a revoked key.
func incident(rows []storage.SigningKey, now time.Time) bool {
	return secondRotation(rows) || now.Before(exposedUntil(rows))
}

// exposedUntil returns the moment after which no verifier that obeys max-age trusts a revoked key. It is zero if none
// was revoked.
func exposedUntil(rows []storage.SigningKey) (at time.Time) {
	for _, k := range rows {
		if k.ExposedUntil != nil {
			at = later(at, k.ExposedUntil.Time)
		}
	}
	return at
}

// MaxAge returns how long the JWKS may be kept, in whole seconds: at most jwks_max_age and half the lead, never past a
// planned change, and at most a minute during an incident.
func MaxAge(rows []storage.SigningKey, c Config, now time.Time) time.Duration {
	age := min(c.JWKSMaxAge, c.PublishLead/2)
	if at := rotatesBy(rows, c, now); !at.IsZero() {
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

// retirement returns when a key that stops signing now leaves the JWKS: after its last token has expired, and after a
// verifier may have kept the JWKS.
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
