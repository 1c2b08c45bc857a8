//go:build deploy

// Package deploy_test checks the files of this folder with the tools that read them.
package deploy_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	c := exec.Command(name, args...)
	c.Dir = dir
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Each alert fires when it should, and not when it should not.
func TestAlerts(t *testing.T) {
	run(t, "prometheus", "promtool", "check", "rules", "alerts.yaml")
	run(t, "prometheus", "promtool", "test", "rules", "alerts_test.yaml")
}

// systemd accepts the unit without a warning and rates its exposure low.
func TestUnit(t *testing.T) {
	dir := t.TempDir()
	unit, err := os.ReadFile("keyturn.service")
	if err == nil { // verify needs an existing program
		err = os.WriteFile(
			dir+"/keyturn.service",
			bytes.ReplaceAll(unit, []byte("/usr/bin/keyturn"), []byte("/bin/true")),
			0o644,
		)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out := run(t, dir, "systemd-analyze", "verify", "--man=no",
		"./keyturn.service"); regexp.MustCompile(`(?m)^.*keyturn\.service:`).
		MatchString(out) {
		t.Error(out)
	}
	out := run(t, ".", "systemd-analyze", "security", "--offline=true", "--no-pager", "./keyturn.service")
	m := regexp.MustCompile(`Overall exposure level for keyturn\.service: ([0-9.]+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatal(out)
	}
	if exposure, err := strconv.ParseFloat(m[1], 64); err != nil || exposure > 1.5 {
		t.Errorf("exposure %s", m[1])
	}
	t.Log(m[0])
}

// The manifests decode strictly into the types of Kubernetes, and satisfy the restricted Pod Security Standard.
func TestManifests(t *testing.T) {
	t.Log(run(t, "testdata/kubecheck", "go", "run", ".", "../../kubernetes"))
}

// Two builds of a release are the same bytes, the binary prints its version, and the checksums are signed.
func TestRelease(t *testing.T) {
	key := filepath.Join(t.TempDir(), "keyturn-release")
	run(t, ".", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "release", "-f", key)
	sums := func(clone string) string {
		dir := filepath.Join(t.TempDir(), clone)
		run(t, "..", "git", "clone", "-q", "--no-hardlinks", ".", dir)
		// One platform is enough: each takes as long again.
		out := run(t, dir, "env", "RELEASE_KEY="+key, "sh", ".ci/release", "v0.0.0-test", "linux/amd64")
		check := `echo "release@keyturn $(cat ` + key + `.pub)" >allowed_signers
ssh-keygen -Y verify -f allowed_signers -I release@keyturn -n keyturn-release -s SHA256SUMS.sig <SHA256SUMS
sha256sum --check --ignore-missing SHA256SUMS`
		run(t, filepath.Join(dir, "dist"), "sh", "-euc", check)
		changed := exec.Command("sh", "-euc", "echo x >>SHA256SUMS; "+check)
		changed.Dir = filepath.Join(dir, "dist")
		if changed.Run() == nil {
			t.Error("changed checksums are accepted")
		}
		said := run(t, dir, "dist/keyturn_v0.0.0-test_linux_amd64", "version", "--json")
		if !regexp.MustCompile(`"version": "v0.0.0-test",\n  "commit": "[0-9a-f]{40}",\n  "date": "20`).
			MatchString(said) {
			t.Error(said)
		}
		if kind := run(t, dir, "go", "version", "-m",
			"dist/keyturn_v0.0.0-test_linux_amd64"); !regexp.MustCompile(`CGO_ENABLED=0`).
			MatchString(kind) {
			t.Errorf("not static: %s", kind)
		}
		bom, err := os.ReadFile(dir + "/dist/keyturn_v0.0.0-test_linux_amd64.cdx.json")
		if err != nil || !bytes.Contains(bom, []byte("github.com/lib/pq")) {
			t.Errorf("the bill of materials: %v", err)
		}
		return strings.Join(regexp.MustCompile(`(?m)^[0-9a-f]{64}  .*$`).FindAllString(out, -1), "\n")
	}
	if one, two := sums("one"), sums("another"); one != two || strings.Count(one, "\n") != 2 {
		t.Errorf("two builds differ:\n%s\n%s", one, two)
	}
}
