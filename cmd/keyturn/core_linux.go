package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// noCore keeps the keys and passwords in memory out of core dumps, and away from other processes of the same user.
func noCore() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("cannot turn core dumps off: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot turn core dumps off: %w", err)
	}
	return nil
}
