package console

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/keyturn/keyturn/admin"
)

// signInCalls are the requests of those who sign in or out, and for their passkeys.
type signInCalls struct{ *call }

// entryCookie holds the token of a one-time link between the link and the button, so that the token is in no history
// and no bookmark.
const entryCookie = "__Host-keyturn-entry"

// signInData is the input of the pages of a sign-in.
type signInData struct {
	Next     string // path of the page to go to
	Name     string // of the administrator of a link
	Role     string
	Passkeys bool // this address can use passkeys
	Again    bool // the person is signed in, and proves again who it is
}

// localPath returns a path of this console that a query names, or that of the keys.
func localPath(next string) string {
	u, err := url.Parse(next)
	ok := err == nil &&
		strings.HasPrefix(next, "/") &&
		!strings.HasPrefix(next, "//") &&
		!strings.HasPrefix(next, "/enter") && // it may hold the token of a link
		!strings.ContainsAny(next, "\\\r\n\t") &&
		u.Host == "" &&
		u.Scheme == ""
	if !ok {
		return "/keys"
	}
	return next
}

func (k signInCalls) signInPage() error {
	d := signInData{Next: localPath(k.r.URL.Query().Get("next")), Passkeys: k.hasPasskeys()}
	if who, err := k.identify(); err == nil {
		k.who, d.Again = who, true
	}
	return k.show("sign-in", view{Title: "Sign in", Data: d})
}

// follow takes the token of a one-time link out of the address, and goes to the page with the button. A program that
// only follows links, such as the preview of a chat, uses up nothing.
func (k signInCalls) follow() error {
	// Lax: the link may be in a page of another site, such as a chat. That page cannot press the button.
	k.setCookie(entryCookie, k.vars("token"), http.SameSiteLaxMode, int(admin.LinkTTL.Seconds()))
	return k.goTo("/enter", "")
}

// errDeadLink means that a one-time link does not work.
func errDeadLink() *Problem {
	return refusal(http.StatusForbidden, "dead-link",
		"the link has been used, has expired, or was replaced by a newer "+
			"one: `keyturn admin link NAME` makes another")
}

// entry returns the token of the one-time link.
func (k signInCalls) entry() (string, error) {
	cookie, err := k.r.Cookie(entryCookie)
	if err != nil {
		return "", problem(http.StatusBadRequest, "no-link",
			"open the link of `keyturn admin link` in this browser first")
	}
	return cookie.Value, nil
}

func (k signInCalls) enterPage() error {
	token, err := k.entry()
	if err != nil {
		return err
	}
	row, err := k.reads().SignIns().LinkOwner(k.r.Context(), token)
	if errors.Is(err, admin.ErrNotFound) {
		k.clearCookie(entryCookie)
		return errDeadLink()
	}
	if err != nil {
		return err
	}
	return k.show("enter", view{Title: "Sign in", Data: signInData{Name: row.Name, Role: row.Role}})
}

// enter uses up a one-time link. A browser does not send the cookie with a form of another site (SameSite).
func (k signInCalls) enter() error {
	token, err := k.entry()
	if err != nil {
		return err
	}
	session, row, err := k.reads().SignIns().ByLink(k.r.Context(), token, k.visit(admin.WayLink))
	if errors.Is(err, admin.ErrNotFound) {
		k.clearCookie(entryCookie)
		return errDeadLink()
	}
	if err != nil {
		return err
	}
	k.clearCookie(entryCookie)
	k.setSession(session)
	k.who = identity{name: row.Name, actor: admin.AdminActor(row.Name), way: admin.WayLink}
	return k.goTo("/admins", "")
}

// visit describes the request for a sign-in.
func (k signInCalls) visit(way string) admin.Visit {
	k.who.way = way
	return admin.Visit{Address: k.address(), Token: k.sessionToken()}
}

// errNoSession means that the caller has not signed in, but proves at each request who it is.
func errNoSession() *Problem {
	return problem(http.StatusConflict, "no-session", "there is no session to end: every request proves who you are")
}

func (k signInCalls) signOut() error {
	if k.who.session == nil {
		return errNoSession()
	}
	if err := k.reads().SignIns().End(k.r.Context(), *k.who.session); err != nil && !errors.Is(err, admin.ErrNotFound) {
		return err
	}
	k.clearCookie(cookieName)
	return k.goTo("/sign-in", "signed-out")
}

func (k signInCalls) signOutEverywhere() error {
	if k.who.session == nil {
		return errNoSession()
	}
	s := admin.Session{Name: k.who.name, Way: k.who.way, Address: k.address()}
	if err := k.reads().SignIns().EndAll(k.r.Context(), s); err != nil {
		return err
	}
	k.clearCookie(cookieName)
	return k.goTo("/sign-in", "signed-out-all")
}

// signOutOther ends the sessions of another administrator.
func (k adminCalls) signOutOther() error {
	c, err := k.adminChange()
	if err != nil {
		return err
	}
	a, err := k.admin(c.Reason, 0)
	if err != nil {
		return err
	}
	s := admin.Session{Name: k.vars("name"), Way: k.who.way, Address: k.address()}
	if err := a.SignIns().EndAll(k.r.Context(), s); err != nil {
		return err
	}
	return k.goTo("/admins", "sessions-ended")
}
