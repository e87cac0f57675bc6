package tidy

import (
	"go/ast"
	"maps"
	"slices"
	"strings"
	"testing"
)

const (
	maxFunctionLines     = 70
	maxTestFunctionLines = 120
	maxFileLines         = 800
	minPackageDoc        = 40 // characters
)

func TestFunctionsFitAScreen(t *testing.T) {
	read := load(t)
	for _, s := range read.sources {
		if s.lines > maxFileLines {
			t.Errorf("%s has %d lines, more than %d", s.path, s.lines, maxFileLines)
		}
		limit := maxFunctionLines
		if layer, _ := layerOf(s.folder); s.test || layer == tools {
			limit = maxTestFunctionLines
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1; n > limit {
				t.Errorf("%s: %s has %d lines, more than %d", s.at(f), f.Name.Name, n, limit)
			}
		}
	}
}

func TestPackagesAreDocumented(t *testing.T) {
	read := load(t)
	docs, names := map[string]string{}, map[string]string{}
	for _, s := range read.sources {
		if s.test {
			continue
		}
		names[s.folder] = s.file.Name.Name
		docs[s.folder] += s.file.Doc.Text()
	}
	for _, folder := range slices.Sorted(maps.Keys(names)) {
		want := "Package " + names[folder] + " "
		if names[folder] == "main" {
			want = "Command "
		}
		if !strings.HasPrefix(docs[folder], want) || len(docs[folder]) < minPackageDoc {
			t.Errorf("%s: the package comment begins %q, want %q and what it owns", folder, firstWords(docs[folder]), want)
		}
		switch names[folder] {
		case "common", "helper", "helpers", "manager", "misc", "util", "utils":
			t.Errorf("%s: a package is named for its one purpose", folder)
		}
	}
}

func firstWords(s string) string { return s[:min(len(s), 30)] }

func TestExportedNamesAreDocumented(t *testing.T) {
	read := load(t)
	for _, s := range read.sources {
		if s.test || s.file.Name.Name == "main" {
			continue
		}
		said := docsOf(s.file)
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if ast.IsExported(d.Name.Name) && exportedReceiver(d) && d.Doc == nil && !said[d.Name.Name] {
					t.Errorf("%s: %s has no comment", s.at(d), d.Name.Name)
				}
			case *ast.GenDecl:
				checkSpecs(t, s, d, said)
			}
		}
	}
}

// docsOf collects the words of all comments on declarations: one comment may
// speak for the neighbours that it names.
func docsOf(f *ast.File) map[string]bool {
	said := map[string]bool{}
	note := func(g *ast.CommentGroup) {
		for _, word := range strings.FieldsFunc(g.Text(), func(r rune) bool { return strings.ContainsRune(" ,.:;()\n", r) }) {
			said[word] = true
		}
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			note(d.Doc)
		case *ast.GenDecl:
			note(d.Doc)
		}
	}
	return said
}

// exportedReceiver says whether a function is one, or a method of a type that
// other packages can name.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.IndexListExpr:
			typ = x.X
		case *ast.Ident:
			return ast.IsExported(x.Name)
		default:
			return false
		}
	}
}

func checkSpecs(t *testing.T, s source, d *ast.GenDecl, said map[string]bool) {
	t.Helper()
	for _, spec := range d.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			if ast.IsExported(spec.Name.Name) && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
				t.Errorf("%s: %s has no comment", s.at(spec), spec.Name.Name)
			}
		case *ast.ValueSpec:
			for _, name := range spec.Names {
				if ast.IsExported(name.Name) && d.Doc == nil && spec.Doc == nil && spec.Comment == nil && !said[name.Name] {
					t.Errorf("%s: %s has no comment", s.at(name), name.Name)
				}
			}
		}
	}
}
