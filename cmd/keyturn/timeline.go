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

// timelineFlags say which part of the timeline to draw.
type timelineFlags struct {
	svg, from, to string
	incident      bool
}

func (k keyCommands) timeline() *cobra.Command {
	var f timelineFlags
	draw := func(ctx context.Context, op *operator, _ []string) error {
		lives := op.Keys().Lives()
		v, err := f.view(lives, op.Keys().Incident(), op.Now())
		if err != nil {
			return err
		}
		if op.Keys().Intact() == nil {
			if v.marks, err = op.Keys().Marks(ctx); err != nil {
				k.say("keyturn: who has the next key could not be read: %v", err)
			}
		}
		if f.svg != "" {
			return os.WriteFile(f.svg, timelineSVG(lives, v), 0o644)
		}
		if err := op.Keys().Intact(); err != nil {
			return fmt.Errorf("%w: `keyturn keys status` gives advice", err)
		}
		return k.print(withMarks(lives, v.marks), func() { k.timelineText(lives, k.liveTokens(ctx, op), v) })
	}
	cmd := k.verb(verb{
		use:   "timeline",
		short: "Draw the past and the planned future of every key",
		args:  cobra.NoArgs,
		reads: true,
		act:   draw,
	})
	flags := cmd.Flags()
	flags.StringVar(&f.svg, "svg", "", "write an SVG picture to this file")
	flags.StringVar(&f.from, "from", "", "begin at a time (2026-01-31T12:00:00Z) or age (7d)")
	flags.StringVar(&f.to, "to", "", "end at a time (2026-12-31T12:00:00Z), or so long from now (7d)")
	flags.BoolVar(&f.incident, "incident", false, "only the last incident (default: while one lasts)")
	return cmd
}

// view is the part of the timeline that is drawn.
type view struct {
	from, to time.Time
	now      time.Time
	incident *admin.KeyIncident // nil: none to draw
	marks    []admin.KeyMark    // when registered verifiers got the next key
}

// shownMarks is the number of verifiers that the timeline draws.
const shownMarks = 20

// lifeWithMarks is a life of a key in JSON.
type lifeWithMarks struct {
	admin.KeyLife
	Verifiers []admin.KeyMark `json:"verifiers"` // of the next key: registered verifiers, and when they got it
}

func withMarks(lives []admin.KeyLife, marks []admin.KeyMark) []lifeWithMarks {
	rows := make([]lifeWithMarks, len(lives))
	for i, l := range lives {
		rows[i] = lifeWithMarks{l, []admin.KeyMark{}}
		for _, m := range marks {
			if m.KID == l.KID {
				rows[i].Verifiers = append(rows[i].Verifiers, m)
			}
		}
	}
	return rows
}

// wholeView spans all lives and now.
func wholeView(lives []admin.KeyLife, now time.Time) view {
	v := view{from: now, to: now.Add(time.Hour), now: now}
	for _, l := range lives {
		if l.Published.At.Before(v.from) {
			v.from = l.Published.At
		}
		if l.Leaves.At.After(v.to) {
			v.to = l.Leaves.At
		}
	}
	return v
}

// incidentView spans an incident, with a fifth of its length around it.
func incidentView(i *admin.KeyIncident, now time.Time) view {
	v := view{from: i.RevokedAt, to: i.ExposedUntil, now: now, incident: i}
	if i.SecondRotation != nil && i.SecondRotation.After(v.to) {
		v.to = *i.SecondRotation
	}
	if !i.Over && now.After(v.to) {
		v.to = now
	}
	margin := max(v.to.Sub(v.from)/5, time.Minute)
	v.from, v.to = v.from.Add(-margin), v.to.Add(margin)
	return v
}

