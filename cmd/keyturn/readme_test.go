package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/storage/storagetest"
)

var shellBlock = regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```$")

var consoleBlock = regexp.MustCompile("(?ms)^```console\n(.*?)^```$")

// TestReadme runs every shell block of the README, in order, in one shell. A server runs in the background until the
// next one starts. Values of an answer are copied into the next command, as a person would do. Free ports replace the
// ports.
func TestReadme(t *testing.T) {
	t.Parallel()
	runAsReader(t, readmePrelude+blocksOf(t, "../../README.md", 6))
}

// TestKeysPage runs every shell block of docs/keys.md beside a server whose keys rotate within seconds.
func TestKeysPage(t *testing.T) {
	t.Parallel()
	runAsReader(t, readmePrelude+keysPrelude+blocksOf(t, "../../docs/keys.md", 10))
}

// TestOtherPages runs every shell block of other pages.
func TestOtherPages(t *testing.T) {
	t.Parallel()
	for page, prelude := range map[string]string{
		"verify":         "keyturn client create app --grant password --audience https://api.example.com\n",
		"clients":        clientsPrelude,
		"from-simplejwt": importPrelude,
		"operate":        "",
		"commands":       "",
		"console":        "keyturn client create app --grant password --audience https://api.example.com\n",
	} {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			script := readmePrelude + prelude + blocksOf(t, "../../docs/"+page+".md", 1)
			if page == "operate" {
				script = strings.Replace(
					script,
					"keyturn copy ",
					"stop; echo '"+storagetest.PostgresURL(t)+"' >target.url; keyturn copy ",
					1,
				)
				script = strings.Replace(
					script,
					"keyturn migrate ",
					"export KEYTURN_DATABASE=$(cat target.url); keyturn migrate ",
					1,
				)
			}
			runAsReader(t, script)
		})
	}
}

// TestProbePage runs the shell block of docs/probe.md against an API that is right.
func TestProbePage(t *testing.T) {
	t.Parallel()
	prelude := "keyturn client create api --resource https://api.example.com\n" +
		"keyturn serve --issuer http://127.0.0.1:8080 & server=$!; ready\n"
	runAsReader(t, readmePrelude+prelude+blocksOf(t, "../../docs/probe.md", 1), func(issuer string) string {
		server := newAPI(issuer, "https://api.example.com", "read", "")
		t.Cleanup(server.Close)
		return server.Listener.Addr().String()
	})
}

const clientsPrelude = `
echo "correct horse battery staple" | keyturn user create alice --password-stdin
keyturn serve --issuer http://127.0.0.1:8080 & server=$!; ready
`

const importPrelude = `
echo '[{"model": "auth.user", "pk": 1, "fields": {"username": "alice", "password": "!",
"is_active": true, "groups": []}}]' >users.json
echo '{"username": "bob"}' >people.jsonl
`

// blocksOf returns the shell blocks of a page as a script. least is their minimum number.
func blocksOf(t *testing.T, page string, least int) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	blocks := shellBlock.FindAllStringSubmatch(string(text), -1)
	if len(blocks) < least {
		t.Fatalf("%s: %d blocks", page, len(blocks))
	}
	var script strings.Builder
	for _, block := range blocks {
		for line := range strings.Lines(block[1]) {
			script.WriteString(readmeLine(strings.TrimSpace(line)) + "\n")
		}
	}
	return script.String()
}

// runAsReader runs a script in a new folder, with keyturn in the path and free ports in place of those of the README.
// Each of apis starts an API for an issuer, and returns the address that takes the place of 127.0.0.1:9000.
func runAsReader(t *testing.T, script string, apis ...func(issuer string) string) {
	t.Helper()
	port, adminPort := storagetest.FreePort(t), storagetest.FreePort(t)
	folder := t.TempDir()
	for _, start := range apis {
		script = strings.ReplaceAll(script, "127.0.0.1:9000", start("http://127.0.0.1:"+port))
	}
	text := strings.NewReplacer("8080", port, "8081", adminPort).Replace(script)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", text)
	shell.Dir = folder
	shell.Env = append(environment(t), "KEYTURN_LISTEN=127.0.0.1:"+port, "KEYTURN_ADMIN_LISTEN=127.0.0.1:"+adminPort)
	var out bytes.Buffer
	shell.Stdout, shell.Stderr = &out, &out
	if err := shell.Run(); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// environment is that of a person who has installed keyturn.
func environment(t *testing.T) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	// testscript.Main makes this binary act as the command of its name.
	if err := os.Symlink(self, filepath.Join(folder, "keyturn")); err != nil {
		t.Fatal(err)
	}
	return append(storagetest.Environ(), "PATH="+folder+":"+os.Getenv("PATH"))
}

const readmePrelude = `
server=
stop() { if [ -n "$server" ]; then kill -INT $server; wait $server; fi; server=; }
ready() { until curl -sf http://127.0.0.1:8080/readyz >/dev/null; do kill -0 $server; sleep 0.05; done; }
field() { sed -nE 's/.*"'$1'": ?"([^"]*)".*/\1/p' answer; }
trap 'stop' EXIT
`

const keysPrelude = `
export KEYTURN_KEY_PUBLISH_LEAD=2s KEYTURN_JWKS_MAX_AGE=1s
keyturn serve --issuer http://127.0.0.1:8080 & server=$!; ready; sleep 2
`

// readmeLine adapts a line of the README: it runs servers in the background, stops at HTTP errors, and stores the
// secrets of an answer for the next lines.
func readmeLine(line string) string {
	switch {
	case line == "keyturn dev":
		return "stop; keyturn dev --json --listen 127.0.0.1:8080 --admin-listen 127.0.0.1:8081 >dev.json & " +
			"server=$!; until grep -q access_token dev.json; do kill -0 $server; sleep 0.05; done; stop"
	case strings.HasPrefix(line, "keyturn serve"):
		return "stop; " + line + " & server=$!; ready"
	case strings.HasPrefix(line, "keyturn keys list"):
		return line + "; KID=$(keyturn keys status --json | sed -nE 's/^  \"current\": \"([^\"]*)\".*/\\1/p'); test " +
			"-n \"$KID\""
	case strings.HasPrefix(line, "keyturn client create app"):
		return line + " --json >answer; SECRET=$(field client_secret)"
	case strings.HasPrefix(line, "keyturn client create api"):
		return line + " --json >answer; API_SECRET=$(field client_secret)"
	case strings.HasPrefix(line, "curl") && strings.Contains(line, "/token"):
		return line + " --fail >answer; ACCESS_TOKEN=$(field access_token); REFRESH_TOKEN=$(sed -nE " +
			"'s/.*\"refresh_token\":\"([^\"]*)\".*/\\1/p' answer)"
	case strings.HasPrefix(line, "curl"):
		return line + " --fail >answer"
	default:
		return line
	}
}

// docs/configuration.md matches the settings. `make pages` writes it.
func TestConfigurationPage(t *testing.T) {
	const path = "../../docs/configuration.md"
	page := configurationPage()
	if *update {
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	there, err := os.ReadFile(path)
	if err != nil || string(there) != page {
		t.Errorf("docs/configuration.md is out of date: run `make pages`: %v", err)
	}
}

func configurationPage() string {
	var page strings.Builder
	page.WriteString(configurationHead)
	for _, s := range config.Settings {
		standard, reload := "", ""
		if s.Default != "" {
			standard = "`" + s.Default + "`"
		}
		if s.Reload {
			reload = "yes"
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", s.Key, standard, reload, strings.ReplaceAll(s.Help, "|", "\\|"))
	}
	return page.String()
}

const configurationHead = `# Settings

Each setting has one name, in three forms. For ` + "`access_ttl`" + ` they are:

1. the flag ` + "`--access-ttl 10m`" + `,
2. the environment variable ` + "`KEYTURN_ACCESS_TTL`, or `KEYTURN_ACCESS_TTL_FILE`" + ` with the path of a file that
   holds the value,
3. the key ` + "`access_ttl: 10m`" + ` in the YAML file that ` + "`--config`" + ` names.

The first of them that is given wins; otherwise the default applies. keyturn refuses a key or a ` + "`KEYTURN_`" + `
variable that is no setting, and suggests the name that you may have meant. All text is UTF-8 without a byte order mark.

` + "`keyturn config validate` reports everything that is wrong at once. `keyturn config show --origin`" + ` prints
where each value comes from. A server reads its configuration again at SIGHUP. It applies the settings that are marked
below, and logs which others need a restart.

| setting | default | at SIGHUP | meaning |
|---|---|---|---|
`

// The commands that install keyturn name an existing package and an existing target.
func TestInstall(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	install := regexp.MustCompile(`(?m)^go install (\S+)@latest$`).FindStringSubmatch(string(readme))
	if install == nil || !strings.Contains(string(readme), "\nmake build\n") {
		t.Fatal("the README does not say how to install keyturn")
	}
	if out, err := exec.Command("go", "list", "-f", "{{.Name}}", install[1]).Output(); string(out) != "main\n" {
		t.Errorf("%s is not a program: %s %v", install[1], out, err)
	}
	build := exec.Command("make", "-n", "build")
	build.Dir = "../.."
	if out, err := build.Output(); !strings.Contains(string(out), "-o bin/keyturn ./cmd/keyturn") {
		t.Errorf("make build does not write bin/keyturn: %s %v", out, err)
	}
}

// The console blocks need machines of their own. TestInstall checks the first. This test runs the other one on the
// PostgreSQL of the tests.
func TestReadmeOnPostgres(t *testing.T) {
	t.Parallel()
	databaseURL := storagetest.PostgresURL(t)
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range consoleBlock.FindAllStringSubmatch(string(readme), -1) {
		if strings.HasPrefix(block[1], "go install ") {
			continue
		}
		text := strings.NewReplacer(
			"postgres://keyturn:PASSWORD@db.example.com/keyturn?sslmode=verify-full", databaseURL,
			"0.0.0.0", "127.0.0.1",
			"\\\n", " ",
		).Replace(block[1])
		text = strings.TrimRight(text, "\n") + " & server=$!; ready; stop\n"
		runAsReader(t, readmePrelude+text)
	}
}
