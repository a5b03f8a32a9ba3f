package forge_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/handoff-auth/handoff/shared/internal/forge"
	"github.com/handoff-auth/handoff/shared/internal/vectors"
)

// An attack is a row of ATTACKS.md: its id, and the folders whose tests hold it.
type attack struct {
	id      string
	folders []string
}

// attacks reads the rows of ATTACKS.md: | id | what is tried | what happens | [folder](folder), … |
func attacks(t *testing.T) (rows []attack) {
	t.Helper()
	page, err := os.ReadFile(shared + "ATTACKS.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range regexp.MustCompile(`(?m)^\| ([A-K][0-9]{2}) \|.*\| ([^|]*) \|$`).FindAllStringSubmatch(string(page), -1) {
		a := attack{id: row[1]}
		for _, link := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(row[2], -1) {
			a.folders = append(a.folders, path.Join(shared, link[1]))
		}
		rows = append(rows, a)
	}
	if len(rows) < 140 {
		t.Fatalf("ATTACKS.md has %d rows", len(rows))
	}
	return rows
}

// Each folder that ATTACKS.md names has a test that carries the attack's id: in
// the name of a test, or at the start of a text of a test or of a table of forged
// tokens. An attack that has a test is not called untested.
func TestEveryAttackHasATest(t *testing.T) {
	tests := carriers(t)
	for _, a := range attacks(t) {
		for _, folder := range a.folders {
			if !slices.Contains(tests[a.id], folder) {
				t.Errorf("%s: no test in %s carries the id; these do: %v", a.id, folder, tests[a.id])
			}
		}
		if len(a.folders) == 0 && len(tests[a.id]) > 0 {
			t.Errorf("%s has no folder in ATTACKS.md, and tests in %v", a.id, tests[a.id])
		}
		delete(tests, a.id)
	}
	for id, folders := range tests {
		t.Errorf("%s stands in %v, and not in ATTACKS.md", id, folders)
	}
}

// carriers returns the folders of the tests that carry each id.
func carriers(t *testing.T) map[string][]string {
	t.Helper()
	tests := map[string][]string{}
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil || name == root:
			return err
		case entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || entry.Name() == "node_modules"):
			return fs.SkipDir
		case !strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, forged) || strings.HasSuffix(name, "/registry_test.go"):
			return nil
		case entry.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, id := range carried(file) {
			if folder := path.Dir(name); !slices.Contains(tests[id], folder) {
				tests[id] = append(tests[id], folder)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests
}

const (
	root   = "../../.."
	shared = root + "/shared/"
	forged = shared + "internal/forge/"
)

var (
	inName  = regexp.MustCompile(`[A-K][0-9]+`)
	inText  = regexp.MustCompile(`^[A-K][0-9]{2}(?:[ ,:/].*)?$`)
	oneText = regexp.MustCompile(`\b[A-K][0-9]{2}\b`)
)

// carried returns the ids that a file's tests and tables carry.
func carried(file *ast.File) (found []string) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if strings.HasPrefix(n.Name.Name, "Test") || strings.HasPrefix(n.Name.Name, "Fuzz") {
				for _, id := range inName.FindAllString(n.Name.Name, -1) {
					if len(id) == len("A01") {
						found = append(found, id)
					}
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
func TestH12I13NextToEachOther() {}
`
	file, err := parser.ParseFile(token.NewFileSet(), "p.go", source, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := carried(file), []string{"A02", "B03", "C04", "D05", "D06", "D07", "D08", "G11", "H12", "I13"}; !slices.Equal(got, want) {
		t.Errorf("carried %v, want %v", got, want)
	}
}

// The page has the attacks of the published table, and what is forged is on it.
func TestAttacksAreOnThePage(t *testing.T) {
	var published []struct{ ID string }
	if err := json.Unmarshal(vectors.Read(t, "attacks.json"), &published); err != nil {
		t.Fatal(err)
	}
	page := map[string]bool{}
	for _, a := range attacks(t) {
		page[a.id] = true
	}
	for _, a := range published {
		if !page[a.ID] {
			t.Errorf("%s is published and not in ATTACKS.md", a.ID)
		}
	}
	for _, a := range forge.Attacks() {
		if !page[a.ID] {
			t.Errorf("%s is forged and not in ATTACKS.md", a.ID)
		}
	}
}