// view returns the part that the flags select: an incident that lasts, if they select none.
func (f timelineFlags) view(lives []admin.KeyLife, last *admin.KeyIncident, now time.Time) (view, error) {
	v := wholeView(lives, now)
	chosen := f.from != "" || f.to != ""
	switch {
	case f.incident && last == nil:
		return v, fmt.Errorf("%w: no key was ever revoked", admin.ErrNotFound)
	case f.incident, last != nil && !last.Over && !chosen:
		v = incidentView(last, now)
	case last != nil && !last.Over:
		v.incident = last
	}
	from, err := parseSince("from", f.from, now)
	if err != nil {
		return v, err
	}
	to, err := parseSince("to", f.to, now)
	if err != nil {
		return v, err
	}
	if !from.IsZero() {
		v.from = from
	}
	if !to.IsZero() {
		if v.to = to; to.Before(now) && !strings.Contains(f.to, "-") { // a duration
			v.to = now.Add(now.Sub(to))
		}
	}
	if !v.to.After(v.from) {
		return v, usageError{fmt.Errorf("--to: %s is not after %s", v.to.UTC().Format(time.RFC3339),
			v.from.UTC().Format(time.RFC3339))}
	}
	return v, nil
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

// scale maps the time of a view to a line of cells or pixels.
type scale struct {
	view
	width float64
}

// at returns the place of a moment, at the edge if the view does not reach it.
func (s scale) at(t time.Time) float64 {
	place := s.width * float64(t.Sub(s.from)) / float64(s.to.Sub(s.from))
	return min(max(place, 0), s.width)
}

// shows reports whether any of a period is in the view.
func (s scale) shows(from, to time.Time) bool { return to.After(s.from) && from.Before(s.to) }

const timelineCells = 64

// timelineText draws one line for each key, and a table of its moments. tokens is nil if they were not counted.
func (k keyCommands) timelineText(lives []admin.KeyLife, tokens map[string]int64, v view) {
	if len(lives) == 0 {
		fmt.Fprintln(k.stdout, "There are no signing keys yet.")
		return
	}
	k.timelineBars(lives, v)
	var rows [][]string
	for _, l := range lives {
		kid, count := l.KID, strconv.FormatInt(tokens[l.KID], 10)
		switch {
		case kid == "":
			kid, count = "(to be made)", "-"
		case l.State == revokedState:
			count = "-"
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

// timelineBars draws one line for each key on a common scale, and those of an incident below them.
func (k keyCommands) timelineBars(lives []admin.KeyLife, v view) {
	s := scale{v, timelineCells}
	label := func(shape, text string) string { return fmt.Sprintf("%-10s %-8s ", shape, text) }
	line := func(label, cells string) { fmt.Fprintln(k.stdout, label+strings.TrimRight(cells, " ")) }
	indent := strings.Repeat(" ", len([]rune(label("", ""))))
	layout := time.DateOnly
	if v.to.Sub(v.from) < 3*24*time.Hour {
		layout = "01-02 15:04:05"
	}
	from, to := v.from.UTC().Format(layout), v.to.UTC().Format(layout)
	fmt.Fprintf(k.stdout, "%s%s%*s\n", indent, from, timelineCells-len(from), to)
	for _, l := range lives {
		line(label(keyShape(l.State), shortKID(l.KID)), bar(l, s))
	}
	k.markLines(s, indent)
	if i := v.incident; i != nil {
		line(label("! exposure", ""), fillCells(s, i.RevokedAt, i.ExposedUntil, '▚'))
		if at := i.SecondRotation; at != nil {
			line(label("! second", "rotation"), fillCells(s, *at, *at, '◆'))
		}
	}
	if s.shows(v.now, v.now.Add(1)) {
		fmt.Fprintf(k.stdout, "%s%*s\n", indent, cell(s, v.now)+1, "↑")
	}
	now := v.now.UTC().Format(time.RFC3339)
	fmt.Fprintf(k.stdout, "%s░ published  █ signs  ▒ verifies only  ↑ now, %s\n", indent, now)
	if len(v.marks) > 0 {
		fmt.Fprintf(k.stdout, "%s◇ a registered verifier got the next key\n", indent)
	}
	if v.incident != nil {
		fmt.Fprintf(k.stdout, "%s▚ verifiers that obey max-age may accept forgeries  ◆ second rotation\n", indent)
	}
	fmt.Fprintln(k.stdout)
}

// markLines draws when each registered verifier got the next key.
func (k keyCommands) markLines(s scale, indent string) {
	for _, m := range s.marks[:min(len(s.marks), shownMarks)] {
		name := []rune(m.Verifier)
		label := fmt.Sprintf("%-*s", len(indent), string(name[:min(len(name), len(indent)-1)]))
		cells := "(does not have the next key)"
		if m.At != nil {
			cells = fillCells(s, *m.At, *m.At, '◇')
		}
		fmt.Fprintln(k.stdout, label+strings.TrimRight(cells, " "))
	}
	if more := len(s.marks) - shownMarks; more > 0 {
		fmt.Fprintf(k.stdout, "and %d more verifiers\n", more)
	}
}

// fillCells draws a period on an empty line.
func fillCells(s scale, from, to time.Time, with rune) string {
	cells := []rune(strings.Repeat(" ", timelineCells))
	for i := cell(s, from); i <= cell(s, to); i++ {
		cells[i] = with
	}
	return string(cells)
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
		if !p.to.After(p.from) || !s.shows(p.from, p.to) {
			continue
		}
		for i := cell(s, p.from); i <= cell(s, p.to); i++ {
			cells[i] = fill[p.kind]
		}
	}
	return string(cells)
}
