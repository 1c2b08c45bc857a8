package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage/storagetest"
)

var shellBlock = regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```$")

var consoleBlock = regexp.MustCompile("(?ms)^```console\n(.*?)^```$")

// TestReadme runs every shell block of the README, in order, in one shell. What serves runs in the background until the
// next block that serves; what a person would copy from one answer into the next command is copied; ports are replaced
// by free ones.
func TestReadme(t *testing.T) {
	runAsReader(t, readmePrelude+blocksOf(t, "../../README.md", 6))
}

// TestKeysPage runs every shell block of docs/keys.md beside a server whose keys turn within seconds.
func TestKeysPage(t *testing.T) {
	runAsReader(t, readmePrelude+keysPrelude+blocksOf(t, "../../docs/keys.md", 10))
}

// TestOtherPages runs every shell block of the pages for authors of clients and of resource servers, and for those who
// come from Django.
func TestOtherPages(t *testing.T) {
	for page, prelude := range map[string]string{
		"verify":         "keyturn client create app --grant password --audience https://api.example.com\n",
		"clients":        clientsPrelude,
		"from-simplejwt": importPrelude,
		"operate":        "",
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

const clientsPrelude = `
echo "correct horse battery staple" | keyturn user create alice --password-stdin
keyturn serve --issuer http://127.0.0.1:8080 & server=$!; ready
`

const importPrelude = `
echo '[{"model": "auth.user", "pk": 1, "fields": {"username": "alice", "password": "!",
"is_active": true, "groups": []}}]' >users.json
echo '{"username": "bob"}' >people.jsonl
`

// blocksOf is the shell blocks of a page, which are at least some, as a script.
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
func runAsReader(t *testing.T, script string) {
	t.Helper()
	port, adminPort := freePort(t), freePort(t)
	folder := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// testscript.Main makes this binary act as the command that it is called by.
	if err := os.Symlink(self, filepath.Join(folder, "keyturn")); err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("8080", port, "8081", adminPort).Replace(script)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", text)
	shell.Dir = folder
	shell.Env = append(storagetest.Environ(), "PATH="+folder+":"+os.Getenv("PATH"), "KEYTURN_LISTEN=127.0.0.1:"+port,
		"KEYTURN_ADMIN_LISTEN=127.0.0.1:"+adminPort)
	var out bytes.Buffer
	shell.Stdout, shell.Stderr = &out, &out
	if err := shell.Run(); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
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

// readmeLine is a line of the README as a person would run it: with what is served in the background, failures of HTTP
// noticed, and the secrets of the answer at hand for the next line.
func readmeLine(line string) string {
	switch {
	case strings.HasPrefix(line, "go run ./cmd/keyturn dev"):
		return "stop; keyturn dev --json --listen 127.0.0.1:8080 --admin-listen 127.0.0.1:8081 >dev.json & " +
			"server=$!; until grep -q access_token dev.json; do kill -0 $server; sleep 0.05; done; stop"
	case strings.HasPrefix(line, "keyturn serve"):
		return "stop; " + line + " & server=$!; ready"
	case strings.HasPrefix(line, "keyturn keys list"):
		return line + "; KID=$(keyturn keys status --json | sed -nE 's/^  \"current\": \"([^\"]*)\".*/\\1/p'); test -n " +
			"\"$KID\""
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

// The README's table of settings is that of the program.
func TestReadmeListsEverySetting(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|(.*?)\\| (.*?) \\|$").FindAllStringSubmatch(string(readme), -1)
	if len(rows) != len(settings) {
		t.Errorf("%d rows, %d settings", len(rows), len(settings))
	}
	for i, s := range settings {
		if i >= len(rows) || rows[i][1] != s.key {
			t.Fatalf("row %d is not %s", i, s.key)
		}
		if plain := strings.Trim(rows[i][2], "` "); s.standard != "" && s.standard != "0" && plain != s.standard {
			t.Errorf("%s: default %q, in the README %q", s.key, s.standard, plain)
		}
	}
}

// The console blocks are for machines of their own. `make test` is what runs this test; the other is run here
// on a PostgreSQL of the tests.
func TestReadmeOnPostgres(t *testing.T) {
	databaseURL := storagetest.PostgresURL(t)
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range consoleBlock.FindAllStringSubmatch(string(readme), -1) {
		if block[1] == "make test\n" {
			continue
		}
		text := strings.NewReplacer("postgres://keyturn:PASSWORD@db.example.com/keyturn?sslmode=verify-full", databaseURL,
			"0.0.0.0", "127.0.0.1", "\\\n", " ").Replace(block[1])
		text = strings.TrimRight(text, "\n") + " & server=$!; ready; stop\n"
		runAsReader(t, readmePrelude+text)
	}
}
