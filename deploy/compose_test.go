//go:build deploy

package deploy_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/server/servertest"
)

const composePassword, composeSecret = "correct horse battery staple", "the secret of a client, long enough"

// project is a compose file that runs in a folder of its own.
type project struct {
	*engine
	t       *testing.T
	file    string
	folder  string
	servers []string // services
	crowd   *servertest.Crowd
	row     row
}

// Both compose files come up from the commands in their comments, and go on through what happens to them.
func TestRunCompose(t *testing.T) {
	for file, servers := range map[string][]string{
		"compose.sqlite.yaml":   {"keyturn"},
		"compose.postgres.yaml": {"keyturn-1", "keyturn-2"},
	} {
		t.Run(strings.Split(file, ".")[1], func(t *testing.T) {
			e := newEngine(t)
			p := &project{
				engine:  e,
				t:       t,
				file:    file,
				folder:  filepath.Join(t.TempDir(), "keyturn"),
				servers: servers,
				row:     newRow(file),
			}
			p.up()
			p.restartEach()
			p.renew()
			p.stopServer()
			p.restore()
			p.row.done(t)
		})
	}
}

// sh runs a command in the folder of the project, with the programs of the engine under docker's name.
func (p *project) sh(command string) (string, error) {
	if strings.Contains(command, "docker compose") && !strings.Contains(command, " exec ") {
		defer p.forgetNeighboursOften()()
	}
	shims, err := filepath.Abs("testdata")
	if err != nil {
		p.t.Fatal(err)
	}
	return p.inside("env", "-C", p.folder, "PATH="+shims+":"+os.Getenv("PATH"), "AUTH_HOST=localhost",
		"sh", "-euc", command)
}

func (p *project) mustSh(command string) string {
	p.t.Helper()
	out, err := p.sh(command)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// compose runs docker compose.
func (p *project) compose(args string) {
	p.t.Helper()
	p.mustSh("docker compose -f " + p.file + " " + args)
}

// keyturn runs a command of keyturn in the container of a server.
func (p *project) keyturn(before, args string) string {
	p.t.Helper()
	return p.patiently(func() (string, error) {
		return p.sh(before + "docker exec -i " + container(p.servers[0]) + " /usr/bin/keyturn " + args)
	})
}

// container returns the name of the container of a service.
func container(service string) string { return "keyturn_" + service + "_1" }

// comments returns the commands in the comments of the compose file: first those that prepare it and start it, then
// those that upgrade it.
func (p *project) comments() []string {
	p.t.Helper()
	text, err := os.ReadFile(p.file)
	if err != nil {
		p.t.Fatal(err)
	}
	var blocks []string
	block := ""
	for line := range strings.Lines(string(text)) {
		command, ok := strings.CutPrefix(line, "#   ")
		switch {
		case ok:
			block += strings.ReplaceAll(command, "auth.example.com", "localhost")
		case block != "" && strings.TrimSpace(line) != "#":
			blocks, block = append(blocks, block), ""
		}
	}
	return blocks
}

// lay copies the files. podman-compose takes the name of the project from the folder, ignores subnets, and has other
// drivers for logs than docker.
func (p *project) lay() {
	p.t.Helper()
	if err := os.Mkdir(p.folder, 0o755); err != nil {
		p.t.Fatal(err)
	}
	for _, name := range []string{p.file, "Caddyfile"} {
		text, err := os.ReadFile(name)
		if err == nil {
			text = bytes.Replace(text, []byte("driver: local"), []byte("driver: k8s-file"), 1)
			err = os.WriteFile(filepath.Join(p.folder, name), text, 0o644)
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
	p.podman("network", "create", "--internal", "--subnet=10.89.80.0/24", "keyturn_front")
}

// up starts the project as its comments say, and makes the parties of a crowd.
func (p *project) up() {
	p.t.Helper()
	p.lay()
	began := time.Now()
	lines := strings.Split(strings.TrimSpace(p.comments()[0]), "\n")
	p.mustSh(strings.Join(lines[:len(lines)-1], "\n"))
	status := lines[len(lines)-1] // keys status, which wants a database that has answered
	var client *http.Client
	await(p.t, "it serves through the proxy", time.Minute, func() error {
		root, err := p.sh("docker exec " + container("proxy") + " cat /data/caddy/pki/authorities/local/root.crt")
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(root)) {
			return errors.New("no certificate yet")
		}
		client = p.client("127.0.0.1:443", &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}})
		return answers(client, "https://localhost/readyz")
	})
	p.row.set("starts", "%.0f s, with the proxy", time.Since(began).Seconds())
	if out := p.patiently(func() (string, error) { return p.sh(status) }); !strings.Contains(out, "Healthy") {
		p.t.Errorf("%s: %s", status, out)
	}
	secret := "echo '" + composeSecret + "' | "
	p.keyturn(secret, "client create app --grant password --grant refresh_token --audience https://api.example.com "+
		"--scope read --secret-stdin")
	p.keyturn(secret, "client create api --resource https://api.example.com --secret-stdin")
	p.keyturn("echo '"+composePassword+"' | ", "user create alice --password-stdin")
	p.crowd = &servertest.Crowd{
		Bases:  []string{"https://localhost"},
		App:    servertest.Party{ID: "app", Secret: composeSecret},
		Server: servertest.Party{ID: "api", Secret: composeSecret},
		Users:  []servertest.Party{{ID: "alice", Secret: composePassword}},
		HTTP:   client,
		Pause:  5 * time.Millisecond,
	}
	served(p.t, p.crowd, 10*time.Second)
	p.row.set("serves", "yes, with TLS")
	p.row.set("memory", "%s", memoryOf(p.t, p.engine, container(p.servers[0])))
	checkProcess(p.t, p.podman("inspect", "--format={{.State.Pid}}", container(p.servers[0])))
	p.checkSecrets()
}

