package storagetest

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

const (
	// memory is a file system in memory, on most systems.
	memory = "/dev/shm"
	// memoryPrefix begins the names of our folders there.
	memoryPrefix = "keyturn-test-"
	// minMemory is the free space that tests demand: a PostgreSQL database takes 8 MB, and a package makes hundreds.
	minMemory = 4 << 30
	// lockName is a file that the process has locked while it uses the folder.
	lockName = "lock"
)

// InMemory returns a folder in memory for this process, or "" if there is not enough room. [Stop] removes it.
var InMemory = sync.OnceValue(func() string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(memory, &s); err != nil || s.Bavail*uint64(s.Bsize) < minMemory {
		return ""
	}
	removeAbandoned()
	folder, err := os.MkdirTemp(memory, memoryPrefix)
	if err != nil {
		return ""
	}
	if err := lock(folder); err != nil || os.Chmod(folder, 0o711) != nil { // PostgreSQL may run as another user
		os.RemoveAll(folder)
		return ""
	}
	return folder
})

// held keeps the lock for as long as the process lives.
var held *os.File

// lock locks a new folder. The file gets its name only once it is locked.
func lock(folder string) (err error) {
	temporary := filepath.Join(folder, "new")
	if held, err = os.Create(temporary); err != nil {
		return err
	}
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return err
	}
	return os.Rename(temporary, filepath.Join(folder, lockName))
}

// removeAbandoned removes what tests that were killed have left in memory.
func removeAbandoned() {
	locks, _ := filepath.Glob(filepath.Join(memory, memoryPrefix+"*", lockName))
	for _, path := range locks {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			os.RemoveAll(filepath.Dir(path))
		}
		f.Close()
	}
}
