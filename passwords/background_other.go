//go:build !linux

package passwords

// background runs heavy work.
func background(work func()) { work() }
