package main

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/admin"
)

func (a *app) keysTimeline() *cobra.Command {
	var file string
	c := a.keysVerb(
		"timeline",
		"Draw the past and the planned future of every key",
		cobra.NoArgs,
		func(ctx context.Context, adm *admin.Admin, _ []string) error {
			lives := adm.Keys().Lives()
			if file != "" {
				return os.WriteFile(file, timelineSVG(lives, adm.Now()), 0o644)
			}
			if err := adm.Keys().Intact(); err != nil {
				return fmt.Errorf("%w: `keyturn keys status` tells what to do", err)
			}
			return a.print(lives, func() { a.timelineText(lives, a.liveTokens(ctx, adm), adm.Now()) })
		},
	)
	c.Flags().StringVar(&file, "svg", "", "write a picture to this file")
	return c
}

// phase is one span in the life of a key.
type phase struct {
	kind     string // published, signs, verifies
	from, to time.Time
}

// phases are the spans of a life, in order.
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

// scale maps time to a line of so many cells or pixels.
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

// timelineText draws one line for each key, and below them when each changes. tokens is nil if they were not counted.
func (a *app) timelineText(lives []admin.KeyLife, tokens map[string]int64, now time.Time) {
	if len(lives) == 0 {
		fmt.Fprintln(a.stdout, "There are no signing keys yet.")
		return
	}
	s := newScale(lives, now, timelineCells)
	label := func(l admin.KeyLife) string {
		return fmt.Sprintf("%-10s %-8s ", keyShape(string(l.State)), shortKID(l.KID))
	}
	indent := strings.Repeat(" ", len([]rune(label(lives[0]))))
	from, to := s.from.UTC().Format(time.DateOnly), s.to.UTC().Format(time.DateOnly)
	fmt.Fprintf(a.stdout, "%s%s%*s\n", indent, from, timelineCells-len(from), to)
	for _, l := range lives {
		fmt.Fprintln(a.stdout, label(l)+strings.TrimRight(bar(l, s), " "))
	}
	fmt.Fprintf(a.stdout, "%s%*s\n", indent, cell(s, now)+1, "↑")
	fmt.Fprintf(a.stdout, "%s░ published  █ signs  ▒ verifies only  ↑ now, %s\n\n", indent, now.UTC().Format(time.RFC3339))
	var rows [][]string
	for _, l := range lives {
		kid, count := l.KID, strconv.FormatInt(tokens[l.KID], 10)
		switch {
		case kid == "":
			kid, count = "(to be made)", "-"
		case tokens == nil:
			count = "?"
		}
		rows = append(
			rows,
			[]string{
				keyShape(string(l.State)),
				kid,
				point(&l.Published),
				point(l.Signs),
				point(l.Stops),
				point(&l.Leaves),
				count,
			},
		)
	}
	a.table([]string{"STATE", "KID", "PUBLISHED", "SIGNS", "STOPS", "LEAVES JWKS", "LIVE TOKENS"}, rows)
	a.say("~ is planned")
}

func shortKID(kid string) string {
	if kid == "" {
		return "(future)"
	}
	return kid[:min(8, len(kid))]
}

// cell is where a moment falls.
func cell(s scale, t time.Time) int { return min(int(s.at(t)), timelineCells-1) }

// bar draws a life; each phase takes a cell at least, the later one before the earlier.
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

//go:embed timeline.svg.tmpl
var timelineSource string

var timelineTemplate = template.Must(template.New("timeline").Parse(timelineSource))

// Measures of the picture in pixels.
const (
	svgLeft  = 190
	svgPlot  = 700
	svgRight = 30
	svgTop   = 56
	svgRow   = 34
)

// svgBar, svgKey and svgTick are what the template draws.
type (
	svgBar struct{ Kind, X, Width, Title string }
	svgKey struct {
		Y, Shape, KID, State string
		Bars                 []svgBar
	}
	svgTick struct{ X, Text string }
)

// timelineSVG is the picture of all lives. It says the same by shape, word and pattern as by colour.
func timelineSVG(lives []admin.KeyLife, now time.Time) []byte {
	s := newScale(lives, now, svgPlot)
	px := func(f float64) string { return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64) }
	x := func(t time.Time) float64 { return svgLeft + s.at(t) }
	var rows []svgKey
	for i, l := range lives {
		k := svgKey{
			Y:     strconv.Itoa(svgTop + i*svgRow),
			Shape: strings.Fields(keyShape(string(l.State)))[0],
			KID:   shortKID(l.KID),
			State: string(l.State),
		}
		for _, p := range phases(l) {
			if p.to.After(p.from) {
				k.Bars = append(
					k.Bars,
					svgBar{p.kind, px(x(p.from)), px(max(x(p.to)-x(p.from), 4)), fmt.Sprintf("%s %s – %s", p.kind,
						p.from.UTC().Format(time.RFC3339), p.to.UTC().Format(time.RFC3339))},
				)
			}
		}
		rows = append(rows, k)
	}
	var b bytes.Buffer
	err := timelineTemplate.Execute(
		&b,
		map[string]any{"Width": svgLeft + svgPlot + svgRight, "Height": svgTop + len(rows)*svgRow + 60, "Keys": rows,
			"Ticks": ticks(
				s,
				func(t time.Time) string { return px(x(t)) },
			), "Now": px(x(now)), "NowText": now.UTC().Format(time.DateOnly),
			"Bottom": svgTop + len(rows)*svgRow, "Legend": svgTop + len(rows)*svgRow + 40},
	)
	if err != nil {
		panic(err) // a template and what it is given, both in this folder
	}
	return b.Bytes()
}

// ticks are at most nine days along the scale.
func ticks(s scale, x func(time.Time) string) []svgTick {
	const day = 24 * time.Hour
	step := max(s.to.Sub(s.from)/8, day).Round(day)
	var list []svgTick
	for t := s.from.UTC().Truncate(day).Add(day); !t.After(s.to); t = t.Add(step) {
		list = append(list, svgTick{x(t), t.Format(time.DateOnly)})
	}
	return list
}
