package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage/storagetest"
)

// transcript is a command of a page with what it prints. … stands for any text.
type transcript struct{ command, output string }

// transcripts reads the blocks of a page: a line that begins with $ is a command.
func transcripts(t *testing.T, file string) (all []transcript) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(block[1]) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				all = append(all, transcript{command: strings.TrimSuffix(command, "\n")})
			} else {
				all[len(all)-1].output += line
			}
		}
	}
	return all
}

// matches reports whether what was printed is the output of the page.
func (c transcript) matches(printed string) bool {
	pattern := strings.ReplaceAll(regexp.QuoteMeta(c.output), "…", "(?s:.*)")
	return regexp.MustCompile("^" + pattern + "$").MatchString(printed)
}

// The first hour of four people, as docs/first-hour.md has it, in one shell.
func TestFirstHour(t *testing.T) {
	t.Parallel()
	const mark = "=== command "
	page := transcripts(t, "../../docs/first-hour.md")
	script := "set -m\n" // with job control a background command gets signals
	for i, c := range page {
		script += fmt.Sprintf("echo '%s%d'\n%s\n", mark, i, c.command)
	}
	shell := exec.Command("bash", "-c", "exec 2>&1\n"+script)
	shell.Dir = t.TempDir()
	shell.Env = append(environment(t), "PORT="+storagetest.FreePort(t), "ADMIN_PORT="+storagetest.FreePort(t))
	killed := time.AfterFunc(2*time.Minute, func() { shell.Process.Kill() })
	defer killed.Stop()
	out, err := shell.Output()
	if err != nil {
		t.Errorf("the shell: %v", err)
	}
	printed := strings.Split(string(out), mark)[1:]
	if len(printed) != len(page) {
		t.Fatalf("%d of %d commands ran:\n%s", len(printed), len(page), out)
	}
	jobs := regexp.MustCompile(`(?m)^\[\d+\].*\n`) // what the shell says of its jobs
	for i, c := range page {
		_, text, _ := strings.Cut(printed[i], "\n")
		if text = jobs.ReplaceAllString(text, ""); !c.matches(text) {
			t.Errorf("$ %s\nprints\n%s\nand not\n%s", c.command, text, c.output)
		}
	}
}
