//go:build !linux

package clock

import "time"

// Elapsed returns a counter of the time since the call.
func Elapsed() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
