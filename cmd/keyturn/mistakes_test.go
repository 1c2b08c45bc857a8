package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/storage/storagetest"
)

// mistake is a row of docs/mistakes.md.
type mistake struct {
	command string
	exit    int
	answer  *regexp.Regexp
}

func mistakes(t *testing.T) (all []mistake) {
	t.Helper()
	text, err := os.ReadFile("../../docs/mistakes.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `(.*)` \\| ([0-9]+) \\| (.*) \\|$").FindAllStringSubmatch(string(text), -1)
	for _, row := range rows {
		exit, _ := strconv.Atoi(row[2])
		answer := strings.ReplaceAll(regexp.QuoteMeta(row[3]), "…", ".*")
		all = append(all, mistake{strings.ReplaceAll(row[1], `\|`, "|"), exit, regexp.MustCompile(answer)})
	}
	return all
}

const mistakesPrelude = `set -e
keyturn client create app --grant password --grant refresh_token --scope "read write" --audience https://api.example.com
keyturn client create api --resource https://api.example.com
keyturn client create spa --public --grant password --grant refresh_token --audience https://api.example.com
keyturn client create kept --grant password --audience https://api.example.com
keyturn client rotate-secret kept
echo correct horse battery staple | keyturn user create alice --password-stdin --role admin
SECRET=$(keyturn client rotate-secret app --keep 0 --json | jq -r .client_secret)
keyturn serve --issuer http://$KEYTURN_LISTEN &
until curl -sf http://$KEYTURN_LISTEN/readyz; do sleep 0.05; done
curl -sf -u app:$SECRET -d grant_type=password -d username=alice -d "password=correct horse battery staple" \
	http://$KEYTURN_LISTEN/token
kill -INT %1
wait`

// Each common mistake has the answer and the exit code that docs/mistakes.md says, and nothing internal.
func TestMistakes(t *testing.T) {
	eachURL(t, func(t *testing.T, databaseURL string) {
		all := mistakes(t)
		if len(all) < 40 {
			t.Fatalf("%d mistakes", len(all))
		}
		folder := t.TempDir()
		master := filepath.Join(folder, "master.key")
		if err := os.WriteFile(master, []byte(strings.Repeat("ab", 32)), 0o600); err != nil {
			t.Fatal(err)
		}
		env := append(environment(t), "KEYTURN_DATABASE="+databaseURL, "KEYTURN_MASTER_KEY_FILE="+master)
		run := func(script string, more ...string) (string, int) {
			shell := exec.Command("bash", "-c", script)
			shell.Dir, shell.Env = folder, append(env, more...)
			out, err := shell.CombinedOutput()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			return string(out), shell.ProcessState.ExitCode()
		}
		out, code := run(mistakesPrelude, "KEYTURN_LISTEN=127.0.0.1:"+storagetest.FreePort(t),
			"KEYTURN_ADMIN_LISTEN=127.0.0.1:"+storagetest.FreePort(t))
		if code != 0 {
			t.Fatal(out)
		}
		for _, m := range all {
			out, code := run(m.command)
			if code != m.exit || !m.answer.MatchString(out) {
				t.Errorf("%s: exit code %d, %s", m.command, code, out)
			}
			if strings.Contains(out, "panic") || strings.Contains(out, ".go:") || strings.Contains(out, "SELECT") {
				t.Errorf("%s: something internal in %s", m.command, out)
			}
		}
	})
}
