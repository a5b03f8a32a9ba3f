package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// topLevel is all that stands at the root beside dot-files.
var topLevel = []string{
	"proto", "server1", "server2", "shared", "scripts",
	"go.mod", "go.sum", "buf.yaml", "buf.gen.yaml", "Makefile", "README.md", "LICENSE",
}

// foreign matches what belongs to somebody's machine: a path of theirs, or the host they download from. The strings are
// in pieces, so that this file does not match.
var foreign = regexp.MustCompile(strings.Join([]string{
	`(?m)(^|[^\w./-])/wo` + `rk\b`,
	`(^|[^\w./-])/(ro` + `ot|ho` + `me|Us` + `ers)/`,
	`(pro` + `xy|su` + `m)\.golang\.org`,
	`regis` + `try\.(npmjs|yarnpkg)\.`,
	`\bd` + `eb\.debian\.org`,
	`\bpy` + `pi\.org`,
}, "|"))

// marks are of foreign, one of each alternative: a search for these is quick, and few files have any.
var marks = [][]byte{
	[]byte("/wo" + "rk"), []byte("/ro" + "ot/"), []byte("/ho" + "me/"), []byte("/Us" + "ers/"), []byte("y.golang.org"), []byte("m.golang.org"),
	[]byte("regis" + "try."), []byte("eb.debian.org"), []byte("py" + "pi.org"),
}

// namesAMachine returns where a text does, or nil.
func namesAMachine(text []byte) (at []int) {
	if slices.ContainsFunc(marks, func(mark []byte) bool { return bytes.Contains(text, mark) }) {
		return foreign.FindIndex(text)
	}
	return nil
}

func TestTopLevel(t *testing.T) {
	for _, path := range tracked(t) {
		top, _, _ := strings.Cut(path, "/")
		if !strings.HasPrefix(top, ".") && !slices.Contains(topLevel, top) {
			t.Errorf("%s: the top level is fixed", path)
		}
	}
}

func TestNoFileNamesAMachine(t *testing.T) {
	for _, path := range tracked(t) {
		content, err := os.ReadFile(filepath.Join(root, path))
		if errors.Is(err, fs.ErrNotExist) || bytes.IndexByte(content, 0) >= 0 {
			continue // deleted but not yet committed, or not text
		}
		if err != nil {
			t.Error(err)
		}
		if at := namesAMachine(content); at != nil {
			line := 1 + bytes.Count(content[:at[0]], []byte("\n"))
			t.Errorf("%s:%d names %q, which is a machine's own", path, line, content[at[0]:at[1]])
		}
	}
}

func TestForeignIsRecognised(t *testing.T) {
	for text, want := range map[string]bool{
		"see /wo" + "rk/main":                         true,
		"cd /wo" + "rk":                               true,
		"x\n/ro" + "ot/go":                            true,
		`"/ho` + `me/ann/x"`:                          true,
		"GOPROXY=https://pro" + "xy.golang.org":       true,
		"GOSUMDB=su" + "m.golang.org":                 true,
		"regis" + "try.npmjs.org":                     true,
		"https://regis" + "try.yarnpkg.com":           true,
		"http://d" + "eb.debian.org/debian":           true,
		"https://py" + "pi.org/simple":                true,
		"/Us" + "ers/ann/x":                           true,
		"/handoff.v1.HandoffService/IssueHandoff":     false,
		"the worker, a/work, https://x.example/home/": false,
		"golang.org/x/net":                            false,
	} {
		if got := namesAMachine([]byte(text)) != nil; got != want {
			t.Errorf("%q: got %v, want %v", text, got, want)
		}
	}
}

// Each direct dependency has a row in a table that says what it is for.
func TestDependenciesAreListed(t *testing.T) {
	page, err := os.ReadFile(architecture)
	if err != nil {
		t.Fatal(err)
	}
	out, err := run("go", "mod", "edit", "-json")
	if err != nil {
		t.Fatal(err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		row := regexp.MustCompile("(?m)^\\|[^\n]*[ `\\[]" + regexp.QuoteMeta(r.Path) + "[ `\\]]")
		if !r.Indirect && !row.Match(page) {
			t.Errorf("%s has no table row for %s", architecture, r.Path)
		}
	}
}
