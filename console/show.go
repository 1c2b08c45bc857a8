package console

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"
)

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
	v.Problem, v.form, v.posted = k.refused, k.r.PostForm, k.r.URL.EscapedPath()
	v.Live, v.Said = "", k.said
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
		v.Incident, v.Version = k.incident(), k.reads().Keys().Version()
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
	"rotated": "Rotated. No session ends. Tokens of the previous key stay valid, and its public half stays in the " +
		"JWKS until the last of them expires.",
	"revoked": "Revoked. Within two seconds the key leaves the JWKS of every replica, and introspection refuses " +
		"its tokens.",
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
