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

// as turns a request for a noun into a handler.
func as[Calls ~struct{ *call }, Result any](run func(Calls) Result) func(*call) Result {
	return func(k *call) Result { return run(Calls{k}) }
}

// answers turns a request for a noun into a handler of the API.
func answers[Calls ~struct{ *call }](run func(Calls) (any, error)) func(*call) (any, error) {
	return func(k *call) (any, error) { return run(Calls{k}) }
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
		reads("keys", answers(keyCalls.listKeys)),
		reads("keys/status", answers(keyCalls.keyStatus)),
		reads("keys/readiness", answers(keyCalls.keyReadiness)),
		{method: http.MethodGet, path: apiPrefix + "keys/timeline.svg", role: admin.RoleViewer,
			run: as(keyCalls.keyTimeline)},
		changes("keys/rotate", admin.RoleKeyOperator, answers(keyCalls.rotateKeys)),
		reads("keys/{kid}/exposure", answers(keyCalls.keyExposure)),
		changes("keys/{kid}/revoke", admin.RoleKeyOperator, answers(keyCalls.revokeKey)),

		reads("clients", answers(clientCalls.listClients)),
		reads("clients/{id}", answers(clientCalls.showClient)),
		changes("clients/{id}/rotate-secret", admin.RoleOperator, answers(clientCalls.rotateSecret)),
		changes("clients/{id}/enable", admin.RoleOperator, clientRows.answers(admin.Clients.Enable)),
		changes("clients/{id}/disable", admin.RoleOperator, clientRows.answers(admin.Clients.Disable)),

		reads("users", answers(userCalls.listUsers)),
		reads("users/{name}", answers(userCalls.showUser)),
		changes("users/{name}/enable", admin.RoleOperator, userRows.answers(admin.Users.Enable)),
		changes("users/{name}/disable", admin.RoleOperator, userRows.answers(admin.Users.Disable)),
		changes("users/{name}/unlock", admin.RoleOperator, userRows.answers(admin.Users.Unlock)),
		changes("users/{name}/roles", admin.RoleOperator, answers(userCalls.setRoles)),

		reads("grants", answers(grantCalls.listGrants)),
		changes("grants/revoke", admin.RoleOperator, answers(grantCalls.endGrants)),
		reads("grants/{id}", answers(grantCalls.showGrant)),
		{
			method: http.MethodDelete,
			path:   apiPrefix + "grants/{id}",
			role:   admin.RoleOperator,
			run:    func(k *call) error { return k.serveAPI(answers(grantCalls.endGrant)) },
		},

		reads("verifiers", answers(observationCalls.listVerifiers)),
		reads("probe-reports", answers(observationCalls.listProbeReports)),
		reads("audit", answers(auditCalls.listAudit)),
		reads("audit/verify", answers(auditCalls.verifyAudit)),
		{method: http.MethodGet, path: apiPrefix + "audit/export", role: admin.RoleAuditor,
			run: as(auditCalls.exportAudit)},
		{method: http.MethodGet, path: apiPrefix + "openapi.yaml", role: admin.RoleViewer, run: as(fileCalls.openAPI)},
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
