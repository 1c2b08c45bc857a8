package verify_test

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"os"
	"strings"
	"testing"
)

// Every exported name has a comment.
func TestEverythingIsDocumented(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	names := 0
	want := func(name *ast.Ident, comments ...*ast.CommentGroup) {
		if !name.IsExported() {
			return
		}
		names++
		for _, c := range comments {
			if c != nil {
				return
			}
		}
		t.Errorf("%s has no comment", name.Name)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(gotoken.NewFileSet(), f.Name(), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil || ast.IsExported(receiver(n)) {
					want(n.Name, n.Doc)
				}
				return false
			case *ast.GenDecl:
				for _, s := range n.Specs {
					if s, ok := s.(*ast.TypeSpec); ok {
						want(s.Name, n.Doc, s.Doc)
					}
					if s, ok := s.(*ast.ValueSpec); ok {
						want(s.Names[0], n.Doc, s.Doc, s.Comment)
					}
				}
			case *ast.Field:
				for _, name := range n.Names {
					if exportedOwner(file, n) {
						want(name, n.Doc, n.Comment)
					}
				}
			}
			return true
		})
	}
	if names < 60 {
		t.Errorf("only %d names were found", names)
	}
}

func receiver(f *ast.FuncDecl) string {
	switch t := f.Recv.List[0].Type.(type) {
	case *ast.StarExpr:
		return t.X.(*ast.Ident).Name
	case *ast.Ident:
		return t.Name
	}
	return ""
}

// exportedOwner reports whether a field or method belongs to an exported type.
func exportedOwner(file *ast.File, field *ast.Field) (exported bool) {
	for _, d := range file.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Pos() <= field.Pos() && field.End() <= g.End() {
			for _, s := range g.Specs {
				if s, ok := s.(*ast.TypeSpec); ok && s.Pos() <= field.Pos() && field.End() <= s.End() {
					exported = s.Name.IsExported()
				}
			}
		}
	}
	return exported
}
