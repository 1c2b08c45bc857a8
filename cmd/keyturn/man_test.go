package main

import (
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

var manFolder = flag.String("man", "", "write the manual pages into this folder")

// Each command that people see has a manual page. The date of the pages is that of SOURCE_DATE_EPOCH.
func TestManPages(t *testing.T) {
	folder := *manFolder
	if folder == "" {
		folder = t.TempDir()
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	a := &app{
		streams: &streams{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard},
		sources: sources{getenv: func(string) string { return "" }},
	}
	root := a.root()
	root.DisableAutoGenTag = true // it names the day on which the pages were made
	header := doc.GenManHeader{Title: "KEYTURN", Section: "1", Source: "keyturn", Manual: "keyturn"}
	if err := doc.GenManTree(root, &header, folder); err != nil {
		t.Fatal(err)
	}
	pages := 0
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		if c.IsAvailableCommand() || c == root {
			pages++
			name := strings.ReplaceAll(c.CommandPath(), " ", "-") + ".1"
			page, err := os.ReadFile(filepath.Join(folder, name))
			if err != nil || !strings.Contains(string(page), ".SH SYNOPSIS") || c.Short == "" {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, child := range c.Commands() {
			check(child)
		}
	}
	check(root)
	if pages < 50 {
		t.Errorf("only %d pages", pages)
	}
}
