package server

import (
	"slices"
	"sync"
	"time"

	"github.com/keyturn/keyturn/storage"
)

const (
	// maxUnanswered bounds each of the two generations of grants that are remembered.
	maxUnanswered = 50_000
	// maxUnansweredSpans bounds what is remembered of one grant.
	maxUnansweredSpans = 4
	// maxUnansweredFor bounds a wait, however often it is repeated: who holds a token that was replaced could keep its
	// window open for ever.
	maxUnansweredFor = 15 * time.Minute
)

// unanswered is the refreshes that this replica kept waiting until it refused them or their client gave up, with the
// time after which it told them to come again. The retry window of such a grant does not run meanwhile: a queue in here
// does not count against the client. It helps nobody who could not have had the answer: only a request that came within
// the window keeps it open. When a generation is full, the one before it is forgotten.
type unanswered struct {
	mu         sync.Mutex
	young, old map[storage.GrantID][]storage.Span
}

func newUnanswered() *unanswered { return &unanswered{young: map[storage.GrantID][]storage.Span{}} }

// note remembers that a refresh of the grant waited in vain. Waits that follow within the window are one: however often
// a client tries, its first is not forgotten.
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
	spans = slices.Clone(spans) // others may be reading them
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

// of is the times for which refreshes of the grant waited in vain, in order.
func (u *unanswered) of(grant storage.GrantID) []storage.Span {
	u.mu.Lock()
	defer u.mu.Unlock()
	if spans, ok := u.young[grant]; ok {
		return spans
	}
	return u.old[grant]
}
