package main

import (
	"fmt"
	"math"
	"syscall"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/server"
)

// raiseFiles has this process open as many descriptors as its hard limit allows, and tells how many these are.
func raiseFiles() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	if limit.Cur < limit.Max {
		raised := syscall.Rlimit{Cur: limit.Max, Max: limit.Max}
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil { // some systems allow less than they say
			limit = raised
		}
	}
	return int(min(limit.Cur, math.MaxInt32)), nil
}

// listen opens the ports. How many connections they may have follows from the descriptors that this process may open.
func listen(c config.Config) (server.Listeners, error) {
	files, err := raiseFiles()
	if err != nil {
		return server.Listeners{}, fmt.Errorf("the limit of open files cannot be read: %w", err)
	}
	listeners, err := server.Listen(c)
	listeners.MaxFiles = files
	return listeners, err
}
