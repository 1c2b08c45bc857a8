//go:build deploy

package deploy_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// engine is podman, with storage and networks of its own, in a network namespace of its own: whatever it publishes is
// reachable there alone.
type engine struct {
	t      *testing.T
	folder string // of its storage; outside of the sources, which it has copies of
	env    []string
	space
}

// images is how the images were built: the first test that needs an engine builds them.
var images struct {
	sync.Once
	built bool
}

// newEngine makes a network namespace and builds the images.
func newEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{t: t, folder: "/var/lib/keyturn-deploy-run"}
	e.configure()
	images.Do(func() {
		e.build()
		images.built = true
	})
	if !images.built {
		t.Fatal("the images could not be built: see the first test that failed")
	}
	e.space = newSpace(t, "engine")
	e.removeAll() // what a run has left that was killed
	t.Cleanup(e.removeAll)
	t.Cleanup(e.explain)
	return e
}

// configure writes the configuration files of the engine. The limits and the runtime are those that also work inside of
// another container.
func (e *engine) configure() {
	e.t.Helper()
	storage := filepath.Join(e.folder, "storage")
	for name, text := range map[string]string{
		"containers.conf": "[containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=1024:4096\"]\n" +
			"log_driver = \"k8s-file\"\ndns_options = [\"timeout:1\", \"attempts:3\"]\n" +
			"[engine]\nruntime = \"limited-runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n" +
			"volume_path = \"" + e.volumes() + "\"\n" +
			"[engine.runtimes]\nlimited-runc = [\"" + e.folder + "/limited-runc\"]\n" +
			"[network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = \"" + e.folder + "/networks\"\n",
		"storage.conf": fmt.Sprintf("[storage]\ndriver = \"overlay\"\ngraphroot = %q\nrunroot = %q\n", storage,
			filepath.Join(e.folder, "run")),
		"registries.conf": "unqualified-search-registries = []\n",
		"limited-runc":    limitedRunc,
	} {
		if err := os.MkdirAll(e.folder, 0o755); err != nil {
			e.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(e.folder, name), []byte(text), 0o755); err != nil {
			e.t.Fatal(err)
		}
	}
	e.env = append(os.Environ(),
		"CONTAINERS_CONF="+filepath.Join(e.folder, "containers.conf"),
		"CONTAINERS_STORAGE_CONF="+filepath.Join(e.folder, "storage.conf"),
		"CONTAINERS_REGISTRIES_CONF="+filepath.Join(e.folder, "registries.conf"),
	)
}

// limitedRunc is runc without limits of resources. podman kube play asks for 1,048,576 files, whatever containers.conf
// says, and only CAP_SYS_RESOURCE may raise a limit that far.
const limitedRunc = `#!/bin/sh
without() { jq "del(.process.rlimits, .rlimits)" "$1" >"$1.new" && cat "$1.new" >"$1"; }
before=
for word; do
	case $before in
	--bundle) without "$word/config.json" ;;
	--process) without "$word" ;;
	esac
	before=$word
done
exec runc "$@"
`

// volumes returns the folder of the volumes: in memory, if there is one for that. The disk is busy with images, and a
// commit that waits for it would count as a failed request.
func (e *engine) volumes() string {
	if _, err := os.Stat("/dev/shm"); err == nil {
		return "/dev/shm/keyturn-volumes"
	}
	return filepath.Join(e.folder, "volumes")
}

// bases are the images that stand in for those of a registry, by the stage of testdata/images/Containerfile.
var bases = map[string]string{
	"golang":   "localhost/golang:stand-in",
	"debian":   "localhost/debian:stand-in",
	"postgres": "localhost/postgres:17",
	"caddy":    "localhost/caddy:2",
	"busybox":  "localhost/busybox:1.37",
}

// debianPackages are in the Debian that all stand-ins are made of.
const debianPackages = "ca-certificates,libssl3,postgresql-15,caddy,busybox-static,systemd-sysv,dbus,adduser,passwd," +
	"curl,wget"

// debian is the archive of that Debian. Its name tells the packages.
func (e *engine) debian() string {
	sum := sha256.Sum256([]byte(debianPackages))
	return filepath.Join(e.folder, fmt.Sprintf("debian-%x.tar", sum[:4]))
}

