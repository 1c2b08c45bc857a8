//go:build deploy

package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// The binary for arm64 does the main job, as an emulator runs it.
func TestRunArm64(t *testing.T) {
	folder := t.TempDir()
	binary, script := filepath.Join(folder, "keyturn-arm64"), filepath.Join(folder, "keyturn")
	build := exec.Command("go", "build", "-o", binary, "./cmd/keyturn")
	build.Dir, build.Env = "..", append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	must(t, os.WriteFile(script, []byte("#!/bin/sh\nexec qemu-aarch64-static "+binary+" \"$@\"\n"), 0o755))
	i := &installation{t: t, folder: folder, database: "sqlite:" + filepath.Join(folder, "keyturn.db")}
	base, stop := i.serve(script)
	i.fill(script, base)
	l := newLogin(t, i.crowd)
	must(t, l.refresh())
	must(t, l.revoke())
	if l.goesOn(t) {
		t.Error("a revoked login goes on")
	}
	i.command(script, "", "audit", "verify")
	began := time.Now()
	stop()
	r := newRow("linux/arm64, emulated")
	r.set("serves", "yes")
	r.set("stop", "%.1f s", time.Since(began).Seconds())
	r.done(t)
}
