package keyturn_test

import (
	"bytes"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// generator makes Go clients of openapi.yaml.
const generator = "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.0"

// The usual generator makes clients of both contracts without a warning, and no two names of one collide.
func TestContractMakesAClient(t *testing.T) {
	t.Parallel()
	for contract, names := range map[string][]string{
		"openapi.yaml":       {"TokenResponse", "RequestTokenResponse", "Metadata", "NewClient"},
		"console/admin.yaml": {"RegisteredClient", "RotateKeysResponse", "Problem", "NewClient"},
	} {
		t.Run(contract, func(t *testing.T) {
			t.Parallel()
			makesAClient(t, contract, names)
		})
	}
}

func makesAClient(t *testing.T, file string, names []string) {
	t.Helper()
	contract, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	generate := exec.Command("go", "run", generator, "-generate", "types,client", "-package", "client", contract)
	generate.Dir = t.TempDir() // outside this module, whose dependencies do not matter
	generate.Env = append(os.Environ(), "GOFLAGS=-mod=mod")
	var said bytes.Buffer
	generate.Stderr = &said
	code, err := generate.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	for line := range strings.Lines(said.String()) {
		if !strings.HasPrefix(line, "go: downloading ") {
			t.Error(line)
		}
	}
	files := token.NewFileSet()
	source, err := parser.ParseFile(files, "client.go", code, 0)
	if err != nil {
		t.Fatal(err)
	}
	check := types.Config{
		Importer: importer.Default(), // of other modules it knows nothing
		Error: func(err error) {
			if strings.Contains(err.Error(), "redeclared") {
				t.Error(err)
			}
		},
	}
	pkg, _ := check.Check("client", files, []*ast.File{source}, nil)
	for _, name := range names {
		if pkg.Scope().Lookup(name) == nil {
			t.Errorf("the client lacks %s", name)
		}
	}
}
