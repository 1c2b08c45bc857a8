// House prints the size and shape of the code, for `make house`: lines and files of each package, the types with the
// most methods, the length of functions, the number of wide lines, the share of documented exported names, and the
// number of modules. With -time it also prints how long the tests take.
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"
)

const (
	// maxWidth is the largest number of columns of a line of Go.
	maxWidth = 120
	// tabWidth is the number of columns that a tab counts as.
	tabWidth = 4
)

func main() {
	timed := flag.Bool("time", false, "also run the tests and print how long they take")
	flag.Parse()
	if err := run(*timed); err != nil {
		fmt.Fprintln(os.Stderr, "house:", err)
		os.Exit(1)
	}
}

func run(timed bool) error {
	h, err := look(".")
	if err != nil {
		return err
	}
	h.print()
	if err := printModules(); err != nil {
		return err
	}
	if timed {
		return printTimes()
	}
	return nil
}

// pkg counts the files and lines of one folder.
type pkg struct {
	path         string
	files, lines int
	testLines    int
}

// house holds the measurements.
type house struct {
	packages   map[string]*pkg
	methods    map[string]int // number of methods by package and type
	functions  []int          // lines of each function
	longest    string
	wide       int
	exported   int
	documented int
}

// look reads every Go file of the module.
func look(root string) (*house, error) {
	h := &house{packages: map[string]*pkg{}, methods: map[string]int{}}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && skipped(d.Name()):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go"):
			return nil
		}
		return h.file(path)
	})
	return h, err
}

// skipped reports whether a folder holds no code of this project.
func skipped(folder string) bool {
	return strings.HasPrefix(folder, ".") || folder == "testdata" || folder == "bin"
}

// columns is the width of a line.
func columns(line []byte) int {
	return utf8.RuneCount(line) + (tabWidth-1)*bytes.Count(line, []byte("\t"))
}

func (h *house) file(path string) error {
	source, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	folder := filepath.ToSlash(filepath.Dir(path))
	p := h.packages[folder]
	if p == nil {
		p = &pkg{path: folder}
		h.packages[folder] = p
	}
	lines := bytes.Count(source, []byte("\n"))
	for line := range bytes.SplitSeq(source, []byte("\n")) {
		if columns(line) > maxWidth {
			h.wide++
		}
	}
	if strings.HasSuffix(path, "_test.go") {
		p.testLines += lines
		return nil
	}
	p.files++
	p.lines += lines
	positions := token.NewFileSet()
	parsed, err := parser.ParseFile(positions, path, source, parser.ParseComments)
	if err != nil {
		return err
	}
	for _, d := range parsed.Decls {
		h.declaration(positions, folder, d)
	}
	return nil
}

func (h *house) declaration(positions *token.FileSet, folder string, d ast.Decl) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		length := positions.Position(d.End()).Line - positions.Position(d.Pos()).Line + 1
		if len(h.functions) == 0 || length > slices.Max(h.functions) {
			h.longest = folder + "." + d.Name.Name
		}
		h.functions = append(h.functions, length)
		owner := receiver(d)
		if owner != "" {
			h.methods[folder+"."+owner]++
		}
		if d.Name.IsExported() && (owner == "" || ast.IsExported(owner)) {
			h.name(d.Doc)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			h.spec(d, spec)
		}
	}
}

// spec counts the exported names of a declaration. A comment above a group documents all of it.
func (h *house) spec(d *ast.GenDecl, spec ast.Spec) {
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		if spec.Name.IsExported() {
			h.name(d.Doc, spec.Doc, spec.Comment)
		}
	case *ast.ValueSpec:
		for _, n := range spec.Names {
			if n.IsExported() {
				h.name(d.Doc, spec.Doc, spec.Comment)
			}
		}
	}
}

func (h *house) name(comments ...*ast.CommentGroup) {
	h.exported++
	if slices.ContainsFunc(comments, func(c *ast.CommentGroup) bool { return c != nil }) {
		h.documented++
	}
}

// receiver returns the name of a method's type, or "" for a function.
func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	t := d.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	switch x := t.(type) {
	case *ast.IndexExpr:
		t = x.X
	case *ast.IndexListExpr:
		t = x.X
	}
	if name, ok := t.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}

func (h *house) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintln(w, "package\tfiles\tlines\tlines of tests")
	var all pkg
	paths := make([]string, 0, len(h.packages))
	for path := range h.packages {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	for _, path := range paths {
		p := h.packages[path]
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", p.path, p.files, p.lines, p.testLines)
		all.files, all.lines, all.testLines = all.files+p.files, all.lines+p.lines, all.testLines+p.testLines
	}
	fmt.Fprintf(w, "all\t%d\t%d\t%d\n\n", all.files, all.lines, all.testLines)
	for _, name := range widest(h.methods, 5) {
		fmt.Fprintf(w, "methods of %s\t%d\n", name, h.methods[name])
	}
	slices.Sort(h.functions)
	n := len(h.functions)
	fmt.Fprintf(w, "lines of a function\tmedian %d, p90 %d, longest %d (%s)\n",
		h.functions[n/2], h.functions[n*9/10], h.functions[n-1], h.longest)
	fmt.Fprintf(w, "lines over %d columns\t%d\n", maxWidth, h.wide)
	fmt.Fprintf(w, "exported names documented\t%d of %d\n", h.documented, h.exported)
}

// widest returns the n types with the most methods.
func widest(methods map[string]int, n int) []string {
	names := make([]string, 0, len(methods))
	for name := range methods {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if methods[a] != methods[b] {
			return methods[b] - methods[a]
		}
		return strings.Compare(a, b)
	})
	return names[:min(n, len(names))]
}

// printModules prints the number of modules in go.mod.
func printModules() error {
	mod, err := os.Open("go.mod")
	if err != nil {
		return err
	}
	defer mod.Close()
	direct, indirect := 0, 0
	lines := bufio.NewScanner(mod)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasSuffix(line, "// indirect"):
			indirect++
		case strings.HasPrefix(line, "\t") && strings.Contains(line, " v"):
			direct++
		}
	}
	fmt.Printf("modules                    %d direct, %d indirect\n", direct, indirect)
	return lines.Err()
}

// oneTest is an example of a test that a contributor runs by name.
const oneTest = "^TestRouterIsTheContract$"

// printTimes runs the tests and prints how long they take.
func printTimes() error {
	for _, c := range []struct {
		what  string
		clean bool // with an empty build cache
		args  []string
	}{
		{"one test, cold", true, []string{"go", "test", "-count=1", "-run", oneTest, "./server"}},
		{"one test, warm", false, []string{"go", "test", "-count=1", "-run", oneTest, "./server"}},
		{"go test ./server", false, []string{"go", "test", "-count=1", "./server"}},
		{"make test", false, []string{"make", "test"}},
	} {
		took, err := timeOf(c.clean, c.args...)
		if err != nil {
			return fmt.Errorf("%s: %w", c.what, err)
		}
		fmt.Printf("%-26s %.0f s\n", c.what, took.Seconds())
	}
	return nil
}

// timeOf runs a command and returns its duration. A clean run starts with an empty build cache.
func timeOf(clean bool, args ...string) (time.Duration, error) {
	cmd := exec.Command(args[0], args[1:]...)
	if clean {
		cache, err := os.MkdirTemp("", "house")
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(cache)
		cmd.Env = append(os.Environ(), "GOCACHE="+cache)
	}
	begun := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%w\n%s", err, out)
	}
	return time.Since(begun), nil
}
