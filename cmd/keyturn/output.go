package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/keyturn/keyturn/admin"
)

// print prints data on stdout: as JSON with --json, else as text writes it.
func (a *app) print(data any, text func()) error {
	if !a.json {
		text()
		return nil
	}
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(data)
}

// list prints rows as each hands them over, page by page, so that memory stays flat: as one JSON array with --json,
// else as tables, whose columns are as wide as a page needs. If each fails, the array is left open, so that nobody
// takes it for the whole.
func list[T any](a *app, heading []string, each func(func([]T) error) error, cells func(T) []string) error {
	if a.json {
		return listJSON(a.stdout, each)
	}
	err := each(func(page []T) error {
		var rows [][]string
		for _, row := range page {
			rows = append(rows, cells(row))
		}
		err := table(a.stdout, heading, rows)
		heading = nil
		return err
	})
	if err == nil && heading != nil {
		err = table(a.stdout, heading, nil)
	}
	return err
}

func listJSON[T any](to io.Writer, each func(func([]T) error) error) error {
	w := bufio.NewWriter(to)
	before := "[\n  "
	err := each(func(page []T) error {
		for _, row := range page {
			var text bytes.Buffer
			e := json.NewEncoder(&text)
			e.SetEscapeHTML(false)
			e.SetIndent("  ", "  ")
			if err := e.Encode(row); err != nil {
				return err
			}
			w.WriteString(before)
			w.Write(bytes.TrimRight(text.Bytes(), "\n"))
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

// table prints rows under a heading on stdout.
func (a *app) table(heading []string, rows [][]string) { table(a.stdout, heading, rows) }

// table prints rows under a heading, if there is one.
func table(to io.Writer, heading []string, rows [][]string) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	if heading != nil {
		fmt.Fprintln(w, strings.Join(heading, "\t"))
	}
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// pairs prints one thing, a line for each property.
func (a *app) pairs(pairs ...[2]string) {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, p := range pairs {
		fmt.Fprintf(w, "%s\t%s\n", p[0], p[1])
	}
	w.Flush()
}

// say prints words on stderr.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.stderr, format+"\n", args...) }

// moment is a time for people; - for none.
func moment(t *admin.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// changeOne changes a user or a client and prints its row. Nothing but the change can keep it from being made: the row
// is read afterwards, or, if it will be gone then, is not waited for.
func changeOne[T any](a *app, name, done string, gone bool, read func() (T, error), change func() error) error {
	var row T
	var unread error
	if gone {
		row, unread = read()
	}
	if err := change(); err != nil {
		return err
	}
	a.say("%s %s", name, done)
	if !gone {
		row, unread = read()
	}
	if unread != nil {
		return fmt.Errorf("%s %s, but its row could not be read: %w", name, done, unread)
	}
	return a.print(row, func() {})
}
