package storagetest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

var usedPorts sync.Map

// FreePort returns a free port of the loopback address that no other test of the process has. It is below the ports
// that the kernel gives to connections, which would take it before a server does.
func FreePort(t testing.TB) string {
	t.Helper()
	for range 1000 {
		port := strconv.Itoa(15_000 + rand.IntN(15_000))
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			continue
		}
		l.Close()
		if _, used := usedPorts.LoadOrStore(port, true); !used {
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}
