package handoff_test

import (
	"go/ast"
	"maps"
	"slices"
	"strings"
	"testing"
)

// H10: no setting turns a check off. The settings that can be on or off are these,
// and none of them is about a check but Reusable, which is a method's rule and
// part of its contract. Nothing is read from the environment behind a setting's
// back.
func TestH10EverySwitchIsKnown(t *testing.T) {
	want := []string{
		"shared/cmd/handoff/devcert.go KeepCAKey",
		"shared/cmd/handoff/verify.go NDJSON",
		"shared/handoff/operation.go Reusable",
		"shared/serving/config.go Reflection", // shows the contract, which is public
	}
	found := map[string]bool{}
	source(t, func(name string, file *ast.File) {
		if !strings.HasPrefix(name, "shared/") && !strings.HasPrefix(name, "server") || strings.HasPrefix(name, "shared/internal/vectors/") {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.StructType:
				for _, field := range n.Fields.List {
					if of, ok := field.Type.(*ast.Ident); !ok || of.Name != "bool" {
						continue
					}
					for _, field := range field.Names {
						if field.IsExported() {
							found[name+" "+field.Name] = true
						}
					}
				}
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "os" && slices.Contains([]string{"Getenv", "LookupEnv"}, n.Sel.Name) {
					t.Errorf("%s reads the environment by os.%s: make it a setting", name, n.Sel.Name)
				}
			}
			return true
		})
	})
	if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, want) {
		t.Errorf("the switches are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
