package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keyturn/keyturn/server/servertest"
)

// A rewrap that is killed, again and again, at another moment each time, is completed by the last run of the command.
func TestRewrapKilled(t *testing.T) {
	eachURL(t, func(t *testing.T, databaseURL string) {
		p := newProcess(t, databaseURL)
		p.must("", "migrate", "up")
		p.must("", "keys", "rotate", "--force", "--reason", "test")
		began := time.Now()
		p.must("", "keys", "list")
		start := time.Since(began) // most of a run passes before there is anything to interrupt
		kills := 0
		for n := range servertest.Times(3, 10) {
			next := filepath.Join(t.TempDir(), "next.key")
			if err := os.WriteFile(next, fmt.Appendf(nil, "%064x\n", n+1), 0o600); err != nil {
				t.Fatal(err)
			}
			rewrap := []string{"keys", "rewrap", "--new-master-key-file", next, "--reason", "test", "--json"}
			kills += p.killOften(start, start/3+start*time.Duration(n)/50, rewrap)
			if kills <= n { // the machine was busy when start was measured
				start = start * 2 / 3
			}
			var done struct {
				Left *int `json:"left"`
			}
			out := p.must("", rewrap...)
			if err := json.Unmarshal([]byte(out), &done); err != nil ||
				done.Left == nil ||
				*done.Left != 0 {
				t.Errorf("%s, %v", out, err)
			}
			if err := os.Rename(next, p.master); err != nil {
				t.Fatal(err)
			}
		}
		p.must("", "keys", "status", "--check")
		if kills < 3 {
			t.Errorf("killed only %d times", kills)
		}
	})
}

// killOften runs a command and kills it after a pause, which grows each time, until a run ends before its kill. It
// returns the number of kills.
func (p *process) killOften(start, pause time.Duration, args []string) (kills int) {
	p.t.Helper()
	for ; ; pause += start / 12 {
		c := p.command(args...)
		if err := c.Start(); err != nil {
			p.t.Fatal(err)
		}
		time.AfterFunc(pause, func() { c.Process.Kill() })
		if c.Wait() == nil {
			return kills
		}
		kills++
	}
}
