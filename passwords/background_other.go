//go:build !linux

package passwords

// background runs heavy work. Threads have no priority of their own here.
func background(work func()) { work() }
