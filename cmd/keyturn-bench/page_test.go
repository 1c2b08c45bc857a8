package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden file")

const pagePath = "../../docs/performance.md"

func readPage(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile(pagePath)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// madeUp are figures of a run that never was: round n costs n % more than the first.
func madeUp() *figures {
	f := &figures{
		machine: machine{
			cores:   2,
			model:   "a CPU",
			golang:  "1.2",
			version: "3",
			rounds:  3,
			workers: 32,
			slice:   time.Second,
		},
		samples:  map[string][]sample{},
		noise:    []noise{{.01, .02}, {.01, .06}},
		repeated: 1,
		scale: scale{
			grant:   300,
			log:     1000,
			inPlace: 99.5,
			cleanUp: 2500 * time.Nanosecond,
		},
	}
	row := func(name string, server, database time.Duration) {
		for n := range 3 {
			s := sample{
				Server:   server + server*time.Duration(n)/100,
				Database: database,
				Rate:     100,
				P50:      time.Millisecond,
				P99:      5 * time.Millisecond,
			}
			f.samples[name] = append(f.samples[name], s)
		}
	}
	row("S", time.Millisecond, 0)
	row("argon2id", 30*time.Millisecond, 0)
	row("password login, postgres", 40*time.Millisecond, time.Millisecond)
	row("refresh, postgres", 2*time.Millisecond, time.Millisecond)
	row("refresh, large", 3*time.Millisecond, 2*time.Millisecond)
	row("refresh, "+opensslBuild, time.Millisecond, 0)
	for i, n := range growthSizes {
		x := float64(i)
		f.growth = append(f.growth, grown{
			grants:  n,
			bytes:   300 + x,
			levels:  3 + x,
			refresh: 1 + x/10,
			seen:    1,
			first:   1 + x/5,
			cleanUp: 2 + x,
			note:    "refreshes: 1.00",
		})
	}
	row("refresh, fosite", 3*time.Millisecond, 0)
	f.peers = []peerRow{
		{peer: peer{name: "keyturn on PostgreSQL", hash: argon2id}},
		{peer: peer{name: "keyturn on SQLite", hash: argon2id}},
		{peer: peers[0], peak: 7 * mib},
	}
	f.threads = []int{9, 10}
	f.note("a figure", "10 ms", true, "%d ms", 9)
	f.note("a figure without a target", "", true, "%d bytes", 7)
	for i, b := range benchmarks {
		f.allocations = append(
			f.allocations,
			allocation{b.name, "sqlite", int64(i+1) * 900_000, int64(i)},
			allocation{b.name, "postgres", int64(i+1) * 800_000, int64(i)},
		)
	}
	return f
}

func allSections() []section {
	return slices.Concat(runSections, buildSections, growthSections, peerSections)
}

func mustFill(t *testing.T, f *figures, page string, sections []section) string {
	t.Helper()
	filled, err := f.fill(page, sections)
	if err != nil {
		t.Fatal(err)
	}
	return filled
}

func TestFillGolden(t *testing.T) {
	t.Parallel()
	var empty strings.Builder
	for _, s := range allSections() {
		fmt.Fprintf(&empty, "# Before %s\n\n%s\n\nAfter it.\n\n", s.name, markers(s.name, "old\n"))
	}
	got := mustFill(t, madeUp(), empty.String(), allSections())
	golden := filepath.Join("testdata", "page.md")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("-want +got; run with -update to accept:\n%s", diff)
	}
}

// The page has exactly the sections that the program writes, and writing changes nothing else.
func TestPage(t *testing.T) {
	t.Parallel()
	page := readPage(t)
	if err := checkMarkers(page); err != nil {
		t.Fatal(err)
	}
	once := mustFill(t, madeUp(), page, allSections())
	if twice := mustFill(t, madeUp(), once, allSections()); twice != once {
		t.Errorf("writing twice changes the page:\n%s", cmp.Diff(once, twice))
	}
	const blank = "<!-- figures: $1 -->\n<!-- end -->"
	if diff := cmp.Diff(marked.ReplaceAllString(page, blank), marked.ReplaceAllString(once, blank)); diff != "" {
		t.Errorf("writing changes the page outside the markers:\n%s", diff)
	}
	builds := mustFill(t, madeUp(), page, slices.Concat(buildSections, growthSections, peerSections))
	if again := mustFill(t, madeUp(), builds, runSections); builds == page || again != once {
		t.Error("the two runs do not write different sections")
	}
}

