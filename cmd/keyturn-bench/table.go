package main

import (
	"fmt"
	"maps"
	"slices"
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

// ratios returns the cost as multiples of the limit, one for each round, sorted.
func (f *figures) ratios(of func(sample) time.Duration, name string, limit bound) (all []float64) {
	for i, s := range f.samples[name] {
		unit, beyond := f.samples[limit.unit], f.samples[limit.beyond]
		if i >= len(unit) || limit.beyond != "" && i >= len(beyond) {
			break
		}
		used := of(s)
		if limit.beyond != "" {
			used -= beyond[i].cpu()
		}
		all = append(all, float64(used)/float64(unit[i].cpu()))
	}
	slices.Sort(all)
	return all
}

// operationsText is the first table: the targets, then all other rows.
func (f *figures) operationsText() string {
	var rows [][]string
	for _, t := range targets {
		if len(f.samples[t.name]) > 0 {
			rows = append(rows, f.operationRow(t))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.samples)) {
		if !slices.ContainsFunc(targets, func(t target) bool { return t.name == name }) {
			rows = append(rows, f.operationRow(target{name: name}))
		}
	}
	if len(rows) == 0 {
		return ""
	}
	return table(
		[]string{
			"operation",
			"server ms",
			"database ms",
			"server",
			"at most",
			"database",
			"at most",
			"met",
			"req/s",
			"p50 ms",
			"p99 ms",
		},
		rows,
	)
}

func (f *figures) operationRow(t target) []string {
	s := f.samples[t.name]
	serverText, serverMost, serverMet := f.against(serverTime, t.name, t.server)
	databaseText, databaseMost, databaseMet := f.against(databaseTime, t.name, t.database)
	met := ""
	if t.server.unit != "" {
		met = verdict(serverMet && databaseMet)
	}
	return []string{
		t.name,
		ms(medianOf(s, serverTime)),
		ms(medianOf(s, databaseTime)),
		serverText,
		serverMost,
		databaseText,
		databaseMost,
		met,
		fmt.Sprintf("%.0f", medianOf(s, func(s sample) float64 { return s.Rate })),
		ms(medianOf(s, func(s sample) time.Duration { return s.P50 })),
		ms(medianOf(s, func(s sample) time.Duration { return s.P99 })),
	}
}

// against formats a ratio with its range, and its bound, and reports whether the bound is met.
func (f *figures) against(of func(sample) time.Duration, name string, limit bound) (text, most string, met bool) {
	all := f.ratios(of, name, limit)
	if limit.unit == "" || len(all) == 0 {
		return "", "", true
	}
	unit, plus := limit.unit, ""
	if limit.beyond != "" {
		plus = limit.beyond + " + "
	}
	middle := median(all)
	text = fmt.Sprintf("%s%.2f %s (%.2f–%.2f)", plus, middle, unit, all[0], all[len(all)-1])
	return text, fmt.Sprintf("%s%.2f %s", plus, limit.factor, unit), middle <= limit.factor
}
