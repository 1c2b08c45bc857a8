//go:build !linux

package server

// background runs heavy work.
func background(work func()) { work() }
