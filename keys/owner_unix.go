//go:build unix

package keys

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// keepOwner gives a file that is to take the place of another the owner, group and mode of that one, if it is there: a
// command that root runs must not take the anchor from the server.
func keepOwner(f *os.File, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	theirs, ok := info.Sys().(*syscall.Stat_t)
	own, err := f.Stat()
	if err != nil || !ok {
		return err
	}
	ours, ok := own.Sys().(*syscall.Stat_t)
	if ok && ours.Uid == theirs.Uid && ours.Gid == theirs.Gid {
		return f.Chmod(info.Mode().Perm())
	}
	err = f.Chown(int(theirs.Uid), int(theirs.Gid))
	if err != nil && (!ok || ours.Uid != theirs.Uid) { // another group alone keeps nobody out who could read it
		return fmt.Errorf("%s would change its owner: %w", path, err)
	}
	return f.Chmod(info.Mode().Perm())
}
