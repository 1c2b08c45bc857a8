package passwords

import (
	"runtime/metrics"
	"testing"
	"testing/synctest"
	"time"
)

// resident returns the memory of Go that the system has not got back.
func resident() int64 {
	m := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(m)
	return int64(m[0].Value.Uint64() - m[1].Value.Uint64())
}

// Memory stays while logins come, one hash after the other in the same place, and goes back some seconds after the last
// one.
func TestMemoryOfHashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 24 << 20
		h := &Hasher{Policy: NewPolicy(size), recent: map[string][]time.Duration{}}
		h.Policy.Time = 1
		stored := New(h.Policy, "a password")
		h.memory.begin()
		h.memory.end()
		before := resident()
		for range 4 {
			if matches, _ := h.Compare(stored, "a password", "a password"); !matches {
				t.Fatal("no match")
			}
			time.Sleep(keepMemory / 2)
			if grown := resident() - before; grown < size/2 || grown > size*3/2 {
				t.Errorf("%d MiB are kept after a hash of %d MiB", grown>>20, size>>20)
			}
		}
		time.Sleep(keepMemory)
		synctest.Wait()
		if kept := resident() - before; kept > size/2 {
			t.Errorf("%d MiB are kept after the last login", kept>>20)
		}
	})
}

// Memory is not given back under a hash that takes longer than the memory is kept.
func TestMemoryWaitsForHashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m memory
		m.begin()
		time.Sleep(3 * keepMemory)
		synctest.Wait()
		if m.giveUp == nil {
			t.Error("given back while a hash runs")
		}
		m.end()
		time.Sleep(keepMemory + time.Second)
		synctest.Wait()
		if m.giveUp != nil {
			t.Error("not given back")
		}
	})
}
