//go:build deploy

package deploy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What kustomize makes of the manifests runs as far as podman knows their kinds: Deployment, ConfigMap, Secret and init
// container. podman ignores Namespace, Service, NetworkPolicy and disruption budget. It makes a shell command with curl
// of a probe, and the image has neither: the test asks what the probes ask.
func TestRunKubernetes(t *testing.T) {
	e := newEngine(t)
	folder := t.TempDir()
	manifests, probes := e.manifests()
	file, secrets := filepath.Join(folder, "keyturn.yaml"), filepath.Join(folder, "secret.yaml")
	for name, text := range map[string]string{file: manifests, secrets: e.secret(folder)} {
		must(t, os.WriteFile(name, []byte(text), 0o600))
	}
	e.podman("secret", "create", "keyturn", secrets)
	row := newRow("kubernetes/, by podman kube play")
	began := time.Now()
	e.podman("kube", "play", "--build=false", "--network=kube", file)
	infra := e.podman("ps", "--filter=name=infra", "--format={{.Names}}")
	address := func() string {
		return e.podman("inspect", "--format={{.NetworkSettings.Networks.kube.IPAddress}}", infra)
	}
	admin, public := e.client(address()+":8081", nil), e.client(address()+":8080", nil)
	await(t, "it is ready", time.Minute, func() error { return answers(admin, "http://keyturn/readyz") })
	row.set("starts", "%.1f s", time.Since(began).Seconds())
	for _, path := range probes {
		must(t, answers(admin, "http://keyturn"+path))
	}
	if err := answers(public, "http://keyturn/.well-known/jwks.json"); err != nil {
		t.Error(err)
	}
	row.set("serves", "yes")
	const server = "keyturn-pod-0-keyturn"
	checkProcess(t, e.podman("inspect", "--format={{.State.Pid}}", server))
	e.patiently(func() (string, error) {
		return e.inside("podman", "exec", server, "/usr/bin/keyturn", "keys", "status")
	})
	row.set("memory", "%s", memoryOf(t, e, server))
	began = time.Now()
	e.podman("pod", "restart", "keyturn-pod-0")
	admin = e.client(address()+":8081", nil)
	await(t, "it is ready again", time.Minute, func() error { return answers(admin, "http://keyturn/readyz") })
	row.set("survives restart", "%.1f s", time.Since(began).Seconds())
	began = time.Now()
	e.podman("pod", "stop", "keyturn-pod-0")
	row.set("stop", "%.1f s", time.Since(began).Seconds())
	row.done(t)
}

// manifests returns what kustomize renders, as podman 4.3 can run it, and the paths that the probes ask for at the
// admin listener. The images have the names that it wants.
func (e *engine) manifests() (text string, probes []string) {
	e.t.Helper()
	text = run(e.t, "testdata/kubecheck", "go", "run", ".", "-print", "../../kubernetes")
	probe := regexp.MustCompile(`(?m)^        (?:liveness|readiness|startup)Probe:\n(?:          .*\n)*?` +
		` +path: (.*)\n +port: admin\n(?:          .*\n)*`)
	for _, m := range probe.FindAllStringSubmatch(text, -1) {
		probes = append(probes, m[1])
	}
	if len(probes) != 3 {
		e.t.Errorf("probes: %v", probes)
	}
	text = probe.ReplaceAllString(text, "")
	// podman crashes at a volume from a Secret that does not say whether it is optional.
	text = regexp.MustCompile(`(\s+)secretName: .*`).ReplaceAllString(text, "$0${1}optional: false")
	// It publishes the ports of each pod on the host, so that one replica has to do.
	text = strings.Replace(text, "replicas: 2", "replicas: 1", 1)
	// It removes an init container that has ended, unless told. On a busy machine it still takes it for running, and
	// fails.
	text = strings.Replace(text, "kind: Deployment\nmetadata:\n", "kind: Deployment\nmetadata:\n"+
		"  annotations:\n    io.podman.annotations.init.container.type: always\n", 1)
	image := regexp.MustCompile(`image: (ghcr\.io/keyturn/keyturn:\S+)`).FindStringSubmatch(text)
	if image == nil {
		e.t.Fatal("no image of keyturn")
	}
	e.podman("tag", "localhost/keyturn:latest", image[1])
	e.podman("tag", "localhost/busybox:1.37", "docker.io/library/busybox:1.37")
	return text, probes
}

// secret starts a database and returns the Secret with its URL. podman 4.3 takes the data of a Secret as it comes,
// without decoding it.
func (e *engine) secret(folder string) string {
	e.t.Helper()
	ca := e.secureDatabase(folder, "db.example.com")
	text := "apiVersion: v1\nkind: Secret\nmetadata:\n  name: keyturn\ntype: Opaque\ndata:\n"
	for name, value := range map[string]string{
		"master.key":      e.mustRun("openssl", "rand", "-base64", "32"),
		"database-ca.crt": ca,
		"database": "postgres://keyturn:database-password@db.example.com/keyturn" +
			"?sslmode=verify-full&sslrootcert=/run/secrets/keyturn/database-ca.crt",
	} {
		text += fmt.Sprintf("  %s: %q\n", name, value)
	}
	return text
}

// secureDatabase starts a PostgreSQL that takes TLS under a name, in the network kube, and returns the certificate of
// its authority.
func (e *engine) secureDatabase(folder, name string) (ca string) {
	e.t.Helper()
	tls := filepath.Join(folder, "tls")
	e.mustRun("sh", "-euc", fmt.Sprintf(`mkdir -p %[1]s && cd %[1]s
openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=authority -keyout ca.key -out ca.crt 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj /CN=%[2]s -keyout server.key -out server.csr 2>/dev/null
printf 'subjectAltName=DNS:%[2]s\n' >names
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -extfile names \
	-out server.crt 2>/dev/null
echo database-password >password
chown 999 server.key password && chmod 0400 server.key password && chmod 0755 . ..`, tls, name))
	e.podman("network", "create", "kube")
	e.podman("run", "--detach", "--name=database", "--network=kube:alias="+name, "--volume="+tls+":/tls:ro",
		"--tmpfs=/run/postgresql:mode=1777",
		"--env=POSTGRES_USER=keyturn", "--env=POSTGRES_DB=keyturn", "--env=POSTGRES_PASSWORD_FILE=/tls/password",
		bases["postgres"], "-c", "ssl=on", "-c", "ssl_cert_file=/tls/server.crt", "-c", "ssl_key_file=/tls/server.key")
	await(e.t, "PostgreSQL answers", time.Minute, func() error {
		_, err := e.inside("podman", "exec", "database", "pg_isready", "--host=127.0.0.1")
		return err
	})
	authority, err := os.ReadFile(filepath.Join(tls, "ca.crt"))
	if err != nil {
		e.t.Fatal(err)
	}
	return string(authority)
}
