//go:build !linux

package main

import (
	"fmt"
	"syscall"
)

// noCore keeps the keys and passwords in memory out of core dumps.
func noCore() error {
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("cannot turn core dumps off: %w", err)
	}
	return nil
}
