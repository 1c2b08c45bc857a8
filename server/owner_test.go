//go:build unix

package server

import (
	"os"
	"syscall"
)

// ownerOf is the user and the group that a file belongs to.
func ownerOf(info os.FileInfo) [2]uint32 {
	s := info.Sys().(*syscall.Stat_t)
	return [2]uint32{s.Uid, s.Gid}
}
