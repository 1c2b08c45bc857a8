package passwords

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// background runs heavy work on a thread of its own with low priority, and waits for it. If the priority cannot be set,
// the work runs all the same.
func background(work func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread, and so its priority, ends with the goroutine
		unix.Setpriority(unix.PRIO_PROCESS, 0, 10)
		work()
	}()
	<-done
}
