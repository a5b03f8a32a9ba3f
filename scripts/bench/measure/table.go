package measure

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Table is the result: a line for each thing measured, under its section.
type Table struct {
	sections []*measured
	goals    []goal
}

type measured struct {
	name, about string
	lines       []Line
}

// Line is one thing measured. What is zero was not measured.
type Line struct {
	What    string
	Median  string // with its unit
	Ratio   float64
	Allocs  float64
	Bytes   float64
	Note    string
	Counted bool // allocs and bytes were measured, though they may be 0
}

// goal is what the project has promised itself.
type goal struct {
	what, want, got string
	reached         bool
}

func (t *Table) Begin(name, about string) {
	t.sections = append(t.sections, &measured{name: name, about: about})
}

// Add adds a line to the section begun last.
func (t *Table) Add(l Line) {
	s := t.sections[len(t.sections)-1]
	s.lines = append(s.lines, l)
}

// Most sets a goal that got is at most want.
func (t *Table) Most(what string, got, want float64, unit string) {
	t.goals = append(t.goals, goal{what, "at most " + Number(want) + unit, Number(got) + unit, got <= want})
}

// Least sets a goal that got is at least want.
func (t *Table) Least(what string, got, want float64, unit string) {
	t.goals = append(t.goals, goal{what, "at least " + Number(want) + unit, Number(got) + unit, got >= want})
}

// Print writes the table as Markdown, which reads well on a terminal too: what was
// to be reached, and then each section with the columns that it needs.
func (t *Table) Print(w io.Writer) error {
	if len(t.goals) > 0 {
		rows := [][]string{{"what was to be reached", "wanted", "measured", "reached"}}
		for _, g := range t.goals {
			rows = append(rows, []string{g.what, g.want, g.got, map[bool]string{true: "yes", false: "**no**"}[g.reached]})
		}
		if err := markdown(w, rows, "lrrl"); err != nil {
			return err
		}
	}
	for _, s := range t.sections {
		if _, err := fmt.Fprintf(w, "\n## %s: %s\n\n", s.name, s.about); err != nil {
			return err
		}
		if err := s.print(w); err != nil {
			return err
		}
	}
	return nil
}

// print leaves out columns that are empty.
func (s *measured) print(w io.Writer) error {
	columns := []struct {
		name  string
		align byte
		cell  func(Line) string
	}{
		{"what", 'l', func(l Line) string { return l.What }},
		{"median", 'r', func(l Line) string { return l.Median }},
		{"ratio", 'r', func(l Line) string {
			if l.Ratio == 0 {
				return ""
			}
			return fmt.Sprintf("%.2f", l.Ratio)
		}},
		{"allocations", 'r', func(l Line) string { return l.count(l.Allocs) }},
		{"bytes", 'r', func(l Line) string { return l.count(l.Bytes) }},
		{"note", 'l', func(l Line) string { return l.Note }},
	}
	rows := make([][]string, len(s.lines)+1)
	var align []byte
	for _, column := range columns {
		if !slices.ContainsFunc(s.lines, func(l Line) bool { return column.cell(l) != "" }) {
			continue
		}
		align = append(align, column.align)
		rows[0] = append(rows[0], column.name)
		for i, l := range s.lines {
			rows[i+1] = append(rows[i+1], column.cell(l))
		}
	}
	return markdown(w, rows, string(align))
}

func (l Line) count(x float64) string {
	if !l.Counted {
		return ""
	}
	return fmt.Sprintf("%.0f", x)
}

// markdown writes rows as a table, the first as its head. Columns are
// padded, except notes at the end, which are long.
func markdown(w io.Writer, rows [][]string, align string) error {
	width := make([]int, len(align))
	for _, row := range rows {
		for i, cell := range row {
			if i < len(row)-1 || align[i] == 'r' {
				width[i] = max(width[i], utf8.RuneCountInString(cell))
			}
		}
	}
	var b strings.Builder
	for n, row := range rows {
		for i, cell := range row {
			padding := strings.Repeat(" ", max(0, width[i]-utf8.RuneCountInString(cell)))
			if align[i] == 'r' {
				cell = padding + cell
			} else {
				cell += padding
			}
			b.WriteString("| " + cell + " ")
		}
		b.WriteString("|\n")
		if n > 0 {
			continue
		}
		for i := range row {
			dashes := strings.Repeat("-", width[i]+1)
			if align[i] == 'r' {
				b.WriteString("|" + dashes + ":")
			} else {
				b.WriteString("| " + dashes)
			}
		}
		b.WriteString("|\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Number has three significant digits.
func Number(x float64) string {
	if math.Abs(x) >= 1000 {
		return Grouped(x)
	}
	if x == math.Trunc(x) {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.3g", x)
}

// Grouped is a whole number with commas: 1,234,567.
func Grouped(x float64) string {
	digits := fmt.Sprintf("%.0f", x)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 && digits[i-1] != '-' {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

func Microseconds(ns float64) string { return fmt.Sprintf("%.2f us", ns/1000) }
