package console

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gorilla/mux"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/api"
)

// route is one entry of the table of routes: who may use it, and what it does.
type route struct {
	method, path string
	role         admin.Role
	fresh        bool // needs a sign-in within the last minutes
	open         bool // needs no sign-in
	script       bool // for the script of the pages: errors are JSON
	run          func(*call) error
	back         func(*call) error // of a form: its page, which shows an error; nil: none

	vars map[string]string // of the path of a request
}

// reads makes a route of the API that answers JSON.
func reads(path string, run func(*call) (any, error)) route {
	return route{
		method: http.MethodGet,
		path:   apiPrefix + path,
		role:   admin.RoleViewer,
		run:    func(k *call) error { return k.serveAPI(run) },
	}
}

// changes makes a route of the API that changes something.
func changes(path string, role admin.Role, run func(*call) (any, error)) route {
	return route{
		method: http.MethodPost,
		path:   apiPrefix + path,
		role:   role,
		fresh:  role == admin.RoleKeyOperator,
		run:    func(k *call) error { return k.retryable(run) },
	}
}

// apiRoutes lists the API in the order of admin.yaml.
func apiRoutes() []route {
	return []route{
		reads("keys", (*call).listKeys),
		reads("keys/status", (*call).keyStatus),
		reads("keys/readiness", (*call).keyReadiness),
		{method: http.MethodGet, path: apiPrefix + "keys/timeline.svg", role: admin.RoleViewer,
			run: (*call).keyTimeline},
		changes("keys/rotate", admin.RoleKeyOperator, (*call).rotateKeys),
		reads("keys/{kid}/exposure", (*call).keyExposure),
		changes("keys/{kid}/revoke", admin.RoleKeyOperator, (*call).revokeKey),

		reads("clients", (*call).listClients),
		reads("clients/{id}", (*call).showClient),
		changes("clients/{id}/rotate-secret", admin.RoleOperator, (*call).rotateSecret),
		changes("clients/{id}/enable", admin.RoleOperator, (*call).enableClient),
		changes("clients/{id}/disable", admin.RoleOperator, (*call).disableClient),

		reads("users", (*call).listUsers),
		reads("users/{name}", (*call).showUser),
		changes("users/{name}/enable", admin.RoleOperator, (*call).enableUser),
		changes("users/{name}/disable", admin.RoleOperator, (*call).disableUser),
		changes("users/{name}/unlock", admin.RoleOperator, (*call).unlockUser),
		changes("users/{name}/roles", admin.RoleOperator, (*call).setRoles),

		reads("grants", (*call).listGrants),
		changes("grants/revoke", admin.RoleOperator, (*call).endGrants),
		reads("grants/{id}", (*call).showGrant),
		{
			method: http.MethodDelete,
			path:   apiPrefix + "grants/{id}",
			role:   admin.RoleOperator,
			run:    func(k *call) error { return k.serveAPI((*call).endGrant) },
		},

		reads("verifiers", (*call).listVerifiers),
		reads("probe-reports", (*call).listProbeReports),
		reads("audit", (*call).listAudit),
		reads("audit/verify", (*call).verifyAudit),
		{method: http.MethodGet, path: apiPrefix + "audit/export", role: admin.RoleAuditor, run: (*call).exportAudit},
		{method: http.MethodGet, path: apiPrefix + "openapi.yaml", role: admin.RoleViewer, run: (*call).openAPI},
	}
}

// routes makes the router. It never cleans or redirects a path: a path that is not in the table is not found.
func (c *Console) routes() http.Handler {
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	r.NotFoundHandler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		k := callOf(r)
		k.route = route{path: "other", role: admin.RoleViewer}
		k.fail(k.admitted(func() error { return problem(http.StatusNotFound, "not-found", "there is nothing here") }))
	})
	table := append(apiRoutes(), pageRoutes()...)
	byPath := map[string][]route{}
	var paths []string
	for _, t := range table {
		if byPath[t.path] == nil {
			paths = append(paths, t.path)
		}
		byPath[t.path] = append(byPath[t.path], t)
	}
	for _, path := range paths {
		r.Handle(path, c.serve(byPath[path]))
	}
	return r
}

// serve answers the requests of one path. Another method is refused with Allow (RFC 9110 §15.5.6).
func (c *Console) serve(methods []route) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		k := callOf(r)
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		i := slices.IndexFunc(methods, func(t route) bool { return t.method == method })
		if i < 0 {
			k.route = route{path: methods[0].path}
			k.fail(notAllowed(methods))
			return
		}
		k.route = methods[i]
		k.page = k.page && !k.route.script
		vars, bad := decoded(mux.Vars(r))
		k.route.vars = vars
		err := k.admitted(func() error {
			if bad != nil {
				k.passed = false // there is no such page
				return bad
			}
			return k.route.run(k)
		})
		if err != nil {
			k.fail(err)
		}
		c.cleanUp(r.Context())
	})
}

func notAllowed(methods []route) error {
	var allowed []string
	for _, t := range methods {
		allowed = append(allowed, t.method)
		if t.method == http.MethodGet {
			allowed = append(allowed, http.MethodHead)
		}
	}
	return problem(http.StatusMethodNotAllowed, "method", "use %s", strings.Join(allowed, " or ")).
		with("Allow", strings.Join(allowed, ", "))
}

// decoded decodes the variables of a path.
func decoded(vars map[string]string) (map[string]string, error) {
	plain := map[string]string{}
	for name, value := range vars {
		text, err := url.PathUnescape(value)
		if err != nil {
			return nil, problem(http.StatusBadRequest, "bad-path", "the path is not well encoded")
		}
		if !api.IsText(text) {
			return nil, problem(http.StatusNotFound, "not-found", "there is nothing here")
		}
		plain[name] = text
	}
	return plain, nil
}
