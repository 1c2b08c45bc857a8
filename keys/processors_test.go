package keys

import (
	"testing"
	"testing/synctest"
	"time"
)

// All CPUs sign while nobody verifies. For a while after a verification one is kept free.
func TestProcessorsKeepOneFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		for cpus, most := range map[int]struct{ alone, beside int }{1: {1, 1}, 2: {2, 1}, 8: {8, 7}} {
			p := newProcessors(cpus, func() time.Duration { return time.Since(begun) })
			if n := signers(p); n != most.alone {
				t.Errorf("%d CPUs: %d sign at once, want %d", cpus, n, most.alone)
			}
			p.noteRead()
			if n := signers(p); n != most.beside {
				t.Errorf("%d CPUs, beside a verification: %d sign at once, want %d", cpus, n, most.beside)
			}
			time.Sleep(keptFree)
			if n := signers(p); n != most.alone {
				t.Errorf("%d CPUs, a while later: %d sign at once, want %d", cpus, n, most.alone)
			}
		}
	})
}

// signers lets many signatures wait for slots, returns how many begin, and ends them all.
func signers(p *processors) (begun int) {
	end, began, ended := make(chan struct{}), make(chan struct{}, 100), make(chan struct{}, 100)
	const all = 20
	for range all {
		go func() {
			slot := p.acquire()
			began <- struct{}{}
			<-end
			<-slot
			ended <- struct{}{}
		}()
	}
	synctest.Wait()
	begun = len(began)
	close(end)
	for range all {
		<-ended
	}
	return begun
}