// build makes the stand-ins of the base images from Debian's packages, and keyturn's images from them.
func (e *engine) build() {
	e.t.Helper()
	if exec.Command("podman", "--version").Run() != nil {
		e.t.Fatal("no podman: `make deploy-run` installs it")
	}
	if _, err := os.Stat(e.debian()); err != nil {
		draft := filepath.Join(e.folder, "draft.tar") // by its ending, mmdebstrap makes an archive
		e.mustRun("mmdebstrap", "--quiet", "--variant=minbase", "--include="+debianPackages, "bookworm", draft)
		if err := os.Rename(draft, e.debian()); err != nil {
			e.t.Fatal(err)
		}
	}
	base := "localhost/keyturn-" + strings.TrimSuffix(filepath.Base(e.debian()), ".tar")
	if _, err := e.try("podman", "image", "exists", base); err != nil {
		e.mustRun("podman", "import", "--quiet", e.debian(), base)
	}
	context := filepath.Join(e.folder, "context")
	goroot := strings.TrimSpace(e.mustRun("go", "env", "GOROOT"))
	e.mustRun("rm", "-rf", context)
	e.mustRun("mkdir", "-p", context)
	e.mustRun("cp", "-a", "testdata/images/.", context)
	e.mustRun("cp", "-aL", goroot, filepath.Join(context, "go"))
	for stage, name := range bases {
		e.mustRun("podman", "build", "--quiet", "--format=docker", "--target="+stage, "--tag="+name,
			"--build-arg=DEBIAN="+base, "--file="+filepath.Join(context, "Containerfile"), context)
	}
	e.mustRun("rm", "-rf", context)
	modules := strings.TrimSpace(e.mustRun("go", "env", "GOMODCACHE")) + "/cache/download"
	for target, tag := range map[string]string{"": "localhost/keyturn:latest", "openssl": "localhost/keyturn:openssl"} {
		// The format of OCI images has no health check.
		args := []string{"podman", "build", "--quiet", "--format=docker", "--file=Dockerfile",
			"--ignorefile=Dockerfile.dockerignore", "--tag=" + tag,
			"--build-arg=GO_IMAGE=" + bases["golang"], "--build-arg=DEBIAN_IMAGE=" + bases["debian"],
			"--build-arg=VERSION=v0.0.0-test", "--build-arg=COMMIT=test", "--network=host",
			"--volume=" + modules + ":/modules:ro"}
		if target != "" {
			args = append(args, "--target="+target)
		}
		e.mustRun(args[0], append(args[1:], "..")...)
	}
}

// try runs a program with the configuration of the engine.
func (e *engine) try(name string, args ...string) (string, error) {
	c := exec.Command(name, args...)
	c.Env = e.env
	out, err := c.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), err
}

func (e *engine) mustRun(name string, args ...string) string {
	e.t.Helper()
	out, err := e.try(name, args...)
	if err != nil {
		e.t.Fatal(err)
	}
	return out
}

// inside runs a program in the network namespace.
func (e *engine) inside(name string, args ...string) (string, error) {
	return e.try("nsenter", append([]string{"--net=" + e.path(), "--", name}, args...)...)
}

// podman runs podman in the network namespace.
func (e *engine) podman(args ...string) string {
	e.t.Helper()
	out, err := e.inside("podman", args...)
	if err != nil {
		e.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// patiently runs a command of keyturn again while it cannot reach its database. podman's name server loses questions
// while containers come and go, and a resolver asks again after five seconds only.
func (e *engine) patiently(do func() (string, error)) (out string) {
	e.t.Helper()
	await(e.t, "a command reaches the database", time.Minute, func() (err error) {
		if out, err = do(); err != nil && !strings.Contains(err.Error(), "database unavailable") {
			e.t.Fatal(err)
		}
		return err
	})
	return out
}

// explain logs the end of what each container printed, if the test failed.
func (e *engine) explain() {
	if !e.t.Failed() {
		return
	}
	names, _ := e.inside("podman", "ps", "--all", "--format={{.Names}} {{.Status}}")
	for line := range strings.Lines(names) {
		name, _, _ := strings.Cut(line, " ")
		log, _ := e.inside("podman", "logs", "--tail=15", name)
		e.t.Logf("%s%s", line, log)
	}
}

// removeAll removes what a test has left in the engine.
func (e *engine) removeAll() {
	for _, args := range [][]string{
		{"pod", "rm", "--all", "--force", "--time=1"},
		{"rm", "--all", "--force", "--time=1"},
		{"volume", "rm", "--all", "--force"}, {"network", "prune", "--force"}, {"secret", "rm", "--all"}} {
		e.inside("podman", args...)
	}
	os.RemoveAll(e.volumes())
}

// await waits until a condition holds.
func await(t *testing.T, what string, within time.Duration, holds func() error) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		err := holds()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > within {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