func TestFillRefuses(t *testing.T) {
	t.Parallel()
	page := readPage(t)
	first := markers("machine", runSections[0].text(madeUp()))
	for name, wrong := range map[string]string{
		"unknown section":  page + markers("unknown", "") + "\n",
		"section twice":    page + first + "\n",
		"no end":           strings.Replace(page, "<!-- end -->", "", 1),
		"no start":         strings.Replace(page, "<!-- figures: sizing -->", "", 1),
		"missing section":  marked.ReplaceAllString(page, ""),
		"last has no end":  page + "<!-- figures: machine -->\n",
		"marker in a line": page + "text <!-- end -->\n",
	} {
		if _, err := madeUp().fill(wrong, allSections()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := new(figures).fill(page, runSections); err == nil || !strings.Contains(err.Error(), `"sizing"`) {
		t.Errorf("a run without figures: %v", err)
	}
}

func TestPageNeedsAllFigures(t *testing.T) {
	t.Parallel()
	for _, o := range []options{
		{page: pagePath, only: regexp.MustCompile(""), grants: 0},
		{page: pagePath, only: regexp.MustCompile("refresh"), grants: 1},
		{
			page:    pagePath,
			only:    regexp.MustCompile(""),
			grants:  1,
			against: "other",
		},
	} {
		if o.check() == nil {
			t.Errorf("%+v: no error", o)
		}
	}
	if err := (options{page: pagePath, only: regexp.MustCompile(""), grants: 1}).check(); err != nil {
		t.Error(err)
	}
}

// No measured figure stands in the prose, where it would contradict the tables after the next run. Sizes in MiB are
// settings.
func TestProseHasNoFigures(t *testing.T) {
	t.Parallel()
	prose := marked.ReplaceAllString(readPage(t), "")
	figure := regexp.MustCompile(`[\d.]+\s*(ms|µs|bytes|kB|MB|GB|[SHV]|%)\b|\d\.\d|\d+ (times|million)`)
	if found := figure.FindAllString(prose, -1); len(found) > 0 {
		t.Errorf("figures outside the markers: %q", found)
	}
}

// The sizing uses the prices of the tables on the same page.
func TestSizingFollowsTables(t *testing.T) {
	t.Parallel()
	texts := map[string]string{}
	for _, m := range marked.FindAllStringSubmatch(readPage(t), -1) {
		texts[m[1]] = m[2]
	}
	tables := texts["operations"] + texts["others"]
	p := prices{
		scale: scale{
			grant:   int64(cell(t, tables, "bytes a grant, of 5000000, indexes and all", 0)),
			log:     int64(cell(t, tables, "log of PostgreSQL a refresh, right after a checkpoint", 0)),
			inPlace: cell(t, tables, "refreshes that rewrite their row in place (HOT)", 0),
			cleanUp: inMS(cell(t, tables, "clean-up of a grant, CPU of the database", 0)),
		},
		replica:   inMS(cell(t, tables, "refresh, large", 0)),
		postgres:  inMS(cell(t, tables, "refresh, large", 1)),
		signature: inMS(cell(t, tables, "S", 0)),
	}
	if diff := cmp.Diff(p.sizing(), texts["sizing"]); diff != "" {
		t.Errorf("-of the tables +of the page:\n%s", diff)
	}
}

// cell returns the number at the start of a cell of the row of this name.
func cell(t *testing.T, tables, name string, column int) float64 {
	t.Helper()
	_, rest, ok := strings.Cut(tables, "\n| "+name+" | ")
	if !ok {
		t.Fatalf("no row %q", name)
	}
	number, _, _ := strings.Cut(strings.Split(rest, " | ")[column], " ")
	value, err := strconv.ParseFloat(number, 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func inMS(value float64) time.Duration { return time.Duration(value*1e6 + 0.5) }

func TestSizingRow(t *testing.T) {
	t.Parallel()
	p := prices{
		scale:    scale{grant: 325, log: 1302},
		replica:  1234 * time.Microsecond,
		postgres: 251 * time.Microsecond,
	}
	want := []string{
		"100 million",
		"32 GB", // 1e8 * 325, and a tie goes to the even digit
		"4600, peak 19000",
		"5.7, peak 23",
		"1.2, peak 4.6",
		"6, peak 24",
	}
	if diff := cmp.Diff(want, p.sizingRow(100)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestParseBenchmarks(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	for i, b := range benchmarks {
		fmt.Fprintf(&out, "Benchmark%s/sqlite-2 \t 900\t  1234.5 ns/op\t   %d B/op\t  %d allocs/op\n", b.name, 900+i, i)
		fmt.Fprintf(&out, "Benchmark%s/postgres \t 900\t  1234 ns/op\t   %d B/op\t  %d allocs/op\n", b.name, 800+i, i)
	}
	all, err := parseBenchmarks([]byte("goos: linux\n" + out.String() + "PASS\nok  \tserver\t1.2s\n"))
	if err != nil || len(all) != 12 || all[2] != (allocation{"IntrospectionSeen", "sqlite", 901, 1}) {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := parseBenchmarks([]byte("PASS\n")); err == nil {
		t.Error("no figures, no error")
	}
	source, err := os.ReadFile("../../server/bench_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range benchmarks {
		if !strings.Contains(string(source), "func Benchmark"+b.name+"(") {
			t.Errorf("package server has no benchmark %s", b.name)
		}
	}
}

// Of several builds each is first in some rounds, and each operation still follows the one that makes its tokens.
func TestAlternate(t *testing.T) {
	t.Parallel()
	names := func(pieces []piece) (all []string) {
		for _, p := range pieces {
			all = append(all, p.name)
		}
		return all
	}
	forward, backward := alternate([][]piece{{{name: "a1"}, {name: "a2"}}, {{name: "b1"}, {name: "b2"}}})
	if got := strings.Join(names(forward), " "); got != "a1 b1 a2 b2" {
		t.Error(got)
	}
	if got := strings.Join(names(backward), " "); got != "b1 a1 b2 a2" {
		t.Error(got)
	}
}

// The grants of two programs on one database do not overlap.
func TestShare(t *testing.T) {
	t.Parallel()
	s := &site{grants: 10, revokeAt: 10, revocable: 100}
	other := s.share("other")[0]
	if s.offset+s.grants != other.offset || other.offset+other.grants != s.revokeAt {
		t.Errorf("refreshes: %+v, %+v", s, other)
	}
	if s.revokeAt+s.revocable != other.revokeAt || other.revokeAt+other.revocable != 110 {
		t.Errorf("revocations: %+v, %+v", s, other)
	}
}

func TestAgainst(t *testing.T) {
	t.Parallel()
	f := madeUp()
	got := f.againstText(opensslBuild)
	const want = `| operation | usual ms | other ms | server | server and database |
|---|---|---|---|---|
| refresh | 3.020 | 1.010 | 0.50 (0.50–0.50) | 0.33 (0.33–0.34) |
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
