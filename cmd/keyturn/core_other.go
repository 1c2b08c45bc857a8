//go:build !linux

package main

import (
	"fmt"
	"syscall"
)

// noCore lets no core dump have the keys and passwords in the memory of this process.
func noCore() error {
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return fmt.Errorf("core dumps cannot be turned off: %w", err)
	}
	return nil
}
