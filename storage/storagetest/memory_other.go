//go:build !linux

package storagetest

// inMemory returns "": there is no file system in memory that every system has.
func inMemory() string { return "" }
