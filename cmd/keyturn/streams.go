package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/keyturn/keyturn/api"
	"golang.org/x/term"
)

// streams are the standard input, output and error of a command. Data goes to standard output, messages to standard
// error.
type streams struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	json           bool          // print data as JSON
	typed          *bufio.Reader // lines that a person types
}

// print prints data as JSON with --json. Otherwise it calls text.
func (c *streams) print(data any, text func()) error {
	if !c.json {
		text()
		return nil
	}
	encoded, err := api.Indented(data, "")
	if err == nil {
		_, err = c.stdout.Write(append(encoded, '\n'))
	}
	return err
}

// printAsItIs is print, but leaves empty text empty.
func (c *streams) printAsItIs(data any, text func()) error {
	if !c.json {
		text()
		return nil
	}
	e := json.NewEncoder(c.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(data)
}

// list prints rows page by page, in constant memory: as one JSON array with --json, otherwise as tables with the column
// widths of each page. If each fails, the array stays open, so that nobody takes it for complete.
func list[T any](c *streams, heading []string, each func(func([]T) error) error, cells func(T) []string) error {
	if c.json {
		return listJSON(c.stdout, each)
	}
	err := each(func(page []T) error {
		var rows [][]string
		for _, row := range page {
			rows = append(rows, cells(row))
		}
		err := table(c.stdout, heading, rows)
		heading = nil
		return err
	})
	if err == nil && heading != nil {
		err = table(c.stdout, heading, nil)
	}
	return err
}

func listJSON[T any](to io.Writer, each func(func([]T) error) error) error {
	w := bufio.NewWriter(to)
	before := "[\n  "
	err := each(func(page []T) error {
		for _, row := range page {
			text, err := api.Indented(row, "  ")
			if err != nil {
				return err
			}
			w.WriteString(before)
			w.Write(text)
			before = ",\n  "
		}
		return w.Flush()
	})
	switch {
	case err != nil:
		return errors.Join(err, w.Flush())
	case before[0] == '[':
		w.WriteString("[]\n")
	default:
		w.WriteString("\n]\n")
	}
	return w.Flush()
}

// table prints rows under a heading to standard output.
func (c *streams) table(heading []string, rows [][]string) { table(c.stdout, heading, rows) }

// table prints rows under a heading, if there is one.
func table(to io.Writer, heading []string, rows [][]string) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	if heading != nil {
		fmt.Fprintln(w, strings.Join(heading, "\t"))
	}
	for _, row := range rows {
		for i, cell := range row {
			row[i] = oneLine(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// pairs prints the properties of one thing, one on each line.
func (c *streams) pairs(pairs [][2]string) {
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	for _, p := range pairs {
		fmt.Fprintf(w, "%s\t%s\n", p[0], oneLine(p[1]))
	}
	w.Flush()
}

// oneLine replaces control characters, which could pretend to be other rows.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// say prints a message to standard error.
func (c *streams) say(format string, args ...any) { fmt.Fprintf(c.stderr, format+"\n", args...) }

// printsToTerminal reports whether standard output is a terminal and people read the data.
func (c *streams) printsToTerminal() bool {
	f, ok := c.stdout.(*os.File)
	return ok && !c.json && term.IsTerminal(int(f.Fd()))
}

// onTerminal reports whether standard error is a terminal.
func (c *streams) onTerminal() bool {
	f, ok := c.stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// progress returns a function that shows progress on a terminal, and nil without a terminal.
func (c *streams) progress(what string) func(n, of int) {
	if !c.onTerminal() || plainTerminal() {
		return nil
	}
	return func(n, of int) {
		fmt.Fprintf(c.stderr, "\r%d of %d %s", n, of, what)
		if n >= of {
			fmt.Fprintf(c.stderr, "\r\x1b[K")
		}
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
