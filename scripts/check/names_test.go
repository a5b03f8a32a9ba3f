package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/constant"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What a reader has to know of a package before she can use it, and of most.
const (
	mostNames   = 45
	medianNames = 7
)

// TestFewNames counts the exported names at the top level of each package that can be imported. The constants of an
// enumeration count as one with their type: who knows the type knows where to look.
func TestFewNames(t *testing.T) {
	fset := token.NewFileSet()
	names := map[string]map[string]bool{}
	for _, name := range goFiles(t) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if f.Name.Name == "main" || ast.IsGenerated(f) {
			continue
		}
		if names[path.Dir(name)] == nil {
			names[path.Dir(name)] = map[string]bool{}
		}
		maps.Copy(names[path.Dir(name)], exported(f))
	}
	counts := []int{}
	for dir, exported := range names {
		counts = append(counts, len(exported))
		if len(exported) > mostNames {
			t.Errorf("%s exports %d names, more than %d: %q", dir, len(exported), mostNames, slices.Sorted(maps.Keys(exported)))
		}
	}
	slices.Sort(counts)
	if median := counts[len(counts)/2]; median > medianNames {
		t.Errorf("half of the packages export more than %d names: the median is %d", medianNames, median)
	}
}

func TestNamesAreCounted(t *testing.T) {
	const source = `package p
type A int
const (
	B A = iota
	C
	D = "d"
	e = 1
)
const F A = 3
var G, h = 1, 2
func I() {}
func j() {}
func (A) K() {}
type l struct{ M int }`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(exported(f))); !slices.Equal(got, []string{"A", "D", "G", "I"}) {
		t.Errorf("counted %q", got)
	}
}

// exported returns the names that a file adds to its package, without methods and fields.
func exported(f *ast.File) map[string]bool {
	names := map[string]bool{}
	add := func(name *ast.Ident) {
		if name.IsExported() {
			names[name.Name] = true
		}
	}
	for _, d := range f.Decls {
		if function, ok := d.(*ast.FuncDecl); ok && function.Recv == nil {
			add(function.Name)
			continue
		}
		group, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		enumerates := false // a constant without a value of its own is of the type before it
		for _, s := range group.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				add(s.Name)
			case *ast.ValueSpec:
				if of, ok := s.Type.(*ast.Ident); group.Tok == token.CONST && (s.Type != nil || len(s.Values) > 0) {
					enumerates = ok && of.IsExported()
				}
				for _, name := range s.Names {
					if !enumerates {
						add(name)
					}
				}
			}
		}
	}
	return names
}

// SPEC.md defines the checks by name, and the code spells the names out: each name in the code is in a table of SPEC.md,
// and each in a table is in the code.
func TestChecksAreSpecified(t *testing.T) {
	spec, err := os.ReadFile(filepath.Join(root, "shared/handoff/SPEC.md"))
	if err != nil {
		t.Fatal(err)
	}
	defined := checksIn(string(spec))
	used := map[string]token.Position{}
	fset := token.NewFileSet()
	exports := exportData(t)
	conf := types.Config{Importer: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		return os.Open(exports[path])
	})}
	for path, p := range list(t) {
		if strings.HasPrefix(path, module+"/") && (path == module+"/shared/handoff" || slices.Contains(p.Imports, module+"/shared/handoff")) {
			maps.Copy(used, checksOf(t, fset, p, conf))
		}
	}
	for name, at := range used {
		if name != "" && !defined[name] {
			t.Errorf("%s: no table of SPEC.md defines the check %q", at, name)
		}
	}
	for name := range defined {
		if _, ok := used[name]; !ok {
			t.Errorf("SPEC.md defines the check %q, which nothing makes", name)
		}
	}
}

func TestChecksAreRead(t *testing.T) {
	got := checksIn("| check | demand |\n| --- | --- |\n| `a.b`, `c` | `d` is e |\n\ntext\n" +
		"| claim | | check |\n| --- | --- | --- |\n| `f` | g | `h.i_j` |\n\n| alg | key |\n| --- | --- |\n| `k` | l |\n")
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, []string{"a.b", "c", "h.i_j"}) {
		t.Errorf("read %q", names)
	}
}

// checksIn returns the names in the columns "check" of a page's tables.
func checksIn(page string) map[string]bool {
	quoted := regexp.MustCompile("`([a-z0-9_.]+)`")
	names := map[string]bool{}
	column := -1
	within := false
	for line := range strings.Lines(page) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) < 3 {
			within = false
			continue
		}
		if !within { // the table's head
			within = true
			column = slices.IndexFunc(cells, func(cell string) bool { return strings.TrimSpace(cell) == "check" })
			continue
		}
		if column >= 0 && column < len(cells) {
			for _, name := range quoted.FindAllStringSubmatch(cells[column], -1) {
				names[name[1]] = true
			}
		}
	}
	return names
}

// checksOf returns the constants of the type handoff.Check in a package, without its tests.
func checksOf(t *testing.T, fset *token.FileSet, p pkg, conf types.Config) map[string]token.Position {
	var files []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := types.Info{Types: map[ast.Expr]types.TypeAndValue{}}
	if _, err := conf.Check(p.ImportPath, fset, files, &info); err != nil {
		t.Fatal(err)
	}
	found := map[string]token.Position{}
	for expr, is := range info.Types {
		named, ok := is.Type.(*types.Named)
		if ok && is.Value != nil && named.Obj().Name() == "Check" && named.Obj().Pkg().Path() == module+"/shared/handoff" {
			found[constant.StringVal(is.Value)] = fset.Position(expr.Pos())
		}
	}
	return found
}

// exportData returns where the compiler has left what each package exports.
func exportData(t *testing.T) map[string]string {
	t.Helper()
	out, err := run("go", "list", "-export", "-deps", "-json=ImportPath,Export", "./...")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct{ ImportPath, Export string }
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return files
		} else if err != nil {
			t.Fatal(fmt.Errorf("go list: %w", err))
		}
		files[p.ImportPath] = p.Export
	}
}
