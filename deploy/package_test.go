//go:build deploy

package deploy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The Debian package works in a Debian without a running systemd, as in an image that is being built, and with one.
func TestRunPackage(t *testing.T) {
	clone := filepath.Join(t.TempDir(), "clone")
	arch := strings.TrimSpace(run(t, ".", "dpkg", "--print-architecture"))
	run(t, "..", "git", "clone", "-q", "--no-hardlinks", ".", clone)
	for _, version := range []string{"v0.1.0-test", "v0.2.0-test"} {
		run(t, clone, "sh", "-euc", "mkdir -p dist; CGO_ENABLED=0 go build -trimpath -ldflags '-s -w "+
			"-X github.com/keyturn/keyturn/server.version="+version+"' -o dist/keyturn ./cmd/keyturn; "+
			"sh .ci/deb "+version+" "+arch+" dist/keyturn; mv dist/*_"+arch+".deb dist/"+version+".deb; "+
			"rm dist/keyturn")
	}
	packages := filepath.Join(clone, "dist")
	t.Run("chroot", func(t *testing.T) { installInChroot(t, packages) })
	t.Run("systemd", func(t *testing.T) { runUnderSystemd(t, packages) })
}

// installed is what the package leaves: paths, and their mode and owner.
var installed = map[string]string{
	"/var/lib/keyturn":                        "700 keyturn",
	"/var/lib/keyturn-anchor":                 "700 keyturn",
	"/etc/keyturn":                            "755 root",
	"/usr/bin/keyturn":                        "755 root",
	"/usr/lib/systemd/system/keyturn.service": "644 root",
	"/usr/share/man/man1/keyturn-serve.1.gz":  "644 root",
}

