package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/storage/storagetest"
)

// Several first commands may run at once: one of them creates database, master key and secrets, and all use them.
func TestCommandsBeginAtOnce(t *testing.T) {
	this, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	eachURL(t, func(t *testing.T, databaseURL string) {
		for range 2 {
			own := storagetest.Another(t, databaseURL)
			env := append(storagetest.Environ(), "KEYTURN_DATABASE="+own)
			if storagetest.SQLiteFile(own) == "" {
				master := filepath.Join(t.TempDir(), "master.key")
				if err := os.WriteFile(master, []byte(strings.Repeat("ab", 32)+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				env = append(env, "KEYTURN_MASTER_KEY_FILE="+master)
			}
			var commands []*exec.Cmd
			for _, id := range []string{"a", "b", "c", "d", "e"} {
				c := exec.Command(this, "client", "create", id, "--grant", "refresh_token",
					"--audience", "https://api.example")
				c.Args[0], c.Env = "keyturn", env
				c.Stderr = &bytes.Buffer{}
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				commands = append(commands, c)
			}
			for _, c := range commands {
				if err := c.Wait(); err != nil {
					t.Errorf("%v: %v %s", c.Args, err, c.Stderr)
				}
			}
		}
	})
}
