package keys

import (
	"log/slog"
	"sync/atomic"
)

// masters are the master keys that a replica has. During a rewrap there are two.
type masters struct {
	all  atomic.Pointer[Master]
	read func() (*Master, error) // reads the file again; nil: the file does not change
	log  *slog.Logger

	// Ring.polling guards the fields below.
	sealer     string          // id of the master key that seals
	superseded []string        // ids of the master keys that sealed before it
	forgotten  map[string]bool // ids of the master keys that this replica no longer trusts
}

func (m *masters) load() *Master { return m.all.Load() }

// add adds the keys of another Master.
func (m *masters) add(other *Master) { m.all.Store(m.load().with(other)) }

// reread adds the keys that the file holds now. It reports whether any of them is new.
func (m *masters) reread() bool {
	if m.read == nil {
		return false
	}
	now, err := m.read()
	if err != nil {
		m.log.Error("master key: cannot be read again", "error", err)
		return false
	}
	if now = now.without(m.forgotten); now == nil || m.load().Holds(now) {
		return false
	}
	m.add(now)
	m.log.Info("master key: the file holds a new key, taken over", "id", now.ID())
	return true
}

// forget drops the master keys that sealed before, once nothing in the view is under them. Otherwise somebody who has
// an old master key and can write the tables would be trusted.
func (m *masters) forget(v *view) {
	if v.altered != nil {
		return
	}
	id := v.master.ID()
	if m.sealer != "" && m.sealer != id {
		m.superseded = append(m.superseded, m.sealer)
	}
	m.sealer = id
	if len(m.superseded) == 0 || v.underOthers(id) > 0 {
		return
	}
	for _, old := range m.superseded {
		m.forgotten[old] = old != id
	}
	m.superseded = nil
	m.all.Store(m.load().without(m.forgotten))
}
