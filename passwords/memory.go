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
	giveUp  *time.Timer // gives the memory back; nil: it has
}

// keepMemory is for how long memory is kept after a hash.
const keepMemory = 3 * time.Second

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
	if m.giveUp != nil {
		m.giveUp.Reset(keepMemory)
	}
}

func (m *memory) giveBack() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running > 0 {
		m.giveUp.Reset(keepMemory)
		return
	}
	m.giveUp = nil
	debug.FreeOSMemory()
}
