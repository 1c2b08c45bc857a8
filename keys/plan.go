package keys

import (
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Skew is how far the clock of a verifier may be behind without refusing a token whose key it looks up again.
const Skew = time.Minute

// Config is the schedule of the signing keys.
type Config struct {
	RotationInterval time.Duration // how long a key signs
	PublishLead      time.Duration // how long a key is in the JWKS before it signs
	JWKSMaxAge       time.Duration // how long a verifier may keep the JWKS
	Bits             int           // of a new RSA key: 2048, 3072 or 4096
}

// Problems tells every rule that the schedule breaks, with its numbers: what could leave a verifier without the key of a live token.
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
		refuse("key_publish_lead: %v is less than twice jwks_max_age (%v): a verifier could meet a token before its key", c.PublishLead, c.JWKSMaxAge)
	}
	if c.RotationInterval < c.PublishLead {
		refuse("key_rotation_interval: %v is less than key_publish_lead (%v): the next key could not be published in time", c.RotationInterval, c.PublishLead)
	}
	return problems
}

// StepKind is a kind of step in the life of the keys.
type StepKind string

// The steps that come due by themselves.
const (
	StepBegin   StepKind = "begin"   // there is no current key and none that could become it: make one
	StepPublish StepKind = "publish" // there is no next key: make one
	StepRotate  StepKind = "rotate"  // the current key has signed for its interval, the next has been published for its lead
	StepRetire  StepKind = "retire"  // the last token of a previous key has expired
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
	case current == nil || !now.Before(RotatesAt(*current, *next, c)):
		steps = append(steps, Step{Kind: StepRotate})
	}
	for _, k := range rows {
		if k.State == storage.KeyPrevious && !now.Before(k.RetiresAt.Time) {
			steps = append(steps, Step{StepRetire, k.KID})
		}
	}
	return steps
}

// RotatesAt is the moment of the planned rotation from current to next.
func RotatesAt(current, next storage.SigningKey, c Config) time.Time {
	interval, lead := current.ActivatedAt.Add(c.RotationInterval), next.PublishedAt.Add(c.PublishLead)
	if lead.After(interval) {
		return lead
	}
	return interval
}

// MaxAge is how long the JWKS may be kept: at most jwks_max_age and half the lead, and never past a planned change.
func MaxAge(rows []storage.SigningKey, c Config, now time.Time) time.Duration {
	age := min(c.JWKSMaxAge, c.PublishLead/2)
	if current, next := find(rows, storage.KeyCurrent), find(rows, storage.KeyNext); current != nil && next != nil {
		age = min(age, RotatesAt(*current, *next, c).Sub(now))
	}
	for _, k := range rows {
		if k.State == storage.KeyPrevious {
			age = min(age, k.RetiresAt.Sub(now))
		}
	}
	return max(age, 0).Truncate(time.Second)
}

// retirement is when a key that stops signing leaves the JWKS: after its last token, and after the last copy of the JWKS.
func retirement(k storage.SigningKey, c Config, now time.Time) time.Time {
	last := k.SignsUntil.Time
	if last.Before(now) {
		last = now
	}
	return last.Add(Skew + c.JWKSMaxAge)
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

func isNotFound(err error) bool { return errors.Is(err, storage.ErrNotFound) }
