package console

import (
	"bytes"
	_ "embed"
	"fmt"
	"html"
	"math"
	"slices"
	"strconv"
	"sync"
	"text/template"
	"time"

	"github.com/keyturn/keyturn/admin"
)

//go:embed timeline.svg.tmpl
var timelineSource string

var timelineTemplate = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("timeline").Parse(timelineSource))
})

// Dimensions of the picture in pixels.
const (
	svgLeft  = 190
	svgPlot  = 700
	svgRight = 30
	svgTop   = 56
	svgRow   = 34
	svgName  = 22 // characters of the name of a verifier
)

// svgBar, svgKey and svgTick are the input of the template.
type (
	svgBar struct{ Kind, X, Width, Title string }
	svgKey struct {
		Y, Shape, KID, State string
		Bars                 []svgBar
	}
	svgTick struct{ X, Text string }
)

// pixels formats a coordinate.
func pixels(f float64) string { return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64) }

// TimelineSVG is the picture of all lives. It shows everything by shape, word and pattern besides colour.
func TimelineSVG(lives []admin.KeyLife, v admin.TimelineView) []byte {
	s := admin.TimelineScale{TimelineView: v, Width: svgPlot}
	x := func(t time.Time) float64 { return svgLeft + s.At(t) }
	var rows []svgKey
	for i, l := range lives {
		rows = append(rows, svgKey{
			Y:     strconv.Itoa(svgTop + i*svgRow),
			Shape: admin.KeyShapes[l.State],
			KID:   admin.ShortKID(l.KID),
			State: string(l.State),
			Bars:  svgBars(l, s, x),
		})
	}
	var b bytes.Buffer
	bottom := svgTop + len(rows)*svgRow
	marks := svgMarks(v.Marks, bottom, x)
	rows, bottom = append(rows, marks...), bottom+svgRow*len(marks)
	incident := svgIncident(v.Incident, bottom, x)
	rows, bottom = append(rows, incident...), bottom+svgRow*len(incident)
	err := timelineTemplate().Execute(&b, map[string]any{
		"Width":   svgLeft + svgPlot + svgRight,
		"Height":  bottom + 60,
		"Keys":    rows,
		"Ticks":   ticks(s, func(t time.Time) string { return pixels(x(t)) }),
		"Now":     pixels(x(v.Now)),
		"NowText": nowText(v),
		"Bottom":  bottom,
		"Legend":  bottom + 40,
	})
	if err != nil {
		panic(err) // both the template and its input are constant in form
	}
	return b.Bytes()
}

// svgBars returns the phases of a life that last at all.
func svgBars(l admin.KeyLife, s admin.TimelineScale, x func(time.Time) float64) (bars []svgBar) {
	for _, p := range admin.Phases(l) {
		if !p.To.After(p.From) || !s.Shows(p.From, p.To) {
			continue
		}
		from, to := p.From.UTC().Format(time.RFC3339), p.To.UTC().Format(time.RFC3339)
		bars = append(bars, svgBar{
			Kind:  p.Kind,
			X:     pixels(x(p.From)),
			Width: pixels(max(x(p.To)-x(p.From), 4)),
			Title: fmt.Sprintf("%s %s – %s", p.Kind, from, to),
		})
	}
	return bars
}

// svgMarks returns a row for each registered verifier, with a mark at the moment when it got the next key.
func svgMarks(marks []admin.KeyMark, y int, x func(time.Time) float64) (rows []svgKey) {
	for i, m := range marks[:min(len(marks), admin.ShownMarks)] {
		name := []rune(m.Verifier)
		row := svgKey{
			Y:     strconv.Itoa(y + svgRow*i),
			Shape: "◇",
			State: html.EscapeString(string(name[:min(len(name), svgName)])),
		}
		if m.At != nil {
			row.Bars = []svgBar{{
				Kind:  "signs",
				X:     pixels(x(*m.At) - 2),
				Width: "4",
				Title: html.EscapeString(m.Verifier) + " got the next key " + m.At.UTC().Format(time.RFC3339),
			}}
		}
		rows = append(rows, row)
	}
	return rows
}

// svgIncident returns the rows of an incident: the exposure as a band, the second rotation as a mark.
func svgIncident(i *admin.KeyIncident, y int, x func(time.Time) float64) (rows []svgKey) {
	if i == nil {
		return nil
	}
	row := func(what string, from, to time.Time) {
		rows = append(rows, svgKey{
			Y:     strconv.Itoa(y + svgRow*len(rows)),
			Shape: "!",
			State: what,
			Bars: []svgBar{{
				Kind:  "exposure",
				X:     pixels(x(from)),
				Width: pixels(max(x(to)-x(from), 4)),
				Title: fmt.Sprintf("%s %s – %s", what, from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339)),
			}},
		})
	}
	row("exposure", i.RevokedAt, i.ExposedUntil)
	if at := i.SecondRotation; at != nil {
		row("second rotation", *at, *at)
	}
	return rows
}

// tickSteps are the distances of ticks that people can read.
var tickSteps = []time.Duration{
	time.Minute,
	5 * time.Minute,
	15 * time.Minute,
	time.Hour,
	6 * time.Hour,
}

// ticks returns at most nine moments along the scale: days, or parts of a day if the scale is short.
func ticks(s admin.TimelineScale, x func(time.Time) string) []svgTick {
	const day = 24 * time.Hour
	least := s.To.Sub(s.From) / 8
	step, layout := max(least, day).Round(day), time.DateOnly
	for _, short := range slices.Backward(tickSteps) {
		if short >= least {
			step, layout = short, clockLayout(short)
		}
	}
	var list []svgTick
	for t := s.From.UTC().Truncate(min(step, day)).Add(min(step, day)); !t.After(s.To); t = t.Add(step) {
		list = append(list, svgTick{x(t), t.Format(layout)})
	}
	return list
}

// clockLayout is the layout of moments that are a part of a day apart.
func clockLayout(step time.Duration) string {
	if step < time.Hour {
		return "15:04"
	}
	return "01-02 15:04"
}

// nowText labels the line of the present.
func nowText(v admin.TimelineView) string {
	if v.To.Sub(v.From) < 3*24*time.Hour {
		return v.Now.UTC().Format("2006-01-02 15:04 UTC")
	}
	return v.Now.UTC().Format(time.DateOnly)
}
