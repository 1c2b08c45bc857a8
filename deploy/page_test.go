//go:build deploy

package deploy_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The page has the tables as `make deploy-run` prints them.
func TestTablesOnThePage(t *testing.T) {
	text, err := os.ReadFile("../docs/deployments.md")
	must(t, err)
	for _, header := range [][]string{columns, failures, upgrades} {
		if line := "\n| " + strings.Join(header, " | ") + " |\n"; !strings.Contains(string(text), line) {
			t.Errorf("docs/deployments.md has no table with the header%s", line)
		}
	}
}

// pageBlocks returns the blocks of commands of a section of docs/deployments.md: what a person would type.
func pageBlocks(t *testing.T, section string) []string {
	t.Helper()
	text, err := os.ReadFile("../docs/deployments.md")
	must(t, err)
	_, rest, found := strings.Cut(string(text), "\n## "+section)
	if !found {
		t.Fatalf("docs/deployments.md has no section %q", section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^```console\n(.*?)^```$").FindAllStringSubmatch(rest, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// commands are the commands of a block, each on one line.
func commands(block string) []string {
	joined := regexp.MustCompile(`\\\n *`).ReplaceAllString(block, "")
	return strings.Split(strings.TrimSpace(joined), "\n")
}

// pageCommands returns the commands of a section that begin so.
func pageCommands(t *testing.T, section, begin string) (hits []string) {
	t.Helper()
	for _, block := range pageBlocks(t, section) {
		for _, command := range commands(block) {
			if strings.HasPrefix(command, begin) {
				hits = append(hits, command)
			}
		}
	}
	if len(hits) == 0 {
		t.Fatalf("docs/deployments.md, %s: no command begins with %q", section, begin)
	}
	return hits
}
