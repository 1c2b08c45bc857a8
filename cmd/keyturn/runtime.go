package main

import (
	"os"
	"runtime"
	"runtime/debug"
)

// cpus is the number of CPUs of this process, before anything changes GOMAXPROCS. The Go runtime respects the limit of
// the cgroup.
var cpus = runtime.GOMAXPROCS(0)

// freeMemory returns to the system the memory that opening a server took, mainly for a password hash.
func freeMemory() { debug.FreeOSMemory() }

// ballast delays garbage collection, since only a few megabytes of the heap are in use. It saves a tenth of the CPU
// time of short requests. Nothing touches it, so that it takes no memory.
var ballast []byte

const ballastSize = 16 << 20

// makeRoom raises GOMAXPROCS, so that short requests run beside the password hashes: a goroutine that hashes holds its
// processor for long. One more for every two hashes is enough. With more, each collection costs the hashes more time.
// The variable GOMAXPROCS turns this off.
func makeRoom(slots int) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(max(cpus, slots) + max(slots/2, 1))
	}
	ballast = make([]byte, ballastSize)
	runtime.KeepAlive(ballast)
}
