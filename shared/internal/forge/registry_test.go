package forge_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/internal/vectors"
)

// due are the attacks of attacks.json that the project withstands so far.
var due = slices.Concat(ids("A", 1, 21), ids("B", 1, 12), ids("C", 1, 6), ids("D", 1, 14), ids("E", 9, 11),
	ids("E", 14, 14), ids("F", 5, 5), ids("G", 1, 14), ids("H", 6, 12))

// missing are those whose test is still being written. This list is to become
// empty: one that has a test may not stand in it.
var missing = []string{}

func ids(group string, first, last int) (all []string) {
	for n := first; n <= last; n++ {
		all = append(all, fmt.Sprintf("%s%02d", group, n))
	}
	return all
}

// Every attack that is due has a test that carries its id: in the name of a test,
// or at the start of a text of a test or of a table of forged tokens.
func TestEveryAttackHasATest(t *testing.T) {
	tests := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil || path == root:
			return err
		case entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata"):
			return fs.SkipDir
		case !strings.HasSuffix(path, "_test.go") && !strings.HasPrefix(path, forged) || strings.HasSuffix(path, "/registry_test.go"):
			return nil
		case entry.IsDir() || !strings.HasSuffix(path, ".go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, id := range carried(file) {
			tests[id] = append(tests[id], path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range due {
		if has, allowed := len(tests[id]) > 0, slices.Contains(missing, id); !has && !allowed {
			t.Errorf("%s has no test", id)
		} else if has && allowed {
			t.Errorf("%s has a test: take it from the list of the missing", id)
		}
	}
	if len(missing) > 0 {
		t.Logf("still without a test: %v", missing)
	}
}

const (
	root   = "../../.."
	forged = root + "/shared/internal/forge/"
)

var (
	inName  = regexp.MustCompile(`[A-H][0-9]{2}(?:[^0-9]|$)`)
	inText  = regexp.MustCompile(`^[A-H][0-9]{2}(?:[ ,:/].*)?$`)
	oneText = regexp.MustCompile(`\b[A-H][0-9]{2}\b`)
)

// carried returns the ids that a file's tests and tables carry.
func carried(file *ast.File) (found []string) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if strings.HasPrefix(n.Name.Name, "Test") || strings.HasPrefix(n.Name.Name, "Fuzz") {
				for _, id := range inName.FindAllString(n.Name.Name, -1) {
					found = append(found, id[:3])
				}
			}
		case *ast.BasicLit:
			if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING && inText.MatchString(text) {
				found = append(found, oneText.FindAllString(text, -1)...)
			}
		}
		return true
	})
	return found
}

// What counts as carrying an id, and what does not.
func TestCarried(t *testing.T) {
	const source = `package p
// A01 in a comment does not count.
func TestA02Something() {}
func TestB03AndC04(t *testing.T) { t.Run("D05 a case", nil); t.Run("D06, D07: cases", nil); _ = "D08" }
func helperE09() {}
func TestRSA2048AndSHA256() { _ = "not D10"; _ = "D111"; _ = "AES"; _ = "H06x"; _ = 'H' }
func FuzzG11(f *testing.F) {}
`
	file, err := parser.ParseFile(token.NewFileSet(), "p.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := carried(file), []string{"A02", "B03", "C04", "D05", "D06", "D07", "D08", "G11"}; !slices.Equal(got, want) {
		t.Errorf("carried %v, want %v", got, want)
	}
}

// The ids are those of the table of attacks: what is due is in it, and what is
// forged is.
func TestAttackIDsAreInTheTable(t *testing.T) {
	var attacks []struct{ ID, Attack string }
	if err := json.Unmarshal(vectors.Read(t, "attacks.json"), &attacks); err != nil {
		t.Fatal(err)
	}
	table := map[string]bool{}
	for _, attack := range attacks {
		table[attack.ID] = true
	}
	if len(attacks) != 110 || len(table) != 110 {
		t.Errorf("%d attacks with %d ids, want 110", len(attacks), len(table))
	}
	known := slices.Clone(due)
	for _, attack := range forge.Attacks() {
		known = append(known, attack.ID)
	}
	for _, id := range known {
		if !table[id] {
			t.Errorf("%s is not in the table", id)
		}
	}
	var later []string
	for _, id := range slices.Sorted(maps.Keys(table)) {
		if !slices.Contains(due, id) {
			later = append(later, id)
		}
	}
	t.Logf("not due yet: %v", later)
}
