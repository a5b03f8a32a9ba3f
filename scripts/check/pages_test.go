package check

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// architecture is the page that follows a handoff through the code.
const architecture = root + "/shared/ARCHITECTURE.md"

// README is for a visitor, who closes a longer page.
func TestReadmeIsShort(t *testing.T) {
	text, err := os.ReadFile(root + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	if words := len(strings.Fields(string(text))); words > 1400 {
		t.Errorf("README has %d words, at most 1,400 are wanted: move what a visitor does not need", words)
	}
}

// TestSteps follows the tables step -> file -> function: each function is in one
// of the row's files.
func TestSteps(t *testing.T) {
	code, pages := tableRows(t, "Follow one handoff through the code"), tableRows(t, "Follow one through a browser")
	keys := tableRows(t, "Follow a signing key through its life")
	if len(code) < 12 || len(pages) < 8 || len(keys) < 6 {
		t.Fatalf("the tables have %d, %d and %d rows", len(code), len(pages), len(keys))
	}
	rows := slices.Concat(code, pages, keys)
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

// TestPromises holds each promise to the tests that the page names, in the
// package that it says: "`TestA`, `TestB…` in [dir](dir); `TestC` in [dir](dir)".
func TestPromises(t *testing.T) {
	rows := tableRows(t, "What it promises")
	if len(rows) < 7 {
		t.Fatalf("the table has %d rows", len(rows))
	}
	for _, row := range rows {
		for part := range strings.SplitSeq(row[1], "; ") {
			places := regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(part, -1)
			tests := regexp.MustCompile("`((?:Test|Fuzz)\\w+)(…?)`").FindAllStringSubmatch(part, -1)
			if len(places) == 0 || len(tests) == 0 {
				t.Errorf("%s: %q names no test or no place", row[0], part)
			}
			for _, place := range places {
				if strings.Contains(place[1], "internal") {
					continue // what the tests work on
				}
				declared := testsIn(t, place[1])
				for _, test := range tests {
					found := slices.ContainsFunc(declared, func(name string) bool {
						return name == test[1] || test[2] != "" && strings.HasPrefix(name, test[1])
					})
					if !found {
						t.Errorf("%s: there is no %s%s in %s", row[0], test[1], test[2], place[1])
					}
				}
			}
		}
	}
}

// TestFigures holds each figure to the last run that was kept.
func TestFigures(t *testing.T) {
	kept, err := os.ReadFile(filepath.Join("..", "bench", "RESULTS.md"))
	if err != nil {
		t.Fatal(err)
	}
	number := regexp.MustCompile(`\b[0-9][0-9.,]*[0-9]\b`)
	measured := number.FindAllString(string(kept), -1)
	figures := 0
	for _, row := range tableRows(t, "What it costs") {
		for _, figure := range number.FindAllString(strings.ReplaceAll(row[1], "Ed25519", ""), -1) {
			figures++
			if !slices.Contains(measured, figure) {
				t.Errorf("%s: RESULTS.md has no %s", row[0], figure)
			}
		}
	}
	if figures < 7 {
		t.Errorf("the table has %d figures", figures)
	}
}

// testsIn returns the names of the tests in a folder, as the page links to it.
func testsIn(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.Dir(architecture), folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(text, -1) {
			names = append(names, string(match[1]))
		}
	}
	return names
}

// tableRows returns the cells of the table in a section of the page.
func tableRows(t *testing.T, section string) [][]string {
	t.Helper()
	text, err := os.ReadFile(architecture)
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("%s has no section %q", architecture, section)
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
