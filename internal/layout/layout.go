// Package layout breaks texts for the columns of a screen, with Japanese in them too: a full-width character takes two columns,
// and some characters may not begin or end a line.
package layout

import (
	"strings"
	"unicode"

	"golang.org/x/text/width"
)

// columnsOf is how many columns of a terminal a character takes: full-width ones two, marks that join the character before
// them none. Where the width depends on the font (Unicode's ambiguous width) it counts one; no text of ours has such.
func columnsOf(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	case unicode.Is(unicode.Variation_Selector, r):
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// Screen is the columns of the screen that all commands are made for.
const Screen = 80

// Columns is how many columns of a terminal a line takes.
func Columns(s string) (n int) {
	for _, r := range s {
		n += columnsOf(r)
	}
	return n
}

// Characters that may not begin or end a line, after JIS X 4051 with small kana and the long vowel mark among them. The
// half-width ones count only beside a full-width character: between others a line is broken at spaces anyway.
const (
	notFirst = "、。，．・：；？！」』）】〕〉》］｝ーゝゞヽヾ々〻ぁぃぅぇぉっゃゅょゎゕゖァィゥェォッャュョヮヵヶ゛゜…‥" +
		")]},.:;!?%"
	notLast = "「『（【〔〈《［｛" + "([{"
)

// mayBreak reports whether a line may end after a and the next begin with b, where no space is between them.
func mayBreak(a, b rune) bool {
	if columnsOf(a) != 2 && columnsOf(b) != 2 || columnsOf(b) == 0 {
		return false
	}
	return !strings.ContainsRune(notFirst, b) && !strings.ContainsRune(notLast, a)
}

// Wrap breaks a text into lines of at most limit columns, as Hanging does; none for a text of blanks.
func Wrap(s string, limit int) []string { return wrapAfter(s, limit, limit) }

// Padded fills a text up with blanks to n columns or more, of which the last is a blank; "" stays as wide as asked for.
func Padded(s string, n int) string {
	used := Columns(s)
	return s + strings.Repeat(" ", max(n-used, min(1, used)))
}

// wrapAfter breaks a text into lines of at most limit columns, of which the first has a limit of its own: at spaces, and beside
// full-width characters as Japanese allows it. A word that is longer than a line is broken where the line ends.
func wrapAfter(s string, first, limit int) []string {
	runes := []rune(strings.TrimSpace(s))
	var lines []string
	for len(runes) > 0 {
		end, next := breakAt(runes, max(first, 2))
		first = limit
		lines = append(lines, strings.TrimRight(string(runes[:end]), " "))
		for next < len(runes) && runes[next] == ' ' {
			next++
		}
		runes = runes[next:]
	}
	return lines
}

// breakAt is where the first line ends and the next begins.
func breakAt(runes []rune, limit int) (end, next int) {
	used, last := 0, 0 // last: the latest place where a break is allowed
	for i, r := range runes {
		if i > 0 && (runes[i-1] == ' ' || r == ' ' || mayBreak(runes[i-1], r)) {
			last = i
		}
		if r == ' ' { // a space at the end of a line may stand out
			used++
			continue
		}
		if used += columnsOf(r); used > limit {
			if last == 0 {
				last = max(i, 1)
			}
			return last, last
		}
	}
	return len(runes), len(runes)
}

// Hanging lays a text out within limit columns: first before its first line, indent columns before the others.
func Hanging(first string, indent int, text string, limit int) string {
	var b strings.Builder
	for i, line := range wrapAfter(text, max(limit-Columns(first), 10), max(limit-indent, 10)) {
		if i == 0 {
			b.WriteString(first)
		} else {
			b.WriteString("\n" + strings.Repeat(" ", indent))
		}
		b.WriteString(line)
	}
	return b.String()
}
