package main

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"strings"
	"time"
)

// growth is what databases of several sizes cost, smallest first.
type growth []grown

// grown is one database of some size. A ratio is the CPU time of server and database, relative to the smallest one.
type grown struct {
	grants               int
	bytes                float64 // of a grant, with indexes
	levels               float64 // of the index of the id
	refresh, seen, first float64 // ratios
	cleanUp              float64 // CPU of the database for a grant, in microseconds
	note                 string
}

// growthTarget is the number of grants that the costs are extrapolated to.
const growthTarget = 100_000_000

// growthColumns are the heads of the columns.
var growthColumns = []string{"bytes a grant", "index levels", "refresh", "introspection, seen before",
	"introspection, first sight", "clean-up of a grant, µs"}

// columns are the figures of a row that may grow, in the order of growthColumns.
func (g *grown) columns() []*float64 {
	return []*float64{&g.bytes, &g.levels, &g.refresh, &g.seen, &g.first, &g.cleanUp}
}

// measureGrowth fills databases of several sizes and measures them in turns.
func (b *bench) measureGrowth(ctx context.Context, sizes []int) error {
	if err := b.describeMachine(ctx); err != nil {
		return err
	}
	var sites []*site
	var pieces [][]piece
	for _, n := range sizes {
		began := time.Now()
		s, err := b.postgresSite(ctx, fmt.Sprintf("of_%d", n), n, 0)
		if s != nil {
			b.others = append(b.others, s)
		}
		if err != nil {
			return err
		}
		b.say("%d grants were written in %v", n, time.Since(began).Round(time.Second))
		sites, pieces = append(sites, s), append(pieces, b.operations(s)[:3])
	}
	if err := b.warm(sites...); err != nil {
		return err
	}
	forward, backward := alternate(pieces)
	if err := b.rounds(b.o.rounds, forward, backward); err != nil {
		return err
	}
	for _, s := range sites {
		g, err := b.grownSite(s, sites[0])
		if err != nil {
			return err
		}
		b.growth = append(b.growth, g)
	}
	return nil
}

// grownSite returns the figures of one database.
func (b *bench) grownSite(s, smallest *site) (grown, error) {
	raw, err := sql.Open("postgres", s.database)
	if err != nil {
		return grown{}, err
	}
	defer raw.Close()
	size, err := sizeOfGrants(raw)
	if err != nil {
		return grown{}, err
	}
	g := grown{grants: s.grants, bytes: float64(size) / float64(s.grants)}
	if _, err := raw.Exec(`CREATE EXTENSION IF NOT EXISTS pgstattuple`); err != nil {
		return grown{}, err
	}
	err = raw.QueryRow(`SELECT bt.tree_level + 1 FROM pg_index i, LATERAL pgstatindex(i.indexrelid::regclass) bt
		WHERE i.indrelid = 'grants'::regclass AND i.indisprimary`).Scan(&g.levels)
	if err != nil {
		return grown{}, err
	}
	ratios := func(name string) []float64 { return b.pairs(name+", "+s.name, name+", "+smallest.name, totalTime) }
	refresh := ratios("refresh")
	g.refresh, g.note = median(refresh), "refreshes: "+spread(refresh)
	g.seen = median(ratios("introspection, seen before"))
	g.first = median(ratios("introspection, first sight"))
	cleanUp, err := b.cleanUp(raw)
	g.cleanUp = float64(cleanUp) / float64(time.Microsecond)
	return g, err
}

// predict extrapolates from two rows to more grants: a cost that grows, grows with the logarithm of their number.
func predict(smaller, larger grown, grants int) grown {
	p := grown{grants: grants}
	log := func(of, from int) float64 { return math.Log(float64(of) / float64(from)) }
	steps := log(grants, larger.grants) / log(larger.grants, smaller.grants)
	from, to := smaller.columns(), larger.columns()
	for i, column := range p.columns() {
		*column = *to[i] + (*to[i]-*from[i])*steps
	}
	return p
}

// growthText is the table of growth. Its last rows are predicted: the largest measured size from the two before it,
// which shows the error, and growthTarget.
func (f *figures) growthText() string {
	n := len(f.growth)
	if n < 3 {
		return ""
	}
	check := predict(f.growth[n-3], f.growth[n-2], f.growth[n-1].grants)
	check.note = "predicted from the two before"
	far := predict(f.growth[n-2], f.growth[n-1], growthTarget)
	far.note = "extrapolated"
	var rows [][]string
	for _, g := range append(append(growth{}, f.growth...), check, far) {
		rows = append(rows, g.row())
	}
	var errors []string
	for i, column := range check.columns() {
		off := 100 * (*column / *f.growth[n-1].columns()[i] - 1)
		errors = append(errors, fmt.Sprintf("%s %+.0f %%", growthColumns[i], off))
	}
	head := append(append([]string{"grants"}, growthColumns...), "")
	return table(head, rows) +
		fmt.Sprintf("\nThe prediction is off by: %s.\n%s", strings.Join(errors, ", "), f.noiseText())
}

func (g grown) row() []string {
	return []string{
		rounded(float64(g.grants)/1e6) + " million",
		fmt.Sprintf("%.0f", g.bytes),
		fmt.Sprintf("%.1f", g.levels),
		fmt.Sprintf("%.2f", g.refresh),
		fmt.Sprintf("%.2f", g.seen),
		fmt.Sprintf("%.2f", g.first),
		fmt.Sprintf("%.1f", g.cleanUp),
		g.note,
	}
}
