package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/keyturn/keyturn/server/servertest"
)

// While the disk is full, the server refuses requests in time and completely. Once there is space, everything works
// again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		asRoot(t)
		return
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=3m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(disk, 0) })
	p := newProcess(t, "sqlite:"+filepath.Join(disk, "keyturn.db"))
	p.must("", "migrate", "up")
	crowd := p.crowd()
	p.start()
	working, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		crowd.Run(working, 4)
		close(done)
	}()
	for end := time.Now().Add(20 * time.Second); crowd.Answers.Load() < 50; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing was answered")
		}
	}
	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	before := crowd.Refusals.Load()
	for end := time.Now().Add(20 * time.Second); crowd.Refusals.Load() < before+20; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing was refused")
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if took := crowd.Well(20 * time.Second); took > 10*time.Second {
		t.Errorf("well only %v after there was room", took)
	}
	stop()
	<-done
	crowd.Check(t)
	p.must("", "audit", "verify")
	p.kill() // before the disk is unmounted
	if err := servertest.SQLiteIsWhole(filepath.Join(disk, "keyturn.db")); err != nil {
		t.Error(err)
	}
}

// asRoot runs the test again in a namespace of its own, where it may mount a small disk.
func asRoot(t *testing.T) {
	again := exec.Command(os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	again.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := again.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf(
			"the test needs root, or user namespaces (sysctl user.max_user_namespaces, "+
				"kernel.apparmor_restrict_unprivileged_userns): %v\n%s",
			err,
			out,
		)
	}
}

// fill writes until the disk is full.
func fill(t *testing.T, path string) {
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
}
