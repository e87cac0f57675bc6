package tidy

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/skeindb/skein"

// source is one Go file of the module.
type source struct {
	path   string // from the root, with slashes
	folder string // "internal/base"; "" is the root package
	test   bool
	lines  int
	fset   *token.FileSet
	file   *ast.File
}

// pkg is what `go list` says about a package.
type pkg struct {
	ImportPath   string
	Standard     bool
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

// tree is the source tree as the tests see it: read once.
type tree struct {
	files    []string // all files of the project, from the root
	sources  []source
	packages map[string]pkg // by folder; only those of the module
}

var readTree = sync.OnceValues(func() (*tree, error) {
	root, err := findRoot()
	if err != nil {
		return nil, err
	}
	if err := os.Chdir(root); err != nil {
		return nil, err
	}
	t := &tree{}
	if t.files, err = listFiles(); err != nil {
		return nil, err
	}
	if err = t.parse(); err != nil {
		return nil, err
	}
	return t, t.list()
})

// load reads the tree and leaves the test in its root.
func load(t *testing.T) *tree {
	t.Helper()
	read, err := readTree()
	if err != nil {
		t.Fatal(err)
	}
	if len(read.sources) < 50 || len(read.packages) < 20 {
		t.Fatalf("only %d Go files in %d packages were found", len(read.sources), len(read.packages))
	}
	return read
}

func findRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			err = errors.New("no go.mod above the test's folder")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// listFiles returns what belongs to the project: what git tracks or would
// track, or every file where there is no git. It walks in any case: results of
// tests are remembered by the folders that a test itself has read.
func listFiles() ([]string, error) {
	files, err := walkFiles()
	if err != nil {
		return nil, err
	}
	out, err := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return files, nil
	}
	known := map[string]bool{}
	for name := range strings.SplitSeq(string(out), "\x00") {
		known[name] = true
	}
	return slices.DeleteFunc(files, func(name string) bool { return !known[name] }), nil
}

func walkFiles() ([]string, error) {
	var files []string
	err := filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == ".git" || d.Name() == "skein-data") {
			return filepath.SkipDir
		}
		if err == nil && d.Type().IsRegular() {
			files = append(files, filepath.ToSlash(path))
		}
		return err
	})
	return files, err
}

func (t *tree) parse() error {
	for _, path := range t.files {
		if !strings.HasSuffix(path, ".go") || strings.Contains(path, "/testdata/") {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		s := source{path: path, folder: folderOf(path), test: strings.HasSuffix(path, "_test.go"), fset: token.NewFileSet()}
		s.lines = bytes.Count(text, []byte("\n"))
		if s.file, err = parser.ParseFile(s.fset, path, text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			return err
		}
		t.sources = append(t.sources, s)
	}
	return nil
}

func folderOf(path string) string {
	if dir := filepath.ToSlash(filepath.Dir(path)); dir != "." {
		return dir
	}
	return ""
}

func (t *tree) list() error {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,TestImports,XTestImports,Deps", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	t.packages = map[string]pkg{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if folder, ours := ownFolder(p.ImportPath); ours {
			t.packages[folder] = p
		}
	}
}

// ownFolder returns the folder of an import path of this module.
func ownFolder(path string) (string, bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

// at is where a node of the syntax tree stands, for messages.
func (s source) at(n ast.Node) string { return s.fset.Position(n.Pos()).String() }

// imports maps the names under which a file sees its imports to their paths.
func (s source) imports() map[string]string {
	names := map[string]string{}
	for _, spec := range s.file.Imports {
		path := strings.Trim(spec.Path.Value, `"`)
		name := path[strings.LastIndex(path, "/")+1:]
		if name == "v2" || name == "v3" || name == "v5" {
			short := strings.TrimSuffix(path, "/"+name)
			name = short[strings.LastIndex(short, "/")+1:]
		}
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = path
	}
	return names
}
