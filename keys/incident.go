package keys

import "time"

// Incident is the time in which a verifier that obeys max-age may accept a token forged with a revoked key.
type Incident struct {
	RevokedAt    time.Time `json:"revoked_at"` // of the last revocation
	ExposedUntil time.Time `json:"exposed_until"`
	// SecondRotation goes to a key that no verifier has cached. nil: none is planned.
	SecondRotation *time.Time `json:"second_rotation_at"`
	Over           bool       `json:"over"`
}

// Incident returns the last incident; nil if no key was ever revoked.
func (r *Ring) Incident() *Incident {
	rows, now := r.view.Load().rows, r.options.Now()
	if lastRevocation(rows).IsZero() {
		return nil
	}
	i := &Incident{
		RevokedAt:    lastRevocation(rows).UTC(),
		ExposedUntil: exposedUntil(rows).UTC(),
		Over:         !incident(rows, now),
	}
	if secondRotation(rows) {
		at := later(rotatesAt(rows, r.config()), now).UTC()
		i.SecondRotation = &at
	}
	return i
}