// checkSecrets checks that the secrets have the modes and owners that the comments promise, here and in the containers
// that have them.
func (p *project) checkSecrets() {
	p.t.Helper()
	owners := map[string]string{"master_key": "65532"}
	services := []string{p.servers[0]}
	if strings.Contains(p.file, "postgres") {
		owners["database"], owners["postgres_password"] = "65532", "999"
		services = append(services, "postgres")
	}
	stat := func(path string) string { return strings.TrimSpace(p.mustRun("stat", "--format=%a %u", path)) }
	if got := stat(filepath.Join(p.folder, "secrets")); got != "700 0" {
		p.t.Errorf("secrets: %s", got)
	}
	for name, owner := range owners {
		if got := stat(filepath.Join(p.folder, "secrets", name)); got != "400 "+owner {
			p.t.Errorf("%s: %s", name, got)
		}
	}
	seen := 0
	for _, service := range services {
		pid := p.podman("inspect", "--format={{.State.Pid}}", container(service))
		names, err := filepath.Glob(filepath.Join("/proc", pid, "root/run/secrets/*")) // as the container sees them
		must(p.t, err)
		for _, path := range names {
			if owner, ok := owners[filepath.Base(path)]; !ok || stat(path) != "400 "+owner {
				p.t.Errorf("%s: %s", path, stat(path))
			}
			seen++
		}
	}
	if seen != len(owners) {
		p.t.Errorf("%d of %d secrets are in containers", seen, len(owners))
	}
}

// under runs something while clients work.
func (p *project) under(do func()) {
	working, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	all.Go(func() { p.crowd.Run(working, 2) })
	time.Sleep(500 * time.Millisecond)
	do()
	time.Sleep(500 * time.Millisecond)
}

// restartEach restarts each service. Nobody is logged out by it.
func (p *project) restartEach() {
	p.t.Helper()
	services := append([]string{"proxy"}, p.servers...)
	if strings.Contains(p.file, "postgres") {
		services = append(services, "postgres")
	}
	session := newLogin(p.t, p.crowd)
	var longest time.Duration
	for _, service := range services {
		began := time.Now()
		p.compose("restart " + service)
		await(p.t, service+" is back", time.Minute, func() error { return session.refresh() })
		longest = max(longest, time.Since(began))
	}
	for _, service := range p.servers {
		p.healthy(service)
	}
	p.row.set("survives restart", "yes, each of %d services: %.1f s at most", len(services), longest.Seconds())
}

