package console

import (
	"slices"

	"github.com/keyturn/keyturn/admin"
)

// Entry is a route, for tests.
type Entry struct {
	Method, Path string
	Role         admin.Role
	Open, Fresh  bool
}

// IsScripted reports whether a path is for the script of the pages.
func IsScripted(path string) bool {
	return slices.ContainsFunc(pageRoutes(), func(r route) bool { return r.path == path && r.script })
}

// Table returns the table of routes.
func Table() (all []Entry) {
	for _, r := range append(apiRoutes(), pageRoutes()...) {
		all = append(all, Entry{r.method, r.path, r.role, r.open, r.fresh})
	}
	return all
}

// SinceText reads a time from a form.
var SinceText = sinceText
