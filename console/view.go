package console

import (
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"math"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/keyturn/keyturn/admin"
)

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed static
var staticFiles embed.FS

// functions of the templates. The others are methods of view.
var functions = template.FuncMap{
	"shape":    func(s admin.KeyState) string { return admin.KeyShapes[s] },
	"short":    admin.ShortKID,
	"join":     func(words []string) string { return strings.Join(words, " ") },
	"path":     url.PathEscape,
	"count":    plural,
	"sentence": sentence,
	"deref": func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	},
	"str":  func(text any) string { return fmt.Sprint(text) },
	"dict": dict,
}

// sentence makes a sentence of the text of an error.
func sentence(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	text = string(unicode.ToUpper(first)) + text[size:]
	if !strings.HasSuffix(text, ".") && !strings.HasSuffix(text, "?") {
		text += "."
	}
	return text
}

// dict makes the input of a template with several parts.
func dict(pairs ...any) map[string]any {
	d := map[string]any{}
	for i := 0; i+1 < len(pairs); i += 2 {
		d[pairs[i].(string)] = pairs[i+1]
	}
	return d
}

// plural is a number with its noun.
func plural(n any, one, many string) string {
	text := fmt.Sprint(n)
	if text == "1" {
		return "1 " + one
	}
	return text + " " + many
}

// layouts are the pages by name, each with the layout around it. They are parsed when the first page is shown: most
// processes show none.
var layouts = sync.OnceValue(func() map[string]*template.Template {
	base := template.Must(template.New("").Funcs(functions).ParseFS(pageFiles, "pages/layout.html"))
	all := map[string]*template.Template{}
	names, err := fs.Glob(pageFiles, "pages/*.html")
	if err != nil {
		panic(err) // the pattern is constant
	}
	for _, name := range names {
		if name != "pages/layout.html" {
			page := strings.TrimSuffix(strings.TrimPrefix(name, "pages/"), ".html")
			all[page] = template.Must(template.Must(base.Clone()).ParseFS(pageFiles, name))
		}
	}
	return all
})

// view is the input of every page.
type view struct {
	Title, Nav string
	Who        *identity // nil: not signed in
	Token      string    // CSRF
	Fresh      bool      // signed in within the last minutes
	Incident   *incident // nil: none lasts
	Live       string    // fingerprint of what the page shows; "": the page does not follow changes
	Path       string
	Problem    *Problem // why the form was refused
	Notice     string   // what was done
	Said       []string // messages
	Data       any

	Version int64 // of the key set: every page says when it has changed

	now    time.Time
	form   url.Values
	posted string // path of the form that was refused; "": none was
}

// Name, Role and Way of whoever sees the page.
func (i identity) Name() string     { return i.name }
func (i identity) Role() admin.Role { return i.role }
func (i identity) Way() string      { return i.way }

// May reports whether the person has a role.
func (v view) May(role string) bool { return v.Who != nil && v.Who.role.Includes(admin.Role(role)) }

// scoped is a part of a page, with the view for its times.
type scoped struct {
	View view
	Of   any
}

// With returns the input of a template that shows a part of the page.
func (v view) With(of any) scoped { return scoped{v, of} }

// navigation is an entry of the navigation.
type navigation struct{ Path, Name string }

// Pages lists the entries of the navigation.
func (v view) Pages() []navigation {
	return []navigation{
		{"keys", "Keys"},
		{"logins", "Logins"},
		{"clients", "Clients"},
		{"users", "Users"},
		{"verifiers", "Verifiers"},
		{"audit", "Audit"},
		{"admins", "Admins"},
	}
}

// Lost lists what was typed into a form that cannot be shown again.
func (v view) Lost() (lines []string) {
	for name, values := range v.form {
		if text := strings.Join(values, " "); name != formToken && name != "revision" && text != "" {
			lines = append(lines, name+": "+text)
		}
	}
	slices.Sort(lines)
	return lines
}

// formView is the input of a form for a change.
type formView struct {
	view
	Action   string // path
	Revision int64  // of the row as it is shown; 0: the change has none
}

// Form returns the input of the form that posts to the path of the segments.
func (v view) Form(revision int64, segments ...string) formView {
	var path strings.Builder
	for _, s := range segments {
		path.WriteString("/" + url.PathEscape(s))
	}
	return formView{v, path.String(), revision}
}

// Typed returns what was typed into a field, if this form is shown again; else what the field begins with.
func (f formView) Typed(field string, begin ...string) string {
	if strings.HasPrefix(f.posted+"/", f.Action+"/") { // a button may have a path below that of its form
		return f.form.Get(field)
	}
	return strings.Join(begin, "")
}

// moment is a time on a page.
type moment struct{ RFC, Text, Distance, Clock string }

// When formats a time: nil and the zero time have no text.
func (v view) When(at any) *moment {
	var t time.Time
	switch at := at.(type) {
	case time.Time:
		t = at
	case *time.Time:
		if at != nil {
			t = *at
		}
	case admin.Time:
		t = at.Time
	case *admin.Time:
		if at != nil {
			t = at.Time
		}
	}
	if t.IsZero() {
		return nil
	}
	return &moment{
		RFC:      t.UTC().Format(time.RFC3339),
		Text:     t.UTC().Format("2006-01-02 15:04:05"),
		Distance: distance(t.Sub(v.now)),
	}
}

// distance says how far a moment is, in the largest unit that fits.
func distance(d time.Duration) string {
	past := d < 0
	d = d.Abs().Round(time.Second)
	var text string
	switch {
	case d < time.Second:
		return "now"
	case d < 2*time.Minute:
		text = fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		text = fmt.Sprintf("%d min", int(math.Round(d.Minutes())))
	case d < 48*time.Hour:
		text = fmt.Sprintf("%d h", int(math.Round(d.Hours())))
	default:
		text = fmt.Sprintf("%d days", int(math.Round(d.Hours()/24)))
	}
	if past {
		return text + " ago"
	}
	return "in " + text
}
