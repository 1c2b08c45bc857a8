//go:build !linux

package server

import "time"

func elapsedClock() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
