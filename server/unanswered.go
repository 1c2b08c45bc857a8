package server

import (
	"slices"
	"sync"
	"time"

	"github.com/keyturn/keyturn/storage"
)

const (
	// maxUnanswered is the largest number of grants in each of the two generations.
	maxUnanswered = 50_000
	// maxUnansweredSpans is the largest number of spans of one grant.
	maxUnansweredSpans = 4
	// maxUnansweredFor is the longest span. Without it, the holder of a replaced token could keep its retry window open
	// without end.
	maxUnansweredFor = 15 * time.Minute
)

// unanswered holds the times during which refreshes of a grant had no answer: from the arrival until the end of the
// refusal's Retry-After. The retry window of the grant does not run during that time, so that a busy server does not
// cost a client its login. Only a request that arrives within the window extends it. When the young generation is full,
// it replaces the old one.
type unanswered struct {
	mu         sync.Mutex
	young, old map[storage.GrantID][]storage.Span
}

func newUnanswered() *unanswered { return &unanswered{young: map[storage.GrantID][]storage.Span{}} }

// note records a span for a grant. It merges spans that are less than a window apart, so that repeated attempts do not
// displace the first one.
func (u *unanswered) note(grant storage.GrantID, from, to time.Time, window time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	spans, ok := u.young[grant]
	if !ok {
		spans = u.old[grant]
		if len(u.young) >= maxUnanswered {
			u.old, u.young = u.young, map[storage.GrantID][]storage.Span{}
		}
	}
	spans = slices.Clone(spans) // readers may hold the old slice
	if n := len(spans) - 1; n >= 0 && !from.After(spans[n].To.Add(window)) {
		if to.After(spans[n].To) {
			spans[n].To = to
		}
		if from.Before(spans[n].From) {
			spans[n].From = from
		}
		if longest := spans[n].From.Add(maxUnansweredFor); spans[n].To.After(longest) {
			spans[n].To = longest
		}
	} else {
		spans = append(spans, storage.Span{From: from, To: to})
	}
	u.young[grant] = spans[max(0, len(spans)-maxUnansweredSpans):]
}

// of returns the spans of a grant, in order.
func (u *unanswered) of(grant storage.GrantID) []storage.Span {
	u.mu.Lock()
	defer u.mu.Unlock()
	if spans, ok := u.young[grant]; ok {
		return spans
	}
	return u.old[grant]
}
