package keys

import (
	"sync/atomic"
	"time"
)

// processors bounds the signatures that are computed at once. There is one slot for each CPU. While somebody verifies
// tokens or fetches keys, one CPU is kept free for that: a signature takes many times as long.
type processors struct {
	slots   chan struct{}
	last    chan struct{} // the slot of the last CPU; nil if there is only one
	elapsed func() time.Duration
	readAt  atomic.Int64 // when somebody last verified a token or fetched keys, by elapsed
}

// keptFree is for how long a CPU is kept free after the last verification.
const keptFree = 100 * time.Millisecond

func newProcessors(cpus int, elapsed func() time.Duration) *processors {
	p := &processors{slots: make(chan struct{}, max(cpus-1, 1)), elapsed: elapsed}
	p.readAt.Store(-int64(keptFree))
	if cpus > 1 {
		p.last = make(chan struct{}, 1)
	}
	return p
}

// noteRead notes that somebody verifies a token or fetches keys.
func (p *processors) noteRead() { p.readAt.Store(int64(p.elapsed())) }

// acquire waits for a slot. Receive from it after the signature.
func (p *processors) acquire() (slot <-chan struct{}) {
	last := p.last
	if p.elapsed()-time.Duration(p.readAt.Load()) < keptFree {
		last = nil
	}
	select {
	case p.slots <- struct{}{}:
		return p.slots
	case last <- struct{}{}:
		return last
	}
}
