package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"
)

// bound is the target of a cost: a multiple of one limit, after another limit is subtracted.
type bound struct {
	factor float64
	unit   string // the limit
	beyond string // the limit to subtract first; "" for none
}

// target is one row of the table of targets.
type target struct {
	name             string // name of the piece
	server, database bound
}

var targets = []target{
	{"refresh, postgres", bound{1.20, "S", ""}, bound{.15, "S", ""}},
	{"refresh, sqlite", bound{1.25, "S", ""}, bound{}},
	{"introspection, seen before, postgres", bound{2.0, "H", ""}, bound{.3, "H", ""}},
	{"introspection, seen before, sqlite", bound{2.3, "H", ""}, bound{}},
	{"introspection, first sight, postgres", bound{4.5, "H", ""}, bound{.3, "H", ""}},
	{"introspection, first sight, sqlite", bound{4.8, "H", ""}, bound{}},
	{"JWKS, postgres", bound{1.1, "bare GET", ""}, bound{}},
	{"metadata, postgres", bound{1.1, "bare GET", ""}, bound{}},
	{"password login, postgres", bound{1.3, "S", "argon2id"}, bound{}},
	{"password login, sqlite", bound{1.3, "S", "argon2id"}, bound{}},
	{"revocation, postgres", bound{1.5, "H", ""}, bound{1, "durable UPDATE", ""}},
	{"revocation, sqlite", bound{1.5, "H", ""}, bound{}},
}

// cpu returns the CPU time of a limit. Computations use the time of the bare server, rows that of the database.
func (s sample) cpu() time.Duration { return cmp.Or(s.Server, s.Database) }

// ratios returns the cost as multiples of the limit, one for each round, sorted.
func (b *bench) ratios(of func(sample) time.Duration, name string, limit bound) (all []float64) {
	for i, s := range b.samples[name] {
		unit := b.samples[limit.unit]
		if i >= len(unit) {
			break
		}
		used := of(s)
		if limit.beyond != "" {
			used -= b.samples[limit.beyond][i].cpu()
		}
		all = append(all, float64(used)/float64(unit[i].cpu()))
	}
	slices.Sort(all)
	return all
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

// print writes the tables in Markdown.
func (b *bench) print(out io.Writer) {
	t := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	defer t.Flush()
	fmt.Fprintln(
		t,
		"| operation\t| server ms\t| database ms\t| server\t| at most\t| database\t| at most\t| met\t| req/s\t| p50 "+
			"ms\t| p99 ms\t|",
	)
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|")
	for _, target := range targets {
		if len(b.samples[target.name]) > 0 {
			b.printRow(t, target)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.samples)) {
		if !slices.ContainsFunc(targets, func(t target) bool { return t.name == name }) {
			b.printRow(t, target{name: name})
		}
	}
	fmt.Fprintln(t, "\n| figure\t| value\t| at most\t| met\t|")
	fmt.Fprintln(t, "|---\t|---\t|---\t|---\t|")
	for _, f := range b.facts {
		met := ""
		if f.target != "" {
			met = verdict(f.met)
		}
		fmt.Fprintf(t, "| %s\t| %s\t| %s\t| %s\t|\n", f.name, f.value, f.target, met)
	}
}

func verdict(met bool) string {
	if met {
		return "yes"
	}
	return "no"
}

func (b *bench) printRow(out io.Writer, t target) {
	s := b.samples[t.name]
	server := func(s sample) time.Duration { return s.Server }
	database := func(s sample) time.Duration { return s.Database }
	serverText, serverMost, serverMet := b.against(server, t.name, t.server)
	databaseText, databaseMost, databaseMet := b.against(database, t.name, t.database)
	met := ""
	if t.server.unit != "" {
		met = verdict(serverMet && databaseMet)
	}
	fmt.Fprintf(
		out,
		"| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %s\t| %.0f\t| %s\t| %s\t|\n",
		t.name,
		ms(medianOf(s, server)),
		ms(medianOf(s, database)),
		serverText,
		serverMost,
		databaseText,
		databaseMost,
		met,
		medianOf(s, func(s sample) float64 { return s.Rate }),
		ms(medianOf(s, func(s sample) time.Duration { return s.P50 })),
		ms(medianOf(s, func(s sample) time.Duration { return s.P99 })),
	)
}

// against formats a ratio with its range, and its bound, and reports whether the bound is met.
func (b *bench) against(of func(sample) time.Duration, name string, limit bound) (text, most string, met bool) {
	all := b.ratios(of, name, limit)
	if limit.unit == "" || len(all) == 0 {
		return "", "", true
	}
	unit, plus := limit.unit, ""
	if limit.beyond != "" {
		plus = limit.beyond + " + "
	}
	return fmt.Sprintf(
			"%s%.2f %s (%.2f–%.2f)",
			plus,
			median(all),
			unit,
			all[0],
			all[len(all)-1],
		), fmt.Sprintf(
			"%s%.2f %s",
			plus,
			limit.factor,
			unit,
		),
		median(all) <= limit.factor
}
