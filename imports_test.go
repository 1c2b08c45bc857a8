package keyturn_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/keyturn/keyturn"

// arrows lists every import that is allowed between the packages of the program.
var arrows = map[string][]string{
	"":           {},
	"api":        {},
	"clock":      {},
	"config":     {},
	"queue":      {},
	"statuslist": {},
	"storage":    {"storage/internal/engine"},
	"keys":       {"clock", "keys/internal/openssl", "queue", "storage"},
	"passwords":  {"queue"},
	"probe":      {},
	"admin":      {"api", "clock", "config", "keys", "passwords", "probe", "statuslist", "storage"},
	"server":     {"", "api", "clock", "config", "keys", "passwords", "queue", "statuslist", "storage"},
	"console":    {"admin", "api"},
	"selfcheck":  {"api"},
	"examples":   {},
	"cmd/keyturn": {
		"admin",
		"api",
		"config",
		"console",
		"examples",
		"keys",
		"passwords",
		"selfcheck",
		"server",
		"storage",
	},

	"storage/internal/engine": {},
	"keys/internal/openssl":   {},

	"tools/house": {},

	"verify": {}, // a module of its own

	"peers/peer":     {}, // and so is this
	"peers/fosite":   {"peers/peer"},
	"peers/gooauth2": {"peers/peer"},
	"peers/glewlwyd": {"peers/peer"},

	"cmd/keyturn-bench": {"admin", "api", "config", "keys", "keys/keystest", "storage", "storage/storagetest"},
}

// strangers lists imports that a package must not have, including their subpackages.
var strangers = map[string][]string{
	"storage/internal/engine": {"net/http", "github.com/go-jose", "github.com/gorilla", "github.com/spf13"},
	"storage":                 {"net/http", "github.com/go-jose", "github.com/gorilla", "github.com/spf13"},
	"keys":                    {"net/http", "github.com/gorilla", "github.com/spf13"},
	"probe":                   {"github.com"},
	"passwords":               {"net/http", "github.com/gorilla", "github.com/spf13"},
	"admin": {
		"github.com/go-jose",
		"github.com/gorilla",
		"github.com/spf13",
		"modernc.org/sqlite",
		"github.com/lib/pq",
		"github.com/jmoiron/sqlx",
	},
	"config": {"github.com"},
	"server": {
		"github.com/spf13",
		"modernc.org/sqlite",
		"github.com/lib/pq",
		"github.com/jmoiron/sqlx",
	},
	"cmd/keyturn": {
		"github.com/go-jose",
		"github.com/gorilla",
		"modernc.org/sqlite",
		"github.com/lib/pq",
		"github.com/jmoiron/sqlx",
	},
}

func TestImports(t *testing.T) {
	seen := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == "testdata" {
			return filepath.SkipDir
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		from := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), ".")
		if strings.HasSuffix(from, "test") || strings.HasPrefix(from, "examples/") {
			return nil // packages for tests (storagetest, keystest), and the example programs
		}
		allowed, known := arrows[from]
		if !known {
			t.Errorf("%s: arrows does not list this package", path)
		}
		seen[from] = true
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			name, _ := strconv.Unquote(spec.Path.Value)
			checkImport(t, path, from, name, allowed)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) != len(arrows) {
		t.Errorf("packages %v, arrows for %d", seen, len(arrows))
	}
}

func checkImport(t *testing.T, path, from, name string, allowed []string) {
	t.Helper()
	if to, inside := strings.CutPrefix(name, module); inside {
		if to = strings.TrimPrefix(to, "/"); !slices.Contains(allowed, to) {
			t.Errorf("%s: imports %s", path, name)
		}
		return
	}
	for _, stranger := range strangers[from] {
		if name == stranger || strings.HasPrefix(name, stranger+"/") {
			t.Errorf("%s: imports %s", path, name)
		}
	}
	if from == "api" && strings.Contains(strings.SplitN(name, "/", 2)[0], ".") {
		t.Errorf("%s: imports %s: api needs the standard library only", path, name)
	}
}
