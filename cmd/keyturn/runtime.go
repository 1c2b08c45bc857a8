package main

import (
	"os"
	"runtime"
	"runtime/debug"
)

// cpus is how many CPUs this process has before anything changes GOMAXPROCS. The Go runtime respects the limit of its
// cgroup.
var cpus = runtime.GOMAXPROCS(0)

// freeMemory returns to the system what opening a server took, a password hash above all.
func freeMemory() { debug.FreeOSMemory() }

// ballast makes the heap, of which a few megabytes are in use, grow further before it is collected, which saves a tenth
// of the CPU time of short requests. Nobody touches it, so that it takes no memory.
var ballast []byte

const ballastSize = 16 << 20

// makeRoom lets as many goroutines run besides the hashes as there are CPUs, so that short requests need not wait until
// the scheduler takes a CPU from a hash. Whoever has set GOMAXPROCS has decided.
func makeRoom(slots int) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + slots)
	}
	ballast = make([]byte, ballastSize)
	runtime.KeepAlive(ballast)
}
