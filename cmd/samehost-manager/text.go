package main

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"samehost/internal/layout"
)

// What PCs and people wrote goes to a terminal through shown. Nothing here is wider than layout.Screen.

// shown is text without anything that steers a terminal or misleads its reader: control characters, escape
// sequences, line ends, direction marks and other invisible ones are written as Go writes them, as \x1b or \u202e.
func shown(s string) string {
	clean := true
	for _, r := range s {
		clean = clean && visible(r)
	}
	if clean {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case visible(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String()
}

func visible(r rune) bool {
	return unicode.IsPrint(r) && r != unicode.ReplacementChar && r != blankBraille && !unicode.In(r, nothingToSee...) || r == '\u3000'
}

// Letters and marks that are shown as nothing (Unicode's Default_Ignorable_Code_Point, as far as IsPrint lets it
// pass): two names could look alike by them.
var nothingToSee = []*unicode.RangeTable{unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector}

const blankBraille = '\u2800'

// fit makes a visible text exactly n columns wide; what is cut ends in "~".
func fit(s string, n int) string {
	if layout.Columns(s) > n {
		used := 0
		for i, r := range s {
			if w := layout.Columns(string(r)); used+w > n-1 {
				s = s[:i] + "~"
				break
			} else {
				used += w
			}
		}
	}
	return s + strings.Repeat(" ", n-layout.Columns(s))
}

type column struct {
	head  string
	width int
}

// table prints rows of cells. A cell that is too wide is cut, or with wraps goes on in further lines.
type table struct {
	columns []column
	wraps   bool
	rows    [][]string
	notes   map[int]string // by row
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// below puts a text under the row that was added last.
func (t *table) below(text string) {
	if t.notes == nil {
		t.notes = map[int]string{}
	}
	t.notes[len(t.rows)-1] = text
}

// table prints one, with its heads in the language that is asked for.
func (p *program) table(t table) {
	w := p.stdout
	line := func(cells []string) {
		var b strings.Builder
		for i, c := range t.columns {
			b.WriteString(fit(shown(cells[i]), c.width))
			b.WriteString("  ")
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
	whole := line
	if t.wraps {
		whole = func(cells []string) {
			lines := make([][]string, len(cells))
			most := 0
			for i, c := range t.columns {
				lines[i] = wrap(shown(cells[i]), c.width)
				most = max(most, len(lines[i]))
			}
			for n := range most {
				part := make([]string, len(cells))
				for i := range lines {
					if n < len(lines[i]) {
						part[i] = lines[i][n]
					}
				}
				line(part)
			}
		}
	}
	heads := make([]string, len(t.columns))
	for i, c := range t.columns {
		heads[i] = p.in(c.head)
	}
	line(heads)
	for i, r := range t.rows {
		whole(r)
		if note, ok := t.notes[i]; ok {
			const indent = "    "
			for _, l := range wrap(shown(note), layout.Screen-len(indent)) {
				fmt.Fprintln(w, indent+l)
			}
		}
	}
}

// paragraph prints text after a head, further lines indented below it.
func (p *program) paragraph(head, text string) {
	indent := strings.Repeat(" ", layout.Columns(head))
	for _, line := range wrap(shown(text), layout.Screen-layout.Columns(head)) {
		fmt.Fprintln(p.stdout, head+line)
		head = indent
	}
}

// wrap breaks visible text into lines of at most n columns: one or more.
func wrap(s string, n int) []string {
	if lines := layout.Wrap(s, n); len(lines) > 0 {
		return lines
	}
	return []string{""}
}

// fitEnd is fit for what says most at its end, as a path does.
func fitEnd(s string, n int) string {
	if layout.Columns(s) <= n {
		return fit(s, n)
	}
	for i := range s {
		if rest := s[i:]; layout.Columns(rest) < n {
			return fit("~"+rest, n)
		}
	}
	return fit("~", n)
}

// when is a time as people here read it: local, to the minute; "-" for none.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04")
}
