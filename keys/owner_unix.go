//go:build unix

package keys

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// keepOwner gives the file f the owner, group and mode of the file at path, which f replaces. Otherwise a command that
// root runs would take the anchor away from the server.
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
	if err != nil && (!ok || ours.Uid != theirs.Uid) { // another group alone is no error: the owner still has access
		return fmt.Errorf("%s would change its owner: %w", path, err)
	}
	return f.Chmod(info.Mode().Perm())
}
