package keys

import (
	"slices"
	"sync"

	"github.com/keyturn/keyturn/storage"
)

// maxOutages is how many outages are kept: far more than fit into a retry window.
const maxOutages = 64

// outages are the last outages, in order and without overlap.
type outages struct {
	mu    sync.Mutex
	spans []storage.Span
}

// note adds an outage, and merges it with those that it overlaps.
func (o *outages) note(s storage.Span) {
	o.mu.Lock()
	defer o.mu.Unlock()
	spans := append(slices.Clone(o.spans), s)
	slices.SortFunc(spans, func(a, b storage.Span) int { return a.From.Compare(b.From) })
	merged := spans[:1]
	for _, next := range spans[1:] {
		last := &merged[len(merged)-1]
		if next.From.After(last.To) {
			merged = append(merged, next)
		} else if next.To.After(last.To) {
			last.To = next.To
		}
	}
	o.spans = merged[max(0, len(merged)-maxOutages):]
}

// all returns the outages. The caller must not change them.
func (o *outages) all() []storage.Span {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.spans
}
