package server

import "golang.org/x/sys/unix"

// peerUser returns the user at the other end of a Unix socket (SO_PEERCRED).
func peerUser(socket int) (uid uint32, err error) {
	peer, err := unix.GetsockoptUcred(socket, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return peer.Uid, nil
}
