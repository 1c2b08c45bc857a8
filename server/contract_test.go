package server

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/mux"

	"github.com/keyturn/keyturn"
)

// paths are those that are routed, in order.
func paths(r routes) (all []string) {
	Must(0, r.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		all = append(all, Must(route.GetPathTemplate()))
		return nil
	}))
	slices.Sort(all)
	return all
}

// The router and openapi.yaml name the same paths, and each path answers the methods that are written there and no
// other.
func TestRouterIsTheContract(t *testing.T) {
	t.Parallel()
	c := ConfigFor(SQLiteURL(t))
	c.OpenIDConfigurationAlias, c.StatusList = true, "on"
	h := OpenHarness(t, c, nil)
	h.Provision()
	list := strings.TrimPrefix(placeOf(h.Login("app").AccessToken).URI, issuer)
	doc := Must(openapi3.NewLoader().LoadFromData(keyturn.OpenAPI))
	written, routed := slices.Sorted(maps.Keys(doc.Paths.Map())), paths(h.Server.publicRoutes())
	if !cmp.Equal(written, routed) {
		t.Fatal(cmp.Diff(written, routed))
	}
	for path, item := range doc.Paths.Map() {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT",
			"FROB"} {
			if method == "CONNECT" || method == "OPTIONS" { // OPTIONS is a preflight or 405: the tests of CORS have it
				continue
			}
			r := Must(http.NewRequest(method, h.Base+strings.Replace(path, "/status/{id}", list, 1), nil))
			res := Must(noRedirect.Do(r))
			body := Must(io.ReadAll(res.Body))
			res.Body.Close()
			if known := item.Operations()[method] != nil; known == (res.StatusCode == http.StatusMethodNotAllowed) ||
				res.StatusCode == http.StatusNotFound {
				t.Errorf("%s %s: %d", method, path, res.StatusCode)
			}
			if res.StatusCode == http.StatusMethodNotAllowed && res.Header.Get("Allow") == "" {
				t.Errorf("%s %s: 405 without Allow", method, path)
			}
			if err := validate(r, res, body); err != nil {
				t.Errorf("%s %s: %v", method, path, err)
			}
		}
	}
}

// Every operation has an example, and every example is valid against its schema.
func TestContractHasExamples(t *testing.T) {
	t.Parallel()
	doc := Must(openapi3.NewLoader().LoadFromData(keyturn.OpenAPI))
	Must(0, doc.Validate(ctx, openapi3.EnableExamplesValidation()))
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			for status, response := range operation.Responses.Map() {
				for mediaType, content := range response.Value.Content {
					example := content.Example != nil || len(content.Examples) > 0 ||
						content.Schema.Value.Example != nil
					if !example && mediaType != "application/yaml" {
						t.Errorf("%s %s %s: no example", method, path, status)
					}
				}
			}
		}
	}
}

// Nothing of the admin listener is on the public one, and the other way round.
func TestListenersAreApart(t *testing.T) {
	t.Parallel()
	h := OpenHarness(t, ConfigFor(SQLiteURL(t)), nil)
	public, admin := paths(h.Server.publicRoutes()), paths(h.Server.adminRoutes())
	if slices.Contains(public, "/metrics") || slices.Contains(admin, "/token") || !slices.Contains(admin, "/metrics") {
		t.Error("a path is on the wrong listener")
	}
	for path := range strings.FieldsSeq("/admin /debug/pprof/ /debug/vars /console") {
		if r := h.Get(path); r.Status != http.StatusNotFound {
			t.Errorf("%s: %d", path, r.Status)
		}
	}
}
