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
	"github.com/keyturn/keyturn/console"
)

// timelineFlags say which part of the timeline to draw.
type timelineFlags struct {
	svg, from, to string
	incident      bool
}

func (k keyCommands) timeline() *cobra.Command {
	var f timelineFlags
	draw := func(ctx context.Context, op *operator, _ []string) error {
		span, err := f.span(op.Now())
		if err != nil {
			return err
		}
		lives, v, unread, err := op.Keys().Timeline(ctx, span)
		if err != nil {
			return err
		}
		if unread != nil {
			k.say("keyturn: who has the next key could not be read: %v", unread)
		}
		if f.svg != "" {
			return os.WriteFile(f.svg, console.TimelineSVG(lives, v), 0o644)
		}
		if err := op.Keys().Intact(); err != nil {
			return fmt.Errorf("%w: `keyturn keys status` gives advice", err)
		}
		return k.print(admin.WithMarks(lives, v.Marks), func() { k.timelineText(lives, k.liveTokens(ctx, op), v) })
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

// span returns the part that the flags select.
func (f timelineFlags) span(now time.Time) (s admin.TimelineSpan, err error) {
	s.Incident = f.incident
	if s.From, err = parseSince("from", f.from, now); err != nil {
		return s, err
	}
	if s.To, err = parseSince("to", f.to, now); err != nil {
		return s, err
	}
	if !s.To.IsZero() && s.To.Before(now) && !strings.Contains(f.to, "-") { // a duration
		s.To = now.Add(now.Sub(s.To))
	}
	return s, nil
}

const timelineCells = 64

// timelineText draws one line for each key, and a table of its moments. tokens is nil if they were not counted.
func (k keyCommands) timelineText(lives []admin.KeyLife, tokens map[string]int64, v admin.TimelineView) {
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
func (k keyCommands) timelineBars(lives []admin.KeyLife, v admin.TimelineView) {
	s := admin.TimelineScale{TimelineView: v, Width: timelineCells}
	label := func(shape, text string) string { return fmt.Sprintf("%-10s %-8s ", shape, text) }
	line := func(label, cells string) { fmt.Fprintln(k.stdout, label+strings.TrimRight(cells, " ")) }
	indent := strings.Repeat(" ", len([]rune(label("", ""))))
	layout := time.DateOnly
	if v.To.Sub(v.From) < 3*24*time.Hour {
		layout = "01-02 15:04:05"
	}
	from, to := v.From.UTC().Format(layout), v.To.UTC().Format(layout)
	fmt.Fprintf(k.stdout, "%s%s%*s\n", indent, from, timelineCells-len(from), to)
	for _, l := range lives {
		line(label(keyShape(l.State), admin.ShortKID(l.KID)), bar(l, s))
	}
	k.markLines(s, indent)
	if i := v.Incident; i != nil {
		line(label("! exposure", ""), fillCells(s, i.RevokedAt, i.ExposedUntil, '▚'))
		if at := i.SecondRotation; at != nil {
			line(label("! second", "rotation"), fillCells(s, *at, *at, '◆'))
		}
	}
	if s.Shows(v.Now, v.Now.Add(1)) {
		fmt.Fprintf(k.stdout, "%s%*s\n", indent, cell(s, v.Now)+1, "↑")
	}
	now := v.Now.UTC().Format(time.RFC3339)
	fmt.Fprintf(k.stdout, "%s░ published  █ signs  ▒ verifies only  ↑ now, %s\n", indent, now)
	if len(v.Marks) > 0 {
		fmt.Fprintf(k.stdout, "%s◇ a registered verifier got the next key\n", indent)
	}
	if v.Incident != nil {
		fmt.Fprintf(k.stdout, "%s▚ verifiers that obey max-age may accept forgeries  ◆ second rotation\n", indent)
	}
	fmt.Fprintln(k.stdout)
}

// markLines draws when each registered verifier got the next key.
func (k keyCommands) markLines(s admin.TimelineScale, indent string) {
	for _, m := range s.Marks[:min(len(s.Marks), admin.ShownMarks)] {
		name := []rune(m.Verifier)
		label := fmt.Sprintf("%-*s", len(indent), string(name[:min(len(name), len(indent)-1)]))
		cells := "(does not have the next key)"
		if m.At != nil {
			cells = fillCells(s, *m.At, *m.At, '◇')
		}
		fmt.Fprintln(k.stdout, label+strings.TrimRight(cells, " "))
	}
	if more := len(s.Marks) - admin.ShownMarks; more > 0 {
		fmt.Fprintf(k.stdout, "and %d more verifiers\n", more)
	}
}

// fillCells draws a period on an empty line.
func fillCells(s admin.TimelineScale, from, to time.Time, with rune) string {
	cells := []rune(strings.Repeat(" ", timelineCells))
	for i := cell(s, from); i <= cell(s, to); i++ {
		cells[i] = with
	}
	return string(cells)
}

// cell is the cell of a moment.
func cell(s admin.TimelineScale, t time.Time) int { return min(int(s.At(t)), timelineCells-1) }

// bar draws a life. Each phase takes at least one cell, and the later phase wins.
func bar(l admin.KeyLife, s admin.TimelineScale) string {
	cells := []rune(strings.Repeat(" ", timelineCells))
	fill := map[string]rune{"published": '░', "signs": '█', "verifies": '▒'}
	for _, p := range admin.Phases(l) {
		if !p.To.After(p.From) || !s.Shows(p.From, p.To) {
			continue
		}
		for i := cell(s, p.From); i <= cell(s, p.To); i++ {
			cells[i] = fill[p.Kind]
		}
	}
	return string(cells)
}
