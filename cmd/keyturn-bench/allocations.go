package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// allocation is what one operation allocates on one database, as a benchmark of package server prints it.
type allocation struct {
	benchmark, database string
	bytes, count        int64
}

// benchmarks are the rows of the table, with the benchmarks in package server that measure them.
var benchmarks = []struct{ row, name string }{
	{"refresh", "Refresh"},
	{"introspection, seen before", "IntrospectionSeen"},
	{"introspection, many at once", "IntrospectionParallel"},
	{"login", "Login"},
	{"revocation", "Revocation"},
	{"JWKS", "JWKS"},
}

// measureAllocations runs the benchmarks in the working directory, which is the root of the module.
func (b *bench) measureAllocations(ctx context.Context) error {
	if !b.o.benchmarks || !b.o.only.MatchString("allocations") {
		return nil
	}
	b.say("running the benchmarks of package server")
	var names []string
	for _, row := range benchmarks {
		names = append(names, row.name)
	}
	pattern := "^Benchmark(" + strings.Join(names, "|") + ")$"
	c := exec.CommandContext(ctx, "go", "test", "./server", "-run", "^$", "-bench", pattern, "-benchmem")
	c.Env = append(os.Environ(), "KEYTURN_TEST_POSTGRES=required")
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go test ./server: %w\n%s", err, out)
	}
	b.allocations, err = parseBenchmarks(out)
	return err
}

var benchmarkLine = regexp.MustCompile(`^Benchmark(\w+)/(\w+)(?:-\d+)?\s.*\s(\d+) B/op\s+(\d+) allocs/op$`)

// parseBenchmarks reads what go test -bench prints.
func parseBenchmarks(out []byte) (all []allocation, err error) {
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		m := benchmarkLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		size, err1 := strconv.ParseInt(m[3], 10, 64)
		count, err2 := strconv.ParseInt(m[4], 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		all = append(all, allocation{m[1], m[2], size, count})
	}
	if len(all) != 2*len(benchmarks) {
		return nil, fmt.Errorf("%d benchmarks on two databases printed %d figures", len(benchmarks), len(all))
	}
	return all, nil
}

// allocationsText is the table of allocations.
func (f *figures) allocationsText() string {
	if len(f.allocations) == 0 {
		return ""
	}
	cell := func(name, database string) string {
		i := slices.IndexFunc(f.allocations, func(a allocation) bool {
			return a.benchmark == name && a.database == database
		})
		if i < 0 {
			return ""
		}
		return f.allocations[i].String()
	}
	var rows [][]string
	for _, b := range benchmarks {
		rows = append(rows, []string{b.row, cell(b.name, "sqlite"), cell(b.name, "postgres")})
	}
	return table([]string{"operation", "SQLite", "PostgreSQL"}, rows)
}

func (a allocation) String() string {
	size, unit := float64(a.bytes)/1e3, "kB"
	if size >= 1e3 {
		size, unit = size/1e3, "MB"
	}
	return fmt.Sprintf("%.0f %s, %d", size, unit, a.count)
}
