package passwords

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// memory bounds the memory of hashes. A hash takes as much as the rest of the process. While logins come, each hash
// uses again what the one before has freed; some time after the last login the system gets it back.
type memory struct {
	mu      sync.Mutex
	running int
	ended   time.Time   // the last hash
	giveUp  *time.Timer // gives the memory back; nil: it has
}

const (
	keepMemory  = 3 * time.Second // for how long memory is kept after a hash
	smallMemory = 4 << 10         // KiB: a hash that takes less is garbage like any other
)

// begin makes room for a hash. The first one frees what short requests have left: the hash does not fit between it.
func (m *memory) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running++
	if m.giveUp == nil {
		debug.FreeOSMemory()
		m.giveUp = time.AfterFunc(keepMemory, m.giveBack)
	}
}

// end frees the memory of a hash before the next one begins. Without it, finished hashes would wait for the collector,
// and the next hash would take new pages from the system.
func (m *memory) end() {
	runtime.GC()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running--
	m.ended = time.Now()
}

func (m *memory) giveBack() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if left := keepMemory - time.Since(m.ended); m.running > 0 || left > 0 {
		m.giveUp.Reset(max(left, keepMemory/2))
		return
	}
	m.giveUp = nil
	debug.FreeOSMemory()
}
