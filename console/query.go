package console

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn/keyturn/api"
)

// query reads the parameters of a list. An unknown one is an error: a misspelled filter must not select everything.
type query struct {
	now    time.Time
	values map[string][]string
	err    error
}

func (k *call) query(known ...string) *query {
	q := &query{now: k.c.Now(), values: k.r.URL.Query()}
	if k.filter != nil {
		q.values = k.filter
	}
	for name, values := range q.values {
		if name != liveParameter && !slices.Contains(known, name) {
			q.fail("parameter %q is unknown: want %s", name, strings.Join(known, ", "))
		}
		if len(values) > 1 {
			q.fail("parameter %q is given twice", name)
		}
	}
	return q
}

func (q *query) fail(format string, args ...any) {
	if q.err == nil {
		q.err = problem(http.StatusBadRequest, "bad-parameter", format, args...)
	}
}

func (q *query) text(name string) string {
	if values := q.values[name]; len(values) > 0 {
		if !api.IsText(values[0]) {
			q.fail("%s: want valid UTF-8 without NUL", name)
		}
		return values[0]
	}
	return ""
}

func (q *query) flag(name string) bool {
	switch q.text(name) {
	case "", "false":
		return false
	case "true":
		return true
	}
	q.fail("%s: want true or false", name)
	return false
}

func (q *query) number(name string) int64 {
	text := q.text(name)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		q.fail("%s: want a number", name)
	}
	return n
}

func (q *query) moment(name string) time.Time {
	text := q.text(name)
	if text == "" {
		return time.Time{}
	}
	t, err := sinceText(text, q.now)
	if err != nil {
		q.fail("%s: want a time such as 2026-01-31T12:00:00Z", name)
	}
	return t
}
