package main

import (
	"bufio"
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// figures are the results of a run. Every section of the page is a pure function of them.
type figures struct {
	machine     machine
	samples     map[string][]sample
	facts       []fact
	allocations []allocation
	scale       scale
	growth      growth
	peers       []peerRow
	threads     []int   // of the builds, after the load
	noise       []noise // of the rounds that count
	repeated    int     // rounds
}

// sample is the result of one measurement.
type sample struct {
	Server, Database time.Duration // CPU time per request
	Rate             float64       // requests a second
	P50, P99         time.Duration
}

// cpu returns the CPU time of a limit. Computations use the time of the bare server, rows that of the database.
func (s sample) cpu() time.Duration { return cmp.Or(s.Server, s.Database) }

func serverTime(s sample) time.Duration { return s.Server }

func databaseTime(s sample) time.Duration { return s.Database }

func totalTime(s sample) time.Duration { return s.Server + s.Database }

// fact is one figure of the second table, which is not relative to a limit.
type fact struct {
	name, value, target string
	met                 bool
}

// note adds a figure to the second table.
func (f *figures) note(name, target string, met bool, format string, args ...any) {
	f.facts = append(f.facts, fact{name, fmt.Sprintf(format, args...), target, met})
}

// machine describes where and how the bench ran.
type machine struct {
	cores                  int
	model, golang, version string // of the CPU, of Go, of PostgreSQL
	rounds, workers        int
	slice                  time.Duration
}

func (f *figures) machineText() string {
	m := f.machine
	if m.cores == 0 {
		return ""
	}
	return fmt.Sprintf(
		"Measured on %d cores (%s) with Go %s and PostgreSQL %s: %d rounds of %d ms for each row, %d requests in "+
			"flight.\n%s",
		m.cores,
		m.model,
		m.golang,
		m.version,
		m.rounds,
		m.slice.Milliseconds(),
		m.workers,
		f.noiseText(),
	)
}

// describeMachine notes the machine of the run.
func (b *bench) describeMachine(ctx context.Context) error {
	raw, err := sql.Open("postgres", b.postgres.database)
	if err != nil {
		return err
	}
	defer raw.Close()
	var version string
	if err := raw.QueryRowContext(ctx, `SHOW server_version`).Scan(&version); err != nil {
		return err
	}
	version, _, _ = strings.Cut(version, " ") // the rest names the distribution
	b.machine = machine{
		cores:   runtime.NumCPU(),
		model:   cpuModel(),
		golang:  strings.TrimPrefix(runtime.Version(), "go"),
		version: version,
		rounds:  b.o.rounds,
		workers: b.o.workers,
		slice:   b.o.slice,
	}
	return nil
}

func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, model, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return runtime.GOARCH
}

// othersText is the second table.
func (f *figures) othersText() string {
	if len(f.facts) == 0 {
		return ""
	}
	var rows [][]string
	for _, fact := range f.facts {
		met := ""
		if fact.target != "" {
			met = verdict(fact.met)
		}
		rows = append(rows, []string{fact.name, fact.value, fact.target, met})
	}
	return table([]string{"figure", "value", "at most", "met"}, rows)
}

func verdict(met bool) string {
	if met {
		return "yes"
	}
	return "no"
}

// pairs divides the cost of each round by the cost of another row in the same round, and sorts the ratios.
func (f *figures) pairs(name, other string, of func(sample) time.Duration) (all []float64) {
	others := f.samples[other]
	for i, s := range f.samples[name] {
		if i < len(others) && of(others[i]) > 0 {
			all = append(all, float64(of(s))/float64(of(others[i])))
		}
	}
	slices.Sort(all)
	return all
}

// spread formats the median of sorted ratios with their range.
func spread(ratios []float64) string {
	if len(ratios) == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f (%.2f–%.2f)", median(ratios), ratios[0], ratios[len(ratios)-1])
}

func median[T cmp.Ordered](all []T) (m T) {
	if len(all) > 0 {
		slices.Sort(all)
		m = all[len(all)/2]
	}
	return m
}

func medianOf[T cmp.Ordered](samples []sample, of func(sample) T) T {
	var all []T
	for _, s := range samples {
		all = append(all, of(s))
	}
	return median(all)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()*1000) }
