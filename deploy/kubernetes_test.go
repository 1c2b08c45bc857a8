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

// What kustomize makes of the manifests runs as far as podman knows their kinds: Deployment, ConfigMap, Secret, init
// container and liveness. podman ignores Namespace, Service, NetworkPolicy and disruption budget. It publishes the
// ports of each pod on the host, so that one replica has to do.
func TestRunKubernetes(t *testing.T) {
	e := newEngine(t)
	folder := t.TempDir()
	ca := e.secureDatabase(folder, "db.example.com")
	master := e.mustRun("openssl", "rand", "-base64", "32")
	// podman 4.3 takes the data of a Secret as it comes, without decoding it.
	secret := "apiVersion: v1\nkind: Secret\nmetadata:\n  name: keyturn\ntype: Opaque\ndata:\n"
	for name, value := range map[string]string{
		"master.key":      master,
		"database-ca.crt": ca,
		"database": "postgres://keyturn:database-password@db.example.com/keyturn" +
			"?sslmode=verify-full&sslrootcert=/run/secrets/keyturn/database-ca.crt",
	} {
		secret += fmt.Sprintf("  %s: %q\n", name, value)
	}
	manifests := run(t, "testdata/kubecheck", "go", "run", ".", "-print", "../../kubernetes")
	// podman 4.3 crashes at a volume from a Secret that does not say whether it is optional.
	manifests = regexp.MustCompile(`(\s+)secretName: .*`).ReplaceAllString(manifests, "$0${1}optional: false")
	manifests = strings.Replace(manifests, "replicas: 2", "replicas: 1", 1)
	// podman removes an init container that has ended, unless told. On a busy machine it still takes it for running,
	// and fails.
	manifests = strings.Replace(manifests, "kind: Deployment\nmetadata:\n", "kind: Deployment\nmetadata:\n"+
		"  annotations:\n    io.podman.annotations.init.container.type: always\n", 1)
	file, secrets := filepath.Join(folder, "keyturn.yaml"), filepath.Join(folder, "secret.yaml")
	for name, text := range map[string]string{file: manifests, secrets: secret} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e.podman("secret", "create", "keyturn", secrets)
	// No registry: the images have the names that the manifests want.
	for name, tag := range map[string]string{"localhost/keyturn:latest": "ghcr.io/keyturn/keyturn:v1.0.0",
		"localhost/busybox:1.37": "docker.io/library/busybox:1.37"} {
		e.podman("tag", name, tag)
	}
	row := newRow("kubernetes/, by podman kube play")
	began := time.Now()
	e.podman("kube", "play", "--build=false", "--network=kube", file)
	infra := e.podman("ps", "--filter=name=infra", "--format={{.Names}}")
	address := func() string {
		return e.podman("inspect", "--format={{.NetworkSettings.Networks.kube.IPAddress}}", infra)
	}
	admin, public := e.client(address()+":8081", nil), e.client(address()+":8080", nil)
	await(t, "it is ready", 30*time.Second, func() error { return answers(admin, "http://keyturn/readyz") })
	row.set("starts", "%.1f s", time.Since(began).Seconds())
	if err := answers(public, "http://keyturn/.well-known/jwks.json"); err != nil {
		t.Error(err)
	}
	row.set("serves", "yes")
	name := strings.Fields(e.podman("ps", "--filter=name=keyturn-pod-", "--format={{.Names}}"))
	var server string
	for _, n := range name {
		if !strings.Contains(n, "infra") {
			server = n
		}
	}
	checkProcess(t, e.podman("inspect", "--format={{.State.Pid}}", server))
	e.patiently(func() (string, error) {
		return e.inside("podman", "exec", server, "/usr/bin/keyturn", "keys", "status")
	})
	row.set("memory", "%s", memoryOf(t, e, server))
	began = time.Now()
	e.podman("pod", "restart", "keyturn-pod-0")
	admin = e.client(address()+":8081", nil)
	await(t, "it is ready again", 30*time.Second, func() error { return answers(admin, "http://keyturn/readyz") })
	row.set("survives restart", "%.1f s", time.Since(began).Seconds())
	began = time.Now()
	e.podman("pod", "stop", "keyturn-pod-0")
	row.set("stop", "%.1f s", time.Since(began).Seconds())
	row.done(t)
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
	await(e.t, "PostgreSQL answers", 30*time.Second, func() error {
		_, err := e.inside("podman", "exec", "database", "pg_isready", "--host=127.0.0.1")
		return err
	})
	authority, err := os.ReadFile(filepath.Join(tls, "ca.crt"))
	if err != nil {
		e.t.Fatal(err)
	}
	return string(authority)
}
