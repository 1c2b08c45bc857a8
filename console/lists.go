package console

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/keyturn/keyturn/admin"
)

// sinceLayouts are the forms of a time that people type.
var sinceLayouts = []string{
	time.RFC3339,
	"2006-01-02T15:04:05",
	"2006-01-02T15:04",
	"2006-01-02 15:04:05",
	"2006-01-02 15:04",
	time.DateOnly,
}

// sinceText reads a time in UTC, or an age such as 2h.
func sinceText(text string, now time.Time) (time.Time, error) {
	text = strings.TrimSuffix(strings.TrimSpace(text), " UTC")
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range sinceLayouts {
		if t, err := time.ParseInLocation(layout, text, time.UTC); err == nil {
			return t, nil
		}
	}
	if age, err := admin.ParseDuration(text); err == nil {
		return now.Add(-age), nil
	}
	return time.Time{}, problem(http.StatusUnprocessableEntity, "invalid",
		"the time of the leak: want a time in UTC such as 2026-01-31 12:00, or an age such as 2h")
}

// listData is the input of the page of a list.
type listData struct {
	Rows   any
	Empty  bool
	Next   string // URL of the next page; "": there is none
	Filter url.Values
	Types  []string // of audit records
	Verify string   // result of the check of the trail
	Fault  string   // the check found this
}

// nextURL is the URL of the next page of a list.
func (k *call) nextURL(next string) string {
	if next == "" {
		return ""
	}
	q := k.r.URL.Query()
	q.Del("done")
	q.Del("verify")
	q.Set("after", next)
	return k.r.URL.Path + "?" + q.Encode()
}

// list shows a page of a list.
func list[Row any, Key comparable](
	k *call, name string, v view, p admin.Page[Row, Key], text func(Key) string, more func(*listData),
) error {
	d := listData{Rows: p.Rows, Empty: len(p.Rows) == 0, Filter: k.r.URL.Query()}
	if end := *new(Key); p.Next != end {
		d.Next = k.nextURL(text(p.Next))
	}
	if more != nil {
		more(&d)
	}
	v.Data = d
	return k.show(name, v)
}

// cleared returns the query of a filter form without empty fields and without words of the console.
func (k *call) cleared() {
	q := k.r.URL.Query()
	for name, values := range q {
		if name == "done" || len(values) == 1 && values[0] == "" {
			q.Del(name)
		}
	}
	k.filter = q
}

// typed returns a field of the form.
func (k *call) typed(field string) string {
	if k.r.PostForm == nil && k.parseForm() != nil {
		return ""
	}
	return k.r.PostForm.Get(field)
}
