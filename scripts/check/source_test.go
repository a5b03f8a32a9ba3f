package check

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// pureCalls are the calls that may make a package-level variable: what they return does not change.
var pureCalls = []string{
	"errors.New", "fmt.Errorf", "regexp.MustCompile", "strings.NewReplacer",
	"base64.RawURLEncoding.Strict", "netip.MustParseAddr", "netip.MustParsePrefix",
}

func TestSource(t *testing.T) {
	fset := token.NewFileSet()
	dirs := map[string][]*ast.File{}
	for _, name := range goFiles(t) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, filepath.Join(root, name), nil, parser.ParseComments)
		if err != nil {
			t.Error(err)
		} else if !ast.IsGenerated(f) {
			dirs[path.Dir(name)] = append(dirs[path.Dir(name)], f)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		for _, complaint := range complaintsAbout(fset, dirs[dir]) {
			t.Error(complaint)
		}
	}
}

// The rules refuse each of these, and only these.
func TestSourceRulesRefuse(t *testing.T) {
	for _, c := range []struct {
		source string
		want   string // a part of the one complaint; empty: none
	}{
		{source: `var ErrX = errors.New("x")`},
		{source: `var x = map[string]int{"a": 1}; func f() int { return x["a"] }`},
		{source: `var x = []byte("a")`},
		{source: "//go:embed schema.sql\nvar x string"},
		{source: `var _ error = (*E)(nil); type E struct{}`},
		{source: `var x = []struct{ f func() }{{f: func() { g() }}}; func g() {}`},
		{source: `var x = 1; func f() { x := 2; x++ }`},
		{source: `var x = func() (set [2]bool) { set[1] = true; return }()`},
		{source: `var x = sync.Pool{New: func() any { return nil }}`},
		{source: `var x = func() map[int]bool { return nil }()`, want: "x is made by a call"},
		{source: `var x int`, want: "x has no value"},
		{source: `var x = make(map[string]int)`, want: "x is made by a call"},
		{source: `var x = map[string]T{"a": open()}; func open() (t T) { return }; type T struct{}`, want: "x is made by a call"},
		{source: `var x = &T{}; type T struct{}`, want: "x points"},
		{source: `var x = T{}; type T struct{ n int }; func f() { x.n = 1 }`, want: "x is written"},
		{source: `var x = map[string]int{}; func f() { x["a"]++ }`, want: "x is written"},
		{source: `var x = map[string]int{}; func f() { delete(x, "a") }`, want: "x is written"},
		{source: `var x = []int{1}; func f() { for x[0] = range 3 {} }`, want: "x is written"},
		{source: `var x = []int{1}; func f() { _ = &x }`, want: "x is written"},
		{source: `var x = T{}; type T struct{ n int }; func (t *T) inc() { t.n++ }; func f() { x.inc() }`, want: "x is written"},
		{source: `var x = sync.Mutex{}`, want: "x is for sharing"},
		{source: `var now = time.Now`, want: "now stands for something else"},
		{source: `func f() { http.DefaultClient = nil }`, want: "http.DefaultClient is written"},
		{source: `func init() {}`, want: "init"},
		{source: `type T struct{}; func (T) init() {}`},
		{source: `type C struct{ SkipExpiry bool }`, want: "SkipExpiry"},
		{source: `func InsecureDial() {}`, want: "InsecureDial"},
		{source: `func skipSpace() {}`},
		{source: `var x = tls.Config{InsecureSkipVerify: true}`, want: "InsecureSkipVerify"},
		{source: `import "google.golang.org/grpc/credentials/insecure"; type T = insecure.X`, want: "insecure"},
	} {
		header := "package p\n"
		if !strings.HasPrefix(c.source, "import") {
			header += `import ("errors"; "sync"; "time"; "net/http"; "crypto/tls")` + "\n"
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, "p.go", header+c.source, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		got := complaintsAbout(fset, []*ast.File{f})
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.Contains(got[0], c.want)) {
			t.Errorf("%s\ngot %q, want %q", c.source, got, c.want)
		}
	}
}

// complaintsAbout judges one package. Its own names are resolved by go/types; imported packages stay opaque, which is
// enough: a variable of another package is never to be written, of any type.
func complaintsAbout(fset *token.FileSet, files []*ast.File) []string {
	c := &critic{fset: fset, info: types.Info{
		Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{},
		Types: map[ast.Expr]types.TypeAndValue{}, Selections: map[*ast.SelectorExpr]*types.Selection{},
	}}
	conf := types.Config{Importer: opaque{}, Error: func(error) {}}
	_, _ = conf.Check("p", fset, files, &c.info) // its errors are about what is opaque, or the compiler's to report
	for _, f := range files {
		for _, d := range f.Decls {
			c.declaration(d)
		}
		ast.Inspect(f, c.node)
	}
	return c.found
}

type opaque struct{}

func (opaque) Import(string) (*types.Package, error) { return nil, errors.New("opaque") }

type critic struct {
	fset  *token.FileSet
	info  types.Info
	found []string
}

func (c *critic) complain(at ast.Node, format string, args ...any) {
	c.found = append(c.found, fmt.Sprintf("%s: %s", c.fset.Position(at.Pos()), fmt.Sprintf(format, args...)))
}

