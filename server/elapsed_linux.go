package server

import (
	"time"

	"golang.org/x/sys/unix"
)

// elapsedClock counts the time that a machine was suspended, too.
func elapsedClock() func() time.Duration {
	boot := func() time.Duration {
		var t unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
			panic(err) // every Linux that Go runs on has it
		}
		return time.Duration(t.Nano())
	}
	start := boot()
	return func() time.Duration { return boot() - start }
}
