package console

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/admin"
)

// admin.yaml and the table of routes name the same operations, with the same roles.
func TestRoutesAreTheContract(t *testing.T) {
	t.Parallel()
	doc, err := openapi3.NewLoader().LoadFromData(contract)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	var written, routed []string
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			_, role, _ := strings.Cut(operation.Description, "Needs the role ")
			written = append(written, method+" "+path+" "+strings.TrimSuffix(role, "."))
		}
	}
	for _, r := range apiRoutes() {
		routed = append(routed, r.method+" "+r.path+" "+string(r.role))
	}
	slices.Sort(written)
	slices.Sort(routed)
	if diff := gocmp.Diff(written, routed); diff != "" {
		t.Error(diff)
	}
}

// Whatever changes something needs more than the role viewer, and a change of keys needs a recent sign-in.
func TestChangesNeedARole(t *testing.T) {
	t.Parallel()
	own := []string{"/sign-out", "/sign-out-everywhere", "/passkeys/options", "/passkeys", "/passkeys/{id}/remove"}
	for _, r := range append(apiRoutes(), pageRoutes()...) {
		switch {
		case isRead(r.method) || r.open:
		case cmp.Or(r.role, admin.RoleViewer) == admin.RoleViewer && !slices.Contains(own, r.path):
			t.Errorf("%s %s: a viewer may do it", r.method, r.path)
		case r.role == admin.RoleKeyOperator && !r.fresh:
			t.Errorf("%s %s: an old sign-in suffices", r.method, r.path)
		case r.method == "POST" && !strings.HasPrefix(r.path, apiPrefix) && r.role != admin.RoleViewer && r.back == nil:
			t.Errorf("%s %s: its form gets lost", r.method, r.path)
		}
	}
}
