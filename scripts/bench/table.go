package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"unicode/utf8"
)

// table is the result: a line for each thing measured, under its section.
type table struct {
	sections []*measured
	goals    []goal
}

type measured struct {
	name, about string
	lines       []line
}

// line is one thing measured. What is zero was not measured.
type line struct {
	what    string
	median  string // with its unit
	ratio   float64
	allocs  float64
	bytes   float64
	note    string
	counted bool // allocs and bytes were measured, though they may be 0
}

// goal is what the project has promised itself.
type goal struct {
	what, want, got string
	reached         bool
}

func (t *table) begin(name, about string) {
	t.sections = append(t.sections, &measured{name: name, about: about})
}

// add adds a line to the section begun last.
func (t *table) add(l line) {
	s := t.sections[len(t.sections)-1]
	s.lines = append(s.lines, l)
}

// race adds what a race has found, each line under a common heading.
func (t *table) race(heading string, laps []lap) {
	for _, l := range laps {
		t.add(line{
			what: heading + l.name, median: microseconds(l.ns), ratio: l.ratio,
			allocs: l.allocs, bytes: l.bytes, counted: true,
		})
	}
}

// most sets a goal that got is at most want.
func (t *table) most(what string, got, want float64, unit string) {
	t.goals = append(t.goals, goal{what, "at most " + number(want) + unit, number(got) + unit, got <= want})
}

// least sets a goal that got is at least want.
func (t *table) least(what string, got, want float64, unit string) {
	t.goals = append(t.goals, goal{what, "at least " + number(want) + unit, number(got) + unit, got >= want})
}

// print writes the table as Markdown, which reads well on a terminal too.
func (t *table) print(w io.Writer) error {
	rows := [][]string{{"what", "median", "ratio", "allocs", "bytes", "note"}}
	for _, s := range t.sections {
		rows = append(rows, []string{"**" + s.name + "**: " + s.about, "", "", "", "", ""})
		for _, l := range s.lines {
			row := []string{l.what, l.median, "", "", "", l.note}
			if l.ratio > 0 {
				row[2] = fmt.Sprintf("%.2f", l.ratio)
			}
			if l.counted {
				row[3], row[4] = fmt.Sprintf("%.0f", l.allocs), fmt.Sprintf("%.0f", l.bytes)
			}
			rows = append(rows, row)
		}
	}
	if err := markdown(w, rows, "lrrrrl"); err != nil {
		return err
	}
	if len(t.goals) == 0 {
		return nil
	}
	rows = [][]string{{"goal", "want", "got", "reached"}}
	for _, g := range t.goals {
		rows = append(rows, []string{g.what, g.want, g.got, map[bool]string{true: "yes", false: "**no**"}[g.reached]})
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return markdown(w, rows, "lrrl")
}

// markdown writes rows, of which the first is the head, as a table whose columns
// are padded, but for the last: notes are long.
func markdown(w io.Writer, rows [][]string, align string) error {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			if strings.HasPrefix(row[0], "**") || i == len(row)-1 && i > 0 {
				continue // nor does a heading widen its column
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
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

// number has three significant digits.
func number(x float64) string {
	if math.Abs(x) >= 1000 {
		return grouped(x)
	}
	if x == math.Trunc(x) {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.3g", x)
}

// grouped is a whole number with commas: 1,234,567.
func grouped(x float64) string {
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

func microseconds(ns float64) string { return fmt.Sprintf("%.2f us", ns/1000) }
