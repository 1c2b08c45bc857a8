package main

import (
	"os"

	"golang.org/x/sys/unix"
)

const (
	memoryFolder = "/dev/shm"
	memoryNeeded = 4 << 30 // free bytes; the tests need less than 1 GiB
)

// useMemory keeps the temporary files of the tests in memory if there is enough: the many databases of PostgreSQL have
// thousands of files, which take a fifth of the CPU time on a disk. TMPDIR overrides it.
func useMemory() (remove func(), err error) {
	var fs unix.Statfs_t
	var memory unix.Sysinfo_t
	if os.Getenv("TMPDIR") != "" ||
		unix.Statfs(memoryFolder, &fs) != nil ||
		unix.Sysinfo(&memory) != nil ||
		fs.Type != unix.TMPFS_MAGIC ||
		fs.Flags&unix.ST_NOEXEC != 0 ||
		fs.Bavail*uint64(fs.Bsize) < memoryNeeded ||
		memory.Freeram*uint64(memory.Unit) < memoryNeeded {
		return func() {}, nil
	}
	folder, err := os.MkdirTemp(memoryFolder, "keyturn-test-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(folder, 0o755); err != nil { // PostgreSQL runs as another user if the tests run as root
		return nil, err
	}
	return func() { os.RemoveAll(folder) }, os.Setenv("TMPDIR", folder)
}
