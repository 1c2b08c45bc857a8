package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// listenSocket opens a Unix socket that only this user and root may use. It replaces a socket that nobody serves.
func listenSocket(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket == 0 {
		return nil, fmt.Errorf("admin_socket: %s exists and is no socket", path)
	} else if err == nil {
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, fmt.Errorf("admin_socket: another process serves %s", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("admin_socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin_socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("admin_socket: %w", err)
	}
	return l, nil
}

// errNoPeer means that the user at the other end of a socket is not known.
var errNoPeer = errors.New("the user at the other end of the socket is not known")

// Peer returns the user id of the process at the other end of the admin socket. It returns an error for a request that
// did not come over the socket.
func Peer(r *http.Request) (uid uint32, err error) {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return 0, errNoPeer
	}
	raw, ok := c.raw.(*net.UnixConn)
	if !ok {
		return 0, errNoPeer
	}
	return peerOf(raw)
}

// peerOf asks the kernel who opened a connection.
func peerOf(c *net.UnixConn) (uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	if e := raw.Control(func(fd uintptr) { uid, err = peerUser(int(fd)) }); e != nil {
		return 0, e
	}
	return uid, err
}

// OverSocket reports whether a request came over a Unix socket.
func OverSocket(ctx context.Context) bool {
	address, ok := ctx.Value(http.LocalAddrContextKey).(net.Addr)
	return ok && address.Network() == "unix"
}