// declaration looks at what stands at a package's top level.
func (c *critic) declaration(d ast.Decl) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil && d.Name.Name == "init" {
			c.complain(d, "no func init: do it where it is needed")
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			v, ok := s.(*ast.ValueSpec)
			if !ok || d.Tok != token.VAR || embedded(d.Doc) || embedded(v.Doc) {
				continue
			}
			for i, name := range v.Names {
				if name.Name != "_" {
					c.initial(name, v, i)
				}
			}
		}
	}
}

func embedded(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(l *ast.Comment) bool {
		return strings.HasPrefix(l.Text, "//go:embed ")
	})
}

// initial looks at what a package-level variable is made of: it must be a value, written out.
func (c *critic) initial(name *ast.Ident, v *ast.ValueSpec, i int) {
	if len(v.Values) != len(v.Names) {
		c.complain(name, "%s has no value of its own: package-level state", name.Name)
		return
	}
	switch value := ast.Unparen(v.Values[i]).(type) {
	case *ast.UnaryExpr:
		if value.Op == token.AND {
			c.complain(name, "%s points to what can change: package-level state", name.Name)
		}
	case *ast.Ident, *ast.SelectorExpr:
		c.complain(name, "%s stands for something else that could be put there: make it a field", name.Name)
	case *ast.CompositeLit:
		of := types.ExprString(value.Type) // a sync.Pool is let through: nobody can tell what it holds
		if of != "sync.Pool" && (strings.HasPrefix(of, "sync.") || strings.HasPrefix(of, "atomic.")) {
			c.complain(name, "%s is for sharing state: make it a field", name.Name)
		}
	}
	ast.Inspect(v.Values[i], func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return false
		case *ast.CallExpr:
			called := c.info.Types[n.Fun]
			if !called.IsType() && !makesTable(called.Type) && !slices.Contains(pureCalls, types.ExprString(n.Fun)) {
				c.complain(name, "%s is made by a call of %s: package-level state", name.Name, types.ExprString(n.Fun))
				return false
			}
		}
		return true
	})
}

// makesTable says whether a function returns an array, which is a value: a table computed once.
func makesTable(f types.Type) bool {
	s, ok := f.(*types.Signature)
	if !ok || s.Results().Len() != 1 {
		return false
	}
	_, ok = s.Results().At(0).Type().Underlying().(*types.Array)
	return ok
}

// node looks for writes to package-level variables, and for switches that turn a check off.
func (c *critic) node(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			c.written(n.Lhs...)
		}
	case *ast.IncDecStmt:
		c.written(n.X)
	case *ast.RangeStmt:
		if n.Tok == token.ASSIGN {
			c.written(n.Key, n.Value)
		}
	case *ast.UnaryExpr:
		if n.Op == token.AND {
			c.written(n.X)
		}
	case *ast.CallExpr:
		if f, ok := n.Fun.(*ast.Ident); ok && slices.Contains([]string{"delete", "clear", "copy", "append"}, f.Name) {
			c.written(n.Args[0])
		}
	case *ast.SelectorExpr:
		if s := c.info.Selections[n]; s != nil && s.Kind() == types.MethodVal && !isPointer(s.Recv()) &&
			isPointer(s.Obj().(*types.Func).Signature().Recv().Type()) {
			c.written(n.X)
		}
	case *ast.Ident:
		c.name(n)
	case *ast.ImportSpec:
		if p, _ := strconv.Unquote(n.Path.Value); p == grpc+"/credentials/insecure" {
			c.complain(n, "no insecure credentials outside tests")
		}
	}
	return true
}

func isPointer(t types.Type) bool {
	_, ok := t.Underlying().(*types.Pointer)
	return ok
}

// written complains if one of the places is, or lies in, a package-level variable of this or another package.
func (c *critic) written(places ...ast.Expr) {
	for _, place := range places {
		for place != nil {
			switch p := place.(type) {
			case *ast.ParenExpr:
				place = p.X
			case *ast.IndexExpr:
				place = p.X
			case *ast.SelectorExpr:
				if of, ok := p.X.(*ast.Ident); ok {
					if _, ok := c.info.Uses[of].(*types.PkgName); ok {
						c.complain(p, "%s.%s is written or its address taken", of.Name, p.Sel.Name)
						place = nil
						continue
					}
				}
				place = p.X
			case *ast.Ident:
				if v, ok := c.info.Uses[p].(*types.Var); ok && v.Parent() != nil && v.Parent() == v.Pkg().Scope() {
					c.complain(p, "%s is written or its address taken: package-level state", p.Name)
				}
				place = nil
			default:
				place = nil
			}
		}
	}
}

// name refuses switches that turn a check off: ones that this package offers, and TLS's own.
func (c *critic) name(id *ast.Ident) {
	offered := c.info.Defs[id] != nil && (strings.HasPrefix(id.Name, "Skip") || strings.HasPrefix(id.Name, "Insecure"))
	if offered || id.Name == "InsecureSkipVerify" {
		c.complain(id, "%s: no switch turns a check off", id.Name)
	}
}
