package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
)

func (k keyCommands) timeline() *cobra.Command {
	var file string
	draw := func(ctx context.Context, op *operator, _ []string) error {
		lives := op.Keys().Lives()
		if file != "" {
			return os.WriteFile(file, timelineSVG(lives, op.Now()), 0o644)
		}
		if err := op.Keys().Intact(); err != nil {
			return fmt.Errorf("%w: `keyturn keys status` gives advice", err)
		}
		return k.print(lives, func() { k.timelineText(lives, k.liveTokens(ctx, op), op.Now()) })
	}
	cmd := k.verb(verb{
		use:   "timeline",
		short: "Draw the past and the planned future of every key",
		args:  cobra.NoArgs,
		reads: true,
		act:   draw,
	})
	cmd.Flags().StringVar(&file, "svg", "", "write an SVG picture to this file")
	return cmd
}

// phase is a period in the life of a key.
type phase struct {
	kind     string // published, signs, verifies
	from, to time.Time
}

// phases returns the periods of a life, in order.
func phases(l admin.KeyLife) []phase {
	if l.Signs == nil {
		return []phase{{"published", l.Published.At, l.Leaves.At}}
	}
	stops := l.Leaves
	if l.Stops != nil {
		stops = *l.Stops
	}
	return []phase{
		{"published", l.Published.At, l.Signs.At},
		{"signs", l.Signs.At, stops.At},
		{"verifies", stops.At, l.Leaves.At},
	}
}

// scale maps time to a line of cells or pixels.
type scale struct {
	from, to time.Time
	width    float64
}

// newScale spans all lives and now.
func newScale(lives []admin.KeyLife, now time.Time, width float64) scale {
	s := scale{from: now, to: now.Add(time.Hour), width: width}
	for _, l := range lives {
		if l.Published.At.Before(s.from) {
			s.from = l.Published.At
		}
		if l.Leaves.At.After(s.to) {
			s.to = l.Leaves.At
		}
	}
	return s
}

func (s scale) at(t time.Time) float64 {
	return s.width * float64(t.Sub(s.from)) / float64(s.to.Sub(s.from))
}

const timelineCells = 64

// timelineText draws one line for each key, and a table of its moments. tokens is nil if they were not counted.
func (k keyCommands) timelineText(lives []admin.KeyLife, tokens map[string]int64, now time.Time) {
	if len(lives) == 0 {
		fmt.Fprintln(k.stdout, "There are no signing keys yet.")
		return
	}
	k.timelineBars(lives, now)
	var rows [][]string
	for _, l := range lives {
		kid, count := l.KID, strconv.FormatInt(tokens[l.KID], 10)
		switch {
		case kid == "":
			kid, count = "(to be made)", "-"
		case tokens == nil:
			count = "?"
		}
		rows = append(rows, []string{
			keyShape(l.State),
			kid,
			k.point(&l.Published),
			k.point(l.Signs),
			k.point(l.Stops),
			k.point(&l.Leaves),
			count,
		})
	}
	k.table([]string{
		"STATE",
		"KID",
		"PUBLISHED",
		"SIGNS",
		"STOPS",
		"LEAVES JWKS",
		"LIVE TOKENS",
	}, rows)
	k.say("~ is planned")
}

// timelineBars draws one line for each key on a common scale.
func (k keyCommands) timelineBars(lives []admin.KeyLife, now time.Time) {
	s := newScale(lives, now, timelineCells)
	label := func(l admin.KeyLife) string {
		return fmt.Sprintf("%-10s %-8s ", keyShape(l.State), shortKID(l.KID))
	}
	indent := strings.Repeat(" ", len([]rune(label(lives[0]))))
	from, to := s.from.UTC().Format(time.DateOnly), s.to.UTC().Format(time.DateOnly)
	fmt.Fprintf(k.stdout, "%s%s%*s\n", indent, from, timelineCells-len(from), to)
	for _, l := range lives {
		fmt.Fprintln(k.stdout, label(l)+strings.TrimRight(bar(l, s), " "))
	}
	fmt.Fprintf(k.stdout, "%s%*s\n", indent, cell(s, now)+1, "↑")
	fmt.Fprintf(k.stdout, "%s░ published  █ signs  ▒ verifies only  ↑ now, %s\n\n",
		indent, now.UTC().Format(time.RFC3339))
}

func shortKID(kid string) string {
	if kid == "" {
		return "(future)"
	}
	return kid[:min(8, len(kid))]
}

// cell is the cell of a moment.
func cell(s scale, t time.Time) int { return min(int(s.at(t)), timelineCells-1) }

// bar draws a life. Each phase takes at least one cell, and the later phase wins.
func bar(l admin.KeyLife, s scale) string {
	cells := []rune(strings.Repeat(" ", timelineCells))
	fill := map[string]rune{"published": '░', "signs": '█', "verifies": '▒'}
	for _, p := range phases(l) {
		if !p.to.After(p.from) {
			continue
		}
		for i := cell(s, p.from); i <= cell(s, p.to); i++ {
			cells[i] = fill[p.kind]
		}
	}
	return string(cells)
}
