package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage/storagetest"
)

// A rewrap that is killed, over and over, at another moment each time, is finished by the last run of the same command.
func TestRewrapKilled(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		folder := t.TempDir()
		write := func(name, digit string) string {
			path := filepath.Join(folder, name)
			if err := os.WriteFile(path, []byte(strings.Repeat(digit, 64)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}
		master := write("master.key", "a")
		keyturn := func(args ...string) *exec.Cmd {
			c := exec.Command(os.Args[0], args...)
			c.Args[0] = "keyturn"
			c.Env = append(storagetest.Environ(), "KEYTURN_DATABASE="+databaseURL, "KEYTURN_MASTER_KEY_FILE="+master)
			c.Stderr = &bytes.Buffer{}
			return c
		}
		if out, err := keyturn("migrate", "up").Output(); err != nil {
			t.Fatal(err, string(out))
		}
		if out, err := keyturn("keys", "rotate", "--force", "--reason", "test").Output(); err != nil {
			t.Fatal(err, string(out))
		}
		began := time.Now()
		if out, err := keyturn("keys", "list").Output(); err != nil {
			t.Fatal(err, string(out))
		}
		start := time.Since(began) // most of a run goes by before there is anything to interrupt
		kills := 0
		for n, digit := range strings.Split("bcdef", "") {
			next := write("next.key", digit)
			rewrap := func() *exec.Cmd {
				return keyturn("keys", "rewrap", "--new-master-key-file", next, "--reason", "test", "--json")
			}
			for pause := start/3 + start*time.Duration(n)/50; ; pause += start / 12 {
				c := rewrap()
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
				time.AfterFunc(pause, func() { c.Process.Kill() })
				if c.Wait() == nil {
					break
				}
				kills++
			}
			if kills <= n { // the machine was busy when the start was measured
				start = start * 2 / 3
			}
			out, err := rewrap().Output()
			var done struct {
				Left *int `json:"left"`
			}
			if err := json.Unmarshal(out, &done); err != nil {
				t.Fatal(err, string(out))
			}
			if err != nil ||
				done.Left == nil ||
				*done.Left != 0 {
				t.Errorf("%s, %v", out, err)
			}
			if err := os.Rename(next, master); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := keyturn("keys", "status", "--check").Output(); err != nil {
			t.Error(err, string(out))
		}
		if kills < 3 {
			t.Errorf("killed only %d times", kills)
		}
	})
}
