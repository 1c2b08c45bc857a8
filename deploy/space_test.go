//go:build deploy

package deploy_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// space is a network namespace of a test, by its name.
type space string

var (
	spaces  atomic.Int64
	swept   sync.Once
	ownName = regexp.MustCompile(`^keyturn-(\d+)-`)
)

// sweep removes the namespaces of runs that were killed.
func sweep() {
	names, _ := os.ReadDir("/run/netns")
	for _, entry := range names {
		m := ownName.FindStringSubmatch(entry.Name())
		if m == nil {
			continue
		}
		if pid, err := strconv.Atoi(m[1]); err == nil && syscall.Kill(pid, 0) == syscall.ESRCH {
			space(entry.Name()).remove()
		}
	}
}

// remove ends what runs in the namespace, and the namespace.
func (s space) remove() {
	for range 100 {
		pids := s.pids()
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond)
	}
	exec.Command("ip", "netns", "del", string(s)).Run()
}

// newSpace makes a network namespace with a loopback device. It ends with the test, and so does whatever runs in it.
func newSpace(t *testing.T, name string) space {
	t.Helper()
	swept.Do(sweep)
	s := space(fmt.Sprintf("keyturn-%d-%d-%s", os.Getpid(), spaces.Add(1), name))
	run(t, ".", "ip", "netns", "add", string(s))
	t.Cleanup(s.remove)
	run(t, ".", "ip", "-n", string(s), "link", "set", "lo", "up")
	return s
}

// pids returns the processes in the namespace, but this one, of which a thread may be there.
func (s space) pids() (pids []int) {
	out, err := exec.Command("ip", "netns", "pids", string(s)).Output()
	if err != nil {
		return nil
	}
	for _, word := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(word); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (s space) path() string { return "/run/netns/" + string(s) }

// command runs a program in the namespace.
func (s space) command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + s.path(), "--", name}, args...)...)
}

// client returns an HTTP client that connects from the network namespace to the given address, whatever the URL says.
func (s space) client(address string, base *http.Transport) *http.Client {
	transport := base
	if transport == nil {
		transport = &http.Transport{}
	}
	transport.MaxIdleConnsPerHost = 100
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return s.dialTo(ctx, network, address)
	}
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// dialTo connects from the network namespace.
func (s space) dialTo(ctx context.Context, network, address string) (conn net.Conn, err error) {
	runtime.LockOSThread() // the thread ends with the goroutine if it cannot go back
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer own.Close()
	other, err := os.Open(s.path())
	if err != nil {
		return nil, err
	}
	defer other.Close()
	if err := unix.Setns(int(other.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, address)
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		return nil, back
	}
	runtime.UnlockOSThread()
	return conn, err
}
