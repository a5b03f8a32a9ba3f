package check

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeSteps follows README's table step -> file -> function: each function
// is in one of the row's files.
func TestReadmeSteps(t *testing.T) {
	rows := tableRows(t, "Follow one handoff through the code")
	if len(rows) < 12 {
		t.Fatalf("the table has %d rows", len(rows))
	}
	for _, row := range rows {
		files, functions := quoted(row[1]), quoted(row[2])
		if len(files) == 0 || len(functions) == 0 {
			t.Errorf("%s: the row names no file or no function", row[0])
		}
		var source strings.Builder
		for i, file := range files {
			if i > 0 && !strings.Contains(file, "/") {
				file = filepath.Join(filepath.Dir(files[0]), file)
			}
			text, err := os.ReadFile(filepath.Join("..", "..", file))
			if err != nil {
				t.Errorf("%s: %v", row[0], err)
			}
			source.Write(text)
		}
		for _, function := range functions {
			pattern := `(?m)^func ` + regexp.QuoteMeta(function) + `\(`
			if receiver, method, ok := strings.Cut(function, "."); ok {
				pattern = `(?m)^func \(\w* ?\*?` + regexp.QuoteMeta(receiver) + `\) ` + regexp.QuoteMeta(method) + `\(`
			}
			if !regexp.MustCompile(pattern).MatchString(source.String()) {
				t.Errorf("%s: %v has no %s", row[0], files, function)
			}
		}
	}
}

// TestReadmePromises holds each promise to the tests that README names.
func TestReadmePromises(t *testing.T) {
	declared := map[string]bool{}
	err := filepath.WalkDir(filepath.Join("..", ".."), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, match := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(text, -1) {
			declared[string(match[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := tableRows(t, "What it promises")
	if len(rows) < 7 {
		t.Fatalf("the table has %d rows", len(rows))
	}
	for _, row := range rows {
		tests := regexp.MustCompile("`((?:Test|Fuzz)\\w+)(…?)`").FindAllStringSubmatch(row[1], -1)
		if len(tests) == 0 {
			t.Errorf("%s: no test holds it", row[0])
		}
		for _, test := range tests {
			found := declared[test[1]]
			for name := range declared {
				found = found || test[2] != "" && strings.HasPrefix(name, test[1])
			}
			if !found {
				t.Errorf("%s: there is no %s%s", row[0], test[1], test[2])
			}
		}
	}
}

// tableRows returns the cells of the table in a section of README.
func tableRows(t *testing.T, section string) [][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("README has no section %q", section)
	}
	after, _, _ = strings.Cut(after, "\n## ")
	var rows [][]string
	for line := range strings.Lines(after) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	if len(rows) > 0 {
		rows = rows[1:] // the heading
	}
	return rows
}

func quoted(cell string) []string {
	var names []string
	for _, match := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
		names = append(names, match[1])
	}
	return names
}
