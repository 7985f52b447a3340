package layout

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestColumns(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		"":         0,
		"PC0001":   6,
		"会議室":      6,
		"ﾎｽﾄ":      3, // half-width kana
		"ＡＢ":       4,
		"か\u3099x": 3, // a mark that joins
		"e\u0301":  1,
		"(3PDS)が":  8,
		"😀":        2,
		"\u200bx":  1,
		"§±":       2, // ambiguous
	} {
		if got := Columns(text); got != want {
			t.Errorf("Columns(%q) = %d, want %d", text, got, want)
		}
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text  string
		limit int
		want  []string
	}{
		{"", 10, nil},
		{"one two three", 13, []string{"one two three"}},
		{"one two three", 12, []string{"one two", "three"}},
		{"one two three", 7, []string{"one two", "three"}}, // the space stands out
		{"one two three", 3, []string{"one", "two", "thr", "ee"}},
		{"a /var/lib/samehost/NETM.NDD", 12, []string{"a", "/var/lib/sam", "ehost/NETM.N", "DD"}},
		{"数分待ってから", 8, []string{"数分待っ", "てから"}},
		// no 。 、 ） 」 or small kana begins a line: what stands before it goes along
		{"あいうえ。お", 8, []string{"あいう", "え。お"}},
		{"あいうえ」。お", 8, []string{"あいう", "え」。お"}},
		{"あいうえった", 8, []string{"あいう", "えった"}},
		{"あいうデータ", 8, []string{"あいう", "データ"}},
		{"あいうえ)お", 8, []string{"あいう", "え)お"}},
		// no opening bracket ends one
		{"あいう「えお」", 8, []string{"あいう", "「えお」"}},
		{"あいう(えお)", 8, []string{"あいう", "(えお)"}},
		// Latin words stay whole, and may be parted from full-width characters
		{"このPCのAMTを", 8, []string{"このPCの", "AMTを"}},
		{"このPCのAMTを", 9, []string{"このPCの", "AMTを"}},
		{"設定(MEBx)を", 8, []string{"設定", "(MEBx)を"}},
		{"対処: 待つ", 6, []string{"対処:", "待つ"}},
	} {
		if diff := cmp.Diff(test.want, wrapAfter(test.text, test.limit, test.limit)); diff != "" {
			t.Errorf("wrapAfter(%q, %d) (-want +got):\n%s", test.text, test.limit, diff)
		}
	}
}

// Whatever the text, no line is too long, nothing is lost, and a line ends where it may if there is such a place.
func TestWrapKeepsItsRules(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("ab1./ ,()「」、。あかっー漢字ＡAMT")), 0, 80, -1).Draw(t, "text")
		limit := rapid.IntRange(2, 40).Draw(t, "limit")
		lines := wrapAfter(text, limit, limit)
		if got, want := strings.ReplaceAll(strings.Join(lines, ""), " ", ""), strings.ReplaceAll(text, " ", ""); got != want {
			t.Fatalf("%q became %q", want, got)
		}
		rest := strings.TrimSpace(text)
		for i, line := range lines {
			if Columns(line) > limit {
				t.Fatalf("%q has %d columns of %d", line, Columns(line), limit)
			}
			if line == "" || strings.TrimSpace(line) != line {
				t.Fatalf("line %q", line)
			}
			rest = strings.TrimPrefix(rest, line)
			if strings.HasPrefix(rest, " ") || i == len(lines)-1 {
				rest = strings.TrimLeft(rest, " ")
				continue
			}
			now, next := []rune(line), []rune(rest)
			if mayBreak(now[len(now)-1], next[0]) {
				continue
			}
			for k := 1; k < len(now); k++ {
				if now[k] == ' ' || mayBreak(now[k-1], now[k]) {
					t.Fatalf("%q is followed by %q, but could have ended after %q", line, string(next), string(now[:k]))
				}
			}
		}
	})
}

func TestHanging(t *testing.T) {
	t.Parallel()
	want := "     4  SHAM1021-E  数分待ってか\n" +
		"                    ら再実行して\n" +
		"                    ください。"
	if diff := cmp.Diff(want, Hanging("     4  SHAM1021-E  ", 20, "数分待ってから再実行してください。", 32)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPadded(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"": "    ", "a": "a   ", "由来": "由来 ", "abcd": "abcd ", "保管先": "保管先 "} {
		n := 4
		if text == "由来" {
			n = 5
		}
		if got := Padded(text, n); got != want {
			t.Errorf("Padded(%q, %d) = %q, want %q", text, n, got, want)
		}
	}
}
