package clock

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// bootReading is a reading of CLOCK_BOOTTIME, which also counts while a machine is suspended, with its moment.
type bootReading struct {
	boot time.Duration
	at   time.Time
}

// bootPeriod is how long a reading is used. Reading CLOCK_BOOTTIME costs a system call. The monotonic clock costs none,
// but stops while the machine is suspended.
const bootPeriod = time.Millisecond

func readBoot() *bootReading {
	var t unix.Timespec
	at := time.Now()
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every Linux that Go supports has this clock
	}
	return &bootReading{time.Duration(t.Nano()), at}
}

// Elapsed returns a counter of the time since the call. It also counts while the machine is suspended.
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
