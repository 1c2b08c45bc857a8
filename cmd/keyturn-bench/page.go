package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
)

// section is a part of docs/performance.md that the program writes. It stands between two markers.
type section struct {
	name string
	text func(f *figures) string // Markdown that ends with a newline; "" without figures
}

// A full run measures the figures of runSections, the comparison of builds those of buildSections, and the databases of
// several sizes those of growthSections, and the peers those of peerSections.
var (
	runSections = []section{
		{"machine", (*figures).machineText},
		{"operations", (*figures).operationsText},
		{"others", (*figures).othersText},
		{"allocations", (*figures).allocationsText},
		{"sizing", (*figures).sizingText},
	}
	buildSections = []section{
		{"builds", (*figures).buildsText},
	}
	growthSections = []section{
		{"growth", (*figures).growthText},
	}
	peerSections = []section{
		{"peers", (*figures).peersText},
	}
)

// marked matches a section with its markers.
var marked = regexp.MustCompile(`(?ms)^<!-- figures: (\w+) -->\n(.*?)^<!-- end -->$`)

// print writes sections for a terminal, with aligned columns.
func (f *figures) print(out io.Writer, sections []section) {
	t := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	defer t.Flush()
	align := strings.NewReplacer(" |", "\t|", "---|", "---\t|")
	for _, s := range sections {
		if text := s.text(f); text != "" {
			fmt.Fprintln(t, align.Replace(text))
		}
	}
}

// writePage replaces sections of a page on disk.
func (f *figures) writePage(path string, sections []section) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	filled, err := f.fill(string(page), sections)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(filled), 0o644)
}

// fill returns a page with new text in the given sections. It changes nothing else.
func (f *figures) fill(page string, sections []section) (string, error) {
	failures := []error{checkMarkers(page)}
	filled := marked.ReplaceAllStringFunc(page, func(old string) string {
		name := marked.FindStringSubmatch(old)[1]
		i := slices.IndexFunc(sections, func(s section) bool { return s.name == name })
		if i < 0 {
			return old
		}
		text := sections[i].text(f)
		if text == "" {
			failures = append(failures, fmt.Errorf("the run measured no figures of %q", name))
		}
		return markers(name, text)
	})
	return filled, errors.Join(failures...)
}

// markers puts the text of a section between its markers.
func markers(name, text string) string {
	return "<!-- figures: " + name + " -->\n" + text + "<!-- end -->"
}

// checkMarkers wants each section of the program in the page, once, and no other.
func checkMarkers(page string) error {
	var names []string
	for _, m := range marked.FindAllStringSubmatch(page, -1) {
		if strings.Contains(m[2], "<!--") {
			return fmt.Errorf("section %q has no end", m[1])
		}
		names = append(names, m[1])
	}
	if rest := marked.ReplaceAllString(page, ""); strings.Contains(rest, "<!--") {
		return errors.New("a marker of figures stands alone")
	}
	var want []string
	for _, s := range slices.Concat(runSections, buildSections, growthSections, peerSections) {
		want = append(want, s.name)
	}
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		return fmt.Errorf("the page has sections %q, the program writes %q", names, want)
	}
	return nil
}

// table formats a table in Markdown.
func table(head []string, rows [][]string) string {
	var out strings.Builder
	fmt.Fprintf(&out, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, cells := range rows {
		fmt.Fprintf(&out, "| %s |\n", strings.Join(cells, " | "))
	}
	return out.String()
}
