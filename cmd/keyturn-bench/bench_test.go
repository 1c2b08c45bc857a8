package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/storage/storagetest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-bare" { // the bench starts itself as the bare server
		fmt.Fprintln(os.Stderr, serveBare())
		os.Exit(1)
	}
	if folder := storagetest.InMemory(); folder != "" {
		os.Setenv("TMPDIR", folder) // the test measures nothing that counts
	}
	storagetest.Main(m)
}

// OpenSSL takes two seconds, which the short run does not wait for.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	sign, verify, err := openssl(t.Context(), 2048)
	if err != nil || sign <= 0 || verify <= sign {
		t.Errorf("%v signatures and %v verifications a second, %v", sign, verify, err)
	}
}

// A short run measures every row of the table of targets, and fails at any wrong response.
func TestBench(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "keyturn")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", program, "../keyturn") // linked in half the time
	build.Env = append(os.Environ(), "CGO_ENABLED=0")                                   // as make check has compiled it
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	o := options{
		server:  program,
		rounds:  1,
		slice:   50 * time.Millisecond,
		grants:  2000,
		workers: 8,
		only:    regexp.MustCompile(""),
		sizes: sizes{
			refreshed: 200,
			revoked:   500,
			few:       16,
			people:    4,
			starts:    1,
		},
	}
	b, err := newBench(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	b.repeats = 0 // other tests disturb it
	if err := b.measureAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	b.print(&out, runSections)
	for _, s := range runSections {
		if s.name != "allocations" && s.text(&b.figures) == "" {
			t.Errorf("no figures for the section %s", s.name)
		}
	}
	for _, target := range targets {
		samples := b.samples[target.name]
		if len(samples) != 1 || samples[0].Server <= 0 || samples[0].Rate <= 0 ||
			!strings.Contains(out.String(), "| "+target.name+" ") {
			t.Errorf("%s: %+v", target.name, samples)
		}
	}
	for _, name := range []string{"idle memory, sqlite", "p99 of introspection", "p99 of a refresh", "bytes a grant",
		"growth with 20 refreshes", "rewrite their row in place", "3 replica(s)", "clean-up of a grant"} {
		if !strings.Contains(out.String(), name) {
			t.Errorf("no figure for %q in\n%s", name, out.String())
		}
	}
	if err := b.measureGrowth(t.Context(), []int{64, 128, 256}); err != nil {
		t.Fatal(err)
	}
	if text := b.growthText(); !strings.Contains(text, "| 100 million |") {
		t.Error(text)
	}
	if postgres := b.samples["refresh, postgres"][0]; postgres.Database <= 0 {
		t.Error("PostgreSQL cost nothing")
	}
}
