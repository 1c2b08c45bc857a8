package passwords

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// background runs heavy work on a thread of its own that gives way to others, and waits for it. Where that is not
// allowed it runs all the same.
func background(work func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and its priority with it
		unix.Setpriority(unix.PRIO_PROCESS, 0, 10)
		work()
	}()
	<-done
}
