package main

import (
	"fmt"
	"math"
	"syscall"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/server"
)

// raiseFiles raises the limit of open files to the hard limit and returns it.
func raiseFiles() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	if limit.Cur < limit.Max {
		raised := syscall.Rlimit{Cur: limit.Max, Max: limit.Max}
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil { // some systems allow less than they report
			limit = raised
		}
	}
	return int(min(limit.Cur, math.MaxInt32)), nil
}

// listen opens the ports. The limit of open files bounds their connections.
func listen(c config.Config) (server.Listeners, error) {
	files, err := raiseFiles()
	if err != nil {
		return server.Listeners{}, fmt.Errorf("cannot read the limit of open files: %w", err)
	}
	listeners, err := server.Listen(c)
	listeners.MaxFiles = files
	return listeners, err
}
