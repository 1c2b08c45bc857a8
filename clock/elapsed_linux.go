package clock

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// bootReading is a reading of the clock that counts the time that a machine was suspended, and when it was taken.
type bootReading struct {
	boot time.Duration
	at   time.Time
}

// bootPeriod is how long a reading is good: the clock costs a system call, that of the process, which stands while the
// machine is suspended, does not.
const bootPeriod = time.Millisecond

func readBoot() *bootReading {
	var t unix.Timespec
	at := time.Now()
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every Linux that Go runs on has it
	}
	return &bootReading{time.Duration(t.Nano()), at}
}

// Elapsed counts the time since it was made, with that in which the machine was suspended.
func Elapsed() func() time.Duration {
	start := readBoot()
	var last atomic.Pointer[bootReading]
	last.Store(start)
	return func() time.Duration {
		r := last.Load()
		since := time.Since(r.at)
		if since >= bootPeriod {
			r, since = readBoot(), 0
			last.Store(r)
		}
		return r.boot - start.boot + since
	}
}