// installInChroot installs, upgrades and removes the package in the Debian that the images are made of.
func installInChroot(t *testing.T, packages string) {
	e := newEngine(t)
	folder, err := os.MkdirTemp(e.folder, "chroot-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(folder) })
	run(t, ".", "tar", "-C", folder, "--exclude=./dev/*", "-xf", e.debian())
	run(t, ".", "cp", "-a", packages, filepath.Join(folder, "dist"))
	run(t, folder, "sh", "-euc", "mkdir -p dev && mknod -m 666 dev/null c 1 3")
	do := func(command string) string {
		t.Helper()
		out, err := e.command("chroot", folder, "/usr/bin/env", "-i", "PATH=/usr/bin:/bin:/usr/sbin:/sbin",
			"DEBIAN_FRONTEND=noninteractive", "sh", "-euc", command).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	check := func(version string) {
		t.Helper()
		for path, want := range installed {
			if got := do("stat -c '%a %U' " + path); got != want {
				t.Errorf("%s: %s, want %s", path, got, want)
			}
		}
		if out := do("keyturn version && dpkg --audit && dpkg --verify keyturn"); !strings.Contains(out, version) ||
			strings.Contains(out, "/") {
			t.Errorf("%s", out)
		}
	}
	keyturn := "runuser -u keyturn -- keyturn --config /etc/keyturn/keyturn.yaml "
	do("dpkg -i /dist/v0.1.0-test.deb")
	check("v0.1.0-test")
	do(`printf 'issuer: https://auth.example.com\nbehind_proxy: true\ndatabase: sqlite:/var/lib/keyturn/keyturn.db
master_key_file: /etc/keyturn/master.key\n' >/etc/keyturn/keyturn.yaml
umask 077; openssl rand -base64 32 >/etc/keyturn/master.key; chown keyturn /etc/keyturn/master.key`)
	do("echo a secret that is long enough | " + keyturn + "client create api --resource=https://api.example.com " +
		"--secret-stdin")
	before := do(keyturn + "client list --json")
	do("dpkg -i /dist/v0.2.0-test.deb")
	check("v0.2.0-test")
	if after := do(keyturn + "client list --json"); after != before || !strings.Contains(before, `"api"`) {
		t.Errorf("clients: %s, before %s", after, before)
	}
	do("dpkg --purge keyturn && test -s /var/lib/keyturn/keyturn.db && test -s /etc/keyturn/master.key && " +
		"! test -e /usr/bin/keyturn")
	// A Debian without systemd: adduser makes the user.
	do("userdel keyturn && rm -r /var/lib/keyturn* /etc/keyturn && rm /usr/bin/systemd-sysusers")
	do("dpkg -i /dist/v0.2.0-test.deb")
	check("v0.2.0-test")
}

// runUnderSystemd installs the package where systemd runs. The unit goes through a start in its sandbox, a reload, a
// crash, an upgrade of the package while the server runs, a stop, and a wrong configuration.
func runUnderSystemd(t *testing.T, packages string) {
	e := newEngine(t)
	row := newRow("systemd, from the Debian package")
	e.podman("run", "--detach", "--name=machine", "--network=none", "--privileged", "--systemd=always",
		"--volume="+packages+":/dist:ro", bases["debian"], "/sbin/init")
	m := &machine{e, t}
	await(t, "systemd runs", time.Minute, func() error {
		return m.try("systemctl is-system-running | grep -Eq 'running|degraded'")
	})
	began := time.Now()
	m.do(strings.ReplaceAll(pageBlocks(t, "One machine, Debian package")[0], "keyturn_0.1.0_amd64.deb",
		"/dist/v0.1.0-test.deb"))
	row.set("starts", "%.1f s, with the installation", time.Since(began).Seconds())
	for path, want := range installed {
		if got := m.do("stat -c '%a %U' " + path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	m.ready()
	m.checkSandbox()
	row.set("serves", "yes")
	row.set("memory", "%s", m.do("awk '/VmRSS/ {printf \"%d MiB\", $2 / 1024}' /proc/"+m.pid()+"/status"))
	m.reload()
	m.crash(row)
	m.upgrade()
	began = time.Now()
	m.do("systemctl stop keyturn")
	row.set("stop", "%.1f s", time.Since(began).Seconds())
	m.refuse()
	m.do("dpkg --purge keyturn && test -s /var/lib/keyturn/keyturn.db && test -s /etc/keyturn/master.key")
	row.set("notes", "package of %s", m.do("stat -c %s /dist/v0.1.0-test.deb | numfmt --to=si")+"B")
	row.done(t)
}

// machine is a container with systemd as its first process.
type machine struct {
	*engine
	t *testing.T
}

func (m *machine) sh(command string) (string, error) {
	out, err := m.inside(
		"podman",
		"--log-level=error",
		"exec",
		"machine",
		"/usr/bin/env",
		"PATH=/usr/bin:/bin:/usr/sbin:/sbin",
		"sh",
		"-euc",
		command,
	)
	return strings.TrimSpace(out), err
}

func (m *machine) try(command string) error {
	_, err := m.sh(command)
	return err
}

// do runs a command as root.
func (m *machine) do(command string) string {
	m.t.Helper()
	out, err := m.sh(command)
	if err != nil {
		journal, _ := m.sh("journalctl -u keyturn --no-pager | tail -20")
		m.t.Fatalf("%v\n%s", err, journal)
	}
	return out
}

func (m *machine) configure(issuer string) {
	m.t.Helper()
	m.do(fmt.Sprintf(`printf 'issuer: %%s\nbehind_proxy: true\ndatabase: sqlite:/var/lib/keyturn/keyturn.db
master_key_file: /etc/keyturn/master.key\nanchor_file: /var/lib/keyturn-anchor/anchor\n' '%s' \
	>/etc/keyturn/keyturn.yaml`,
		issuer))
}

// ready waits until the server is ready.
func (m *machine) ready() {
	m.t.Helper()
	await(m.t, "it is ready", time.Minute, func() error { return m.try("curl -sf http://127.0.0.1:8081/readyz") })
}

func (m *machine) pid() string { return m.do("systemctl show -P MainPID keyturn") }

// checkSandbox checks what the kernel says of the running server.
func (m *machine) checkSandbox() {
	m.t.Helper()
	status := m.do("cat /proc/" + m.pid() + "/status")
	for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1",
		"Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			m.t.Errorf("not %q:\n%s", want, status)
		}
	}
	// It does not see /home, and can write nowhere but to its folders.
	m.do("touch /home/x && nsenter -m -t " + m.pid() + " sh -euc 'if test -e /home/x || touch /etc/x || " +
		"touch /usr/x; then exit 1; fi; touch /var/lib/keyturn/x'")
	m.do("test \"$(stat -c %U /proc/" + m.pid() + ")\" = keyturn")
}

// reload changes a setting, and keeps the old one where the new one is wrong.
func (m *machine) reload() {
	m.t.Helper()
	before := m.pid()
	m.do("echo 'access_ttl: 7m' >>/etc/keyturn/keyturn.yaml && systemctl reload keyturn")
	await(m.t, "the new setting is in force", 10*time.Second, func() error {
		return m.try("journalctl -u keyturn | grep -q 'config.reload.*access_ttl'")
	})
	m.do("echo 'access_ttl: soon' >>/etc/keyturn/keyturn.yaml")
	if m.try("systemctl reload keyturn") == nil {
		m.t.Error("a wrong configuration was reloaded")
	}
	m.configure("https://auth.example.com")
	if m.ready(); m.pid() != before {
		m.t.Error("the process changed")
	}
}

// crash kills the server: systemd starts it again.
func (m *machine) crash(r row) {
	m.t.Helper()
	before := m.pid()
	began := time.Now()
	m.do("kill -9 " + before)
	await(m.t, "another process", time.Minute, func() error {
		return m.try(
			"test $(systemctl show -P MainPID keyturn) != " + before + " && curl -sf http://127.0.0.1:8081/readyz",
		)
	})
	r.set("survives restart", "after kill -9: %.1f s", time.Since(began).Seconds())
}

// upgrade installs a newer package: the server goes on with it, and keeps its configuration and its database.
func (m *machine) upgrade() {
	m.t.Helper()
	m.do("dpkg -i /dist/v0.2.0-test.deb")
	m.ready()
	if out := m.do("readlink /proc/" + m.pid() + "/exe && keyturn version"); !strings.Contains(out, "v0.2.0-test") ||
		strings.Contains(out, "deleted") {
		m.t.Errorf("after the upgrade: %s", out)
	}
}

// refuse starts the server with a wrong configuration: it ends with 78, and systemd does not try again.
func (m *machine) refuse() {
	m.t.Helper()
	m.configure("no URL")
	m.do("systemctl start keyturn || true; sleep 3")
	out := m.do("systemctl show -P ExecMainStatus -P NRestarts -P ActiveState keyturn")
	if !strings.Contains(out, "78") ||
		!strings.Contains(out, "failed") ||
		!strings.Contains(out, "\n0") && !strings.HasPrefix(out, "0") {
		m.t.Errorf("a wrong configuration: %s", out)
	}
}
