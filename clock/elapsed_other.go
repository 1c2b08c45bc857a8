//go:build !linux

package clock

import "time"

// Elapsed counts the time since it was made.
func Elapsed() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
