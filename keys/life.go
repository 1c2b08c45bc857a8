package keys

import (
	"slices"
	"time"

	"github.com/keyturn/keyturn/storage"
)

// Moment is one point in the life of a key.
type Moment struct {
	At      time.Time `json:"at"`
	Planned bool      `json:"planned"` // in the future
}

// Life is the past of a key, and its future if nobody acts and the configuration stays the same.
type Life struct {
	KID       string           `json:"kid"` // "" for a key that does not exist yet
	State     storage.KeyState `json:"state"`
	Published Moment           `json:"published"`
	Signs     *Moment          `json:"signs"`  // when it begins to sign; nil: never
	Stops     *Moment          `json:"stops"`  // when it stops signing and its private half is destroyed
	Leaves    Moment           `json:"leaves"` // when it leaves the JWKS
}

// Lives returns the lives of all keys, oldest first, and of the key that the next rotation makes. An overdue step is
// planned for now.
func Lives(rows []storage.SigningKey, c Config, now time.Time) []Life {
	p := plan{c: c, now: now, rotation: plannedRotation(rows, c, now)}
	lives := make([]Life, 0, len(rows)+1)
	for _, row := range slices.Backward(rows) {
		lives = append(lives, p.life(row))
	}
	if find(rows, storage.KeyNext) != nil {
		made := Life{State: storage.KeyNext, Published: Moment{p.rotation, true}}
		lives = append(lives, p.signing(made, p.rotation.Add(c.RotationInterval)))
	}
	slices.SortStableFunc(lives, func(a, b Life) int { return a.Published.At.Compare(b.Published.At) })
	return lives
}

// plan is what the future of keys depends on.
type plan struct {
	c        Config
	now      time.Time
	rotation time.Time // the next one
}

// plannedRotation returns the moment of the next rotation, not before now. If there is no next key yet, it assumes that
// one is published now.
func plannedRotation(rows []storage.SigningKey, c Config, now time.Time) time.Time {
	at := rotatesBy(rows, c, now)
	if at.IsZero() {
		at = now
		if current := find(rows, storage.KeyCurrent); current != nil {
			at = later(current.ActivatedAt.Add(c.RotationInterval), now.Add(c.PublishLead))
		}
	}
	return later(at, now).UTC()
}

func (p plan) life(row storage.SigningKey) Life {
	l := Life{
		KID:       row.KID,
		State:     row.State,
		Published: past(row.PublishedAt),
		Signs:     pastOf(row.ActivatedAt),
		Stops:     pastOf(row.DeactivatedAt),
	}
	switch row.State {
	case storage.KeyNext:
		return p.signing(l, p.rotation)
	case storage.KeyCurrent:
		l.Stops = &Moment{p.rotation, true}
		l.Leaves = p.leaves(later(p.rotation.Add(p.c.TokenTTL), row.SignsUntil.Time))
	case storage.KeyPrevious:
		l.Leaves = Moment{later(row.RetiresAt.Time, p.now).UTC(), true}
	case storage.KeyRetired:
		l.Leaves = past(*retiredAt(row))
	case storage.KeyRevoked:
		l.Leaves = past(*row.RevokedAt)
		if at := retiredAt(row); at != nil && at.Before(row.RevokedAt.Time) {
			l.Leaves = past(*at)
		}
	}
	return l
}

// signing returns the life of a key that begins to sign at the given moment.
func (p plan) signing(l Life, from time.Time) Life {
	stops := from.Add(p.c.RotationInterval)
	l.Signs, l.Stops = &Moment{from, true}, &Moment{stops, true}
	l.Leaves = p.leaves(stops.Add(p.c.TokenTTL))
	return l
}

// leaves returns when a key leaves the JWKS if its last token expires at the given moment.
func (p plan) leaves(last time.Time) Moment {
	return Moment{last.Add(Skew + p.c.JWKSMaxAge).UTC(), true}
}

// retiredAt returns when a key left the JWKS by schedule, or is planned to. nil: never planned. Rows of the first
// schema hold only the plan.
func retiredAt(row storage.SigningKey) *storage.Time {
	if row.RetiredAt != nil {
		return row.RetiredAt
	}
	return row.RetiresAt
}

func past(t storage.Time) Moment { return Moment{At: t.UTC()} }

func pastOf(t *storage.Time) *Moment {
	if t == nil {
		return nil
	}
	m := past(*t)
	return &m
}
