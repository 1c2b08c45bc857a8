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

// The disk is full: what cannot be written is refused in time and not half done, and everything works again once there
// is room.
func TestFullDisk(t *testing.T) {
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
	time.Sleep(500 * time.Millisecond)
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
	p.kill() // before the disk goes
	if err := servertest.SQLiteIsWhole(filepath.Join(disk, "keyturn.db")); err != nil {
		t.Error(err)
	}
}

// asRoot runs the test again as one who may make a small disk, in a namespace of its own.
func asRoot(t *testing.T) {
	again := exec.Command(os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{
			{HostID: os.Getuid(), Size: 1},
		}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
	out, err := again.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf(
			"a full disk takes root, or user namespaces, to make (sysctl user.max_user_namespaces, "+
				"kernel.apparmor_restrict_unprivileged_userns): %v\n%s",
			err,
			out,
		)
	}
}

// fill writes until nothing more fits.
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
