package console

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"math"
	"net/http"
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

	now  time.Time
	form url.Values
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

// Typed returns what was typed into a field of the form that is shown again.
func (v view) Typed(field string) string { return v.form.Get(field) }

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

// show answers with a page. A form that was refused is shown again with its error and what was typed.
func (k *call) show(name string, v view) error {
	if k.refused == nil {
		v.Notice, v.Said = k.notice(), k.said
		err := k.render(name, v, http.StatusOK)
		if err == nil {
			k.note("ok")
		}
		return err
	}
	k.typed("") // reads the form, if no guard has
	v.Problem, v.form, v.Live, v.Said = k.refused, k.r.PostForm, "", k.said
	return k.render(name, v, k.refused.Status)
}

// render writes a page.
func (k *call) render(name string, v view, status int) error {
	v.now = k.c.Now()
	if v.form == nil {
		v.form = url.Values{}
	}
	if v.Path == "" {
		v.Path = k.r.URL.Path
	}
	if k.who.name != "" {
		v.Who, v.Fresh = &k.who, k.fresh()
		if k.who.session != nil {
			v.Token = csrfToken(k.who.token)
		}
		v.Incident = k.incident()
	}
	var page bytes.Buffer
	if err := layouts()[name].ExecuteTemplate(&page, "layout", v); err != nil {
		return err
	}
	k.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	k.w.WriteHeader(status)
	k.w.Write(page.Bytes())
	return nil
}

// notice says what a form has done, which the browser was sent on from: a link from elsewhere says nothing.
func (k *call) notice() string {
	if site := k.r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return ""
	}
	return notices[k.r.URL.Query().Get("done")]
}

// notices say what was done, by the word in the query of the page that follows.
var notices = map[string]string{
	"client-enabled":  "The client is enabled. Its logins stay ended.",
	"client-disabled": "The client is disabled. All its logins have ended.",
	"user-enabled":    "The user is enabled, and its throttle is lifted.",
	"user-disabled":   "The user is disabled. All its logins have ended.",
	"user-unlocked":   "The user is unlocked: the next login attempt is allowed.",
	"roles":           "The roles are changed. They appear in the next access token of each login.",
	"ended": "Ended. Refresh tokens are dead and introspection answers inactive. Access tokens verify offline until " +
		"they expire.",
	"admin-disabled":  "The administrator is disabled. All its sessions have ended.",
	"admin-deleted":   "The administrator is deleted.",
	"signed-out":      "You are signed out.",
	"signed-out-all":  "All your sessions have ended.",
	"sessions-ended":  "All sessions of that administrator have ended.",
	"passkey-added":   "The passkey is registered. Use it to sign in from now on.",
	"passkey-removed": "The passkey is removed.",
	"signed-in-again": "You are signed in again.",
}

// goTo answers a form with the page that shows the result. done is a word of notices.
func (k *call) goTo(path, done string) error {
	if done != "" {
		path += "?done=" + done
	}
	k.w.Header().Set("Location", path)
	k.w.WriteHeader(http.StatusSeeOther)
	k.note("ok")
	return nil
}

// failPage answers a page with an error. A form comes back with what was typed, unless it was not of this session.
func (k *call) failPage(p *Problem) {
	switch {
	case p.Status == http.StatusUnauthorized && !isRead(k.r.Method) && k.typed("reason") != "":
		break // the page shows what was typed
	case p.Status == http.StatusUnauthorized:
		next := ""
		if isRead(k.r.Method) && localPath(k.r.URL.RequestURI()) == k.r.URL.RequestURI() {
			next = "?next=" + url.QueryEscape(k.r.URL.RequestURI())
		}
		k.w.Header().Set("Location", "/sign-in"+next)
		k.w.WriteHeader(http.StatusSeeOther)
		return
	case k.route.back != nil && !isRead(k.r.Method) && k.passed:
		k.refused = p
		if err := k.route.back(k); err == nil {
			return
		}
		k.refused = nil
	}
	v := view{Title: p.Title, Data: p, form: k.r.PostForm}
	if err := k.render("error", v, p.Status); err != nil {
		k.c.Log.Error("the error page failed", "error", err.Error())
	}
}

// static serves the stylesheet, the script and the icon.
func (k fileCalls) static() error {
	name := k.vars("file")
	body, err := staticFiles.ReadFile("static/" + name)
	if err != nil {
		return problem(http.StatusNotFound, "not-found", "there is nothing here")
	}
	kinds := map[string]string{
		".css": "text/css; charset=utf-8",
		".js":  "text/javascript; charset=utf-8",
		".svg": "image/svg+xml",
	}
	k.w.Header().Set("Content-Type", kinds[name[strings.LastIndexByte(name, '.'):]])
	k.w.Header().Set("Cache-Control", "no-cache")
	k.w.Write(body)
	k.note("ok")
	return nil
}
