package admin

import (
	"context"
	"fmt"
	"time"
)

// TimelineView is the part of the lives of the keys that is drawn.
type TimelineView struct {
	From, To time.Time
	Now      time.Time
	Incident *KeyIncident // nil: none to draw
	Marks    []KeyMark    // when registered verifiers got the next key
}

// ShownMarks is the number of verifiers that a timeline draws.
const ShownMarks = 20

// LifeWithMarks is a life of a key in JSON.
type LifeWithMarks struct {
	KeyLife
	Verifiers []KeyMark `json:"verifiers"` // of the next key: registered verifiers, and when they got it
}

// WithMarks adds to each life the verifiers that got the key.
func WithMarks(lives []KeyLife, marks []KeyMark) []LifeWithMarks {
	rows := make([]LifeWithMarks, len(lives))
	for i, l := range lives {
		rows[i] = LifeWithMarks{l, []KeyMark{}}
		for _, m := range marks {
			if m.KID == l.KID {
				rows[i].Verifiers = append(rows[i].Verifiers, m)
			}
		}
	}
	return rows
}

// WholeView spans all lives and now.
func WholeView(lives []KeyLife, now time.Time) TimelineView {
	v := TimelineView{From: now, To: now.Add(time.Hour), Now: now}
	for _, l := range lives {
		if l.Published.At.Before(v.From) {
			v.From = l.Published.At
		}
		if l.Leaves.At.After(v.To) {
			v.To = l.Leaves.At
		}
	}
	return v
}

// incidentView spans an incident, with a fifth of its length around it.
func incidentView(i *KeyIncident, now time.Time) TimelineView {
	v := TimelineView{From: i.RevokedAt, To: i.ExposedUntil, Now: now, Incident: i}
	if i.SecondRotation != nil && i.SecondRotation.After(v.To) {
		v.To = *i.SecondRotation
	}
	if !i.Over && now.After(v.To) {
		v.To = now
	}
	margin := max(v.To.Sub(v.From)/5, time.Minute)
	v.From, v.To = v.From.Add(-margin), v.To.Add(margin)
	return v
}

// TimelineSpan selects a part of the timeline. The zero value selects an incident that lasts, or else everything.
type TimelineSpan struct {
	From, To time.Time
	Incident bool // only the last incident
}

// Timeline returns the lives of all keys and the part of them to draw. It returns ErrNotFound if the span asks for an
// incident and there was none. unread is why the marks are missing.
func (a Keys) Timeline(ctx context.Context, s TimelineSpan) (lives []KeyLife, v TimelineView, unread, err error) {
	lives = a.Lives()
	if v, err = s.view(lives, a.Incident(), a.now()); err != nil {
		return lives, v, nil, err
	}
	if a.Intact() == nil {
		v.Marks, unread = a.Marks(ctx)
	}
	return lives, v, unread, nil
}

func (s TimelineSpan) view(lives []KeyLife, last *KeyIncident, now time.Time) (TimelineView, error) {
	v := WholeView(lives, now)
	chosen := !s.From.IsZero() || !s.To.IsZero()
	switch {
	case s.Incident && last == nil:
		return v, fmt.Errorf("%w: no key was ever revoked", ErrNotFound)
	case s.Incident, last != nil && !last.Over && !chosen:
		v = incidentView(last, now)
	case last != nil && !last.Over:
		v.Incident = last
	}
	if !s.From.IsZero() {
		v.From = s.From
	}
	if !s.To.IsZero() {
		v.To = s.To
	}
	if !v.To.After(v.From) {
		return v, invalid("timeline: its end %s is not after its beginning %s", v.To.UTC().Format(time.RFC3339),
			v.From.UTC().Format(time.RFC3339))
	}
	return v, nil
}

// KeyPhase is a period in the life of a key.
type KeyPhase struct {
	Kind     string // published, signs, verifies
	From, To time.Time
}

// Phases returns the periods of a life, in order.
func Phases(l KeyLife) []KeyPhase {
	if l.Signs == nil {
		return []KeyPhase{{"published", l.Published.At, l.Leaves.At}}
	}
	stops := l.Leaves
	if l.Stops != nil {
		stops = *l.Stops
	}
	return []KeyPhase{
		{"published", l.Published.At, l.Signs.At},
		{"signs", l.Signs.At, stops.At},
		{"verifies", stops.At, l.Leaves.At},
	}
}

// TimelineScale maps the time of a view to a line of cells or pixels.
type TimelineScale struct {
	TimelineView
	Width float64
}

// At returns the place of a moment, at the edge if the view does not reach it.
func (s TimelineScale) At(t time.Time) float64 {
	place := s.Width * float64(t.Sub(s.From)) / float64(s.To.Sub(s.From))
	return min(max(place, 0), s.Width)
}

// Shows reports whether any of a period is in the view.
func (s TimelineScale) Shows(from, to time.Time) bool { return to.After(s.From) && from.Before(s.To) }

// KeyShapes show the state of a key by shape, so that nothing depends on colour.
var KeyShapes = map[KeyState]string{
	"next":     "○",
	"current":  "●",
	"previous": "◐",
	"retired":  "·",
	"revoked":  "✕",
}

// ShortKID is the beginning of a kid, which names it in a picture.
func ShortKID(kid string) string {
	if kid == "" {
		return "(future)"
	}
	return kid[:min(8, len(kid))]
}