// renew replaces the servers one after the other, as for an upgrade.
func (p *project) renew() {
	p.t.Helper()
	if len(p.servers) == 1 {
		p.under(func() {})
		p.crowd.Check(p.t)
		p.row.set("rolling renewal", "one server")
		return
	}
	refused, lost, before := p.crowd.Refusals.Load(), p.crowd.Losses.Load(), p.crowd.Answers.Load()
	upgrade := strings.Split(strings.TrimSpace(p.comments()[1]), "\n")
	p.under(func() {
		for _, command := range upgrade {
			words := strings.Fields(command)
			service := words[len(words)-1]
			if words[0] == "docker" {
				// podman-compose keeps a container whose image is new, docker compose replaces it.
				p.podman("stop", container(service))
				p.podman("rm", container(service))
			}
			p.mustSh(command)
			if words[0] == "docker" {
				p.healthy(service) // --wait
			}
		}
	})
	failed := p.crowd.Refusals.Load() - refused + p.crowd.Losses.Load() - lost
	p.row.set("rolling renewal", "%d of %d requests failed", failed, p.crowd.Answers.Load()-before+failed)
	if failed > 0 {
		p.t.Errorf("%d requests failed during a rolling renewal", failed)
		p.explain()
	}
	p.crowd.Check(p.t)
}

// healthy waits for a service.
func (p *project) healthy(service string) {
	p.t.Helper()
	await(p.t, service+" is healthy", time.Minute, func() error {
		_, err := p.inside("podman", "healthcheck", "run", container(service))
		return err
	})
}

// forgetNeighbours makes containers look for each other again. A new container has the address of the old one on
// another device, and podman, unlike docker, announces that to nobody: packets would go to the old device for seconds.
func (p *project) forgetNeighbours() {
	pids, _ := p.inside("podman", "ps", "--format={{.Pid}}")
	for _, pid := range strings.Fields(pids) { // some may have ended since
		p.try("nsenter", "--net=/proc/"+pid+"/ns/net", "--", "ip", "neigh", "flush", "all")
	}
}

// forgetNeighboursOften does so until stop, and then once more.
func (p *project) forgetNeighboursOften() (stop func()) {
	working, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for working.Err() == nil {
			p.forgetNeighbours()
			time.Sleep(200 * time.Millisecond)
		}
	})
	return func() {
		cancel()
		all.Wait()
		p.forgetNeighbours()
	}
}

// stopServer measures a stop.
func (p *project) stopServer() {
	p.t.Helper()
	began := time.Now()
	p.compose("stop -t 15 " + p.servers[0])
	p.row.set("stop", "%.1f s", time.Since(began).Seconds())
	p.compose("start " + p.servers[0])
	served(p.t, p.crowd, 30*time.Second)
}

// page returns the commands of docs/deployments.md that back the volume up and restore it, for this project as the page
// says.
func (p *project) page() string {
	p.t.Helper()
	text := strings.ReplaceAll(pageBlocks(p.t, "Compose")[0], "auth.example.com", "localhost")
	if strings.Contains(p.file, "postgres") {
		text = strings.NewReplacer("compose.sqlite.yaml", p.file, "keyturn_state", "keyturn_database",
			"docker compose -f compose.sqlite.yaml run --rm --no-deps keyturn ", "docker compose -f "+p.file+
				" up -d --wait postgres\ndocker compose -f "+p.file+" run --rm --no-deps keyturn-1 ").Replace(text)
	}
	return text
}

// restore takes the volume of the database back to a backup, and brings the servers back as the manual says. Everybody
// has to log in again, and can.
func (p *project) restore() {
	p.t.Helper()
	session := newLogin(p.t, p.crowd)
	save, restore, _ := strings.Cut(p.page(), "\n\n")
	p.mustSh(save)
	p.compose("up -d")
	served(p.t, p.crowd, time.Minute)
	p.compose("down")
	for _, command := range commands(restore) {
		p.patiently(func() (string, error) { return p.sh(command) })
	}
	served(p.t, p.crowd, time.Minute)
	if err := session.refresh(); err == nil || !strings.Contains(err.Error(), "invalid_grant") {
		p.t.Errorf("a login from before the restore: %v", err)
	}
	p.keyturn("", "audit verify")
	p.row.set("notes", "a volume is restored from a backup")
}
