package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a program under measurement.
type process struct {
	cmd   *exec.Cmd
	ended chan error
	base  string // URL of its listener
}

// start runs a program and waits for the log line that names its address.
func start(name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), ended: make(chan error, 1)}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// Settings of the caller must not affect the result.
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "KEYTURN_")
	})
	out, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.run(); err != nil {
		return nil, err
	}
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			p.stop()
			return nil, fmt.Errorf("%s did not begin to serve: %s", name, line)
		}
		var entry struct{ Msg, Listen, Error string }
		if json.Unmarshal(line, &entry); entry.Msg == "serving" {
			p.base = "http://" + entry.Listen
			go io.Copy(io.Discard, lines) // the log goes into a pipe, as under a supervisor
			return p, nil
		}
	}
}

// run starts the program from a locked thread. The kernel kills the program when that thread ends, so a killed bench
// leaves no process behind.
func (p *process) run() error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.ended <- p.cmd.Wait()
		}
	}()
	return <-started
}

func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.ended
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// cpuOf returns the CPU time that processes have used. With family it includes their children.
func cpuOf(family bool, pids ...int) time.Duration {
	var all time.Duration
	for _, pid := range pids {
		all += cpuOfOne(pid)
		if family {
			for _, child := range children(pid) {
				all += cpuOfOne(child)
			}
			all += reaped(pid)
		}
	}
	return all
}

// cpuOfOne reads the CPU clock of a process, clock_getcpuclockid(3), in nanoseconds. It includes ended threads.
func cpuOfOne(pid int) time.Duration {
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &used); err != nil {
		return 0 // the process has ended
	}
	return time.Duration(used.Nano())
}

// statOf returns the fields of /proc/PID/stat from the third on.
func statOf(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, ok := strings.Cut(string(text), ") ")
	if err != nil || !ok {
		return make([]string, 20)
	}
	return strings.Fields(rest)
}

func children(parent int) (pids []int) {
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, folder := range folders {
		pid, _ := strconv.Atoi(filepath.Base(folder))
		if statOf(pid)[1] == strconv.Itoa(parent) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// reaped returns the CPU time of children that have ended.
func reaped(pid int) (all time.Duration) {
	for _, field := range statOf(pid)[13:15] {
		ticks, _ := strconv.ParseInt(field, 10, 64)
		all += time.Duration(ticks) * 10 * time.Millisecond
	}
	return all
}

// memoryOf reads a field of /proc/PID/status in bytes: VmRSS, the memory in use, or VmHWM, its peak.
func memoryOf(pid int, field string) (int64, error) {
	kib, err := statusOf(pid, field)
	return kib << 10, err
}

// threadsOf returns the number of threads of a process.
func threadsOf(pid int) (int, error) {
	n, err := statusOf(pid, "Threads")
	return int(n), err
}

// statusOf reads a number of /proc/PID/status.
func statusOf(pid int, field string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, errors.New("no " + field)
}
