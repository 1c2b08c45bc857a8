//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

const lockRetry = 5 * time.Millisecond

// lockFolder makes other processes that ask for the same lock wait. It locks the folder, so that no file is left
// behind: to open and close the database file itself would release the locks of SQLite. The kernel releases the lock
// when the process ends.
func lockFolder(ctx context.Context, folder string) (unlock func(), err error) {
	f, err := os.Open(folder)
	if errors.Is(err, os.ErrPermission) {
		return func() {}, nil // a folder that may not be read cannot be locked
	}
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return func() { f.Close() }, nil // a file system without such locks
		}
		if pause(ctx, lockRetry); ctx.Err() != nil {
			f.Close()
			return nil, fmt.Errorf("%w: another process migrates it: %w", ErrUnavailable, ctx.Err())
		}
	}
}
