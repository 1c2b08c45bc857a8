//go:build !linux

package storagetest

// InMemory returns "": there is no file system in memory that every system has.
func InMemory() string { return "" }
