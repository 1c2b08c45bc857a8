package server

import (
	"io"
	"net/http"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/mux"

	"github.com/keyturn/keyturn"
)

// The router and openapi.yaml name the same paths, and each path answers the methods that are written there and no other.
func TestRouterIsTheContract(t *testing.T) {
	h := open(t, testConfig(sqliteURL(t)), nil)
	doc := must(openapi3.NewLoader().LoadFromData(keyturn.OpenAPI))
	var written, routed []string
	for path := range doc.Paths.Map() {
		written = append(written, path)
	}
	must(0, h.server.publicRoutes().Walk(func(r *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, err := r.GetPathTemplate()
		routed = append(routed, path)
		return err
	}))
	sort.Strings(written)
	sort.Strings(routed)
	if !cmp.Equal(written, routed) {
		t.Fatal(cmp.Diff(written, routed))
	}
	for path, item := range doc.Paths.Map() {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "FROB"} {
			if method == "CONNECT" || method == "OPTIONS" { // OPTIONS is a preflight or 405: the tests of CORS have it
				continue
			}
			r := must(http.NewRequest(method, h.base+path, nil))
			res := must(noRedirect.Do(r))
			body := must(io.ReadAll(res.Body))
			res.Body.Close()
			if known := item.Operations()[method] != nil; known == (res.StatusCode == http.StatusMethodNotAllowed) || res.StatusCode == http.StatusNotFound {
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
	doc := must(openapi3.NewLoader().LoadFromData(keyturn.OpenAPI))
	must(0, doc.Validate(ctx, openapi3.EnableExamplesValidation()))
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			for status, response := range operation.Responses.Map() {
				for mediaType, content := range response.Value.Content {
					example := content.Example != nil || len(content.Examples) > 0 || content.Schema.Value.Example != nil
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
	h := open(t, testConfig(sqliteURL(t)), nil)
	public, admin := pathsOf(t, h.server.publicRoutes()), pathsOf(t, h.server.adminRoutes())
	if slices.Contains(public, "/metrics") || slices.Contains(admin, "/token") || !slices.Contains(admin, "/metrics") {
		t.Error(public, admin)
	}
	for path := range strings.FieldsSeq("/admin /debug/pprof/ /debug/vars /console") {
		if r := h.get(path); r.status != http.StatusNotFound {
			t.Errorf("%s: %d", path, r.status)
		}
	}
}

func pathsOf(t *testing.T, r *mux.Router) (paths []string) {
	t.Helper()
	must(0, r.Walk(func(r *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, err := r.GetPathTemplate()
		paths = append(paths, path)
		return err
	}))
	return paths
}
