package terminal

import (
	"fmt"
	"slices"
	"strings"

	"samehost/internal/amtinit"
	"samehost/internal/layout"
)

const (
	maxShown   = 64 // characters of a name in a line
	leastTable = 60 // columns that a table with three columns needs
)

// What stands around the words of others, in both languages.
var (
	textProgress = amtinit.Text{
		EN: "%d of %d targets done, %d failed, %s per second, time left: %s",
		JA: "%[2]d台中%[1]d台終了、失敗%[3]d台、毎秒%[4]s台、残り時間: %[5]s"}
	textUnknownTime = amtinit.Text{EN: "not known yet", JA: "不明"}
	textBarFailed   = amtinit.Text{EN: "failed %d", JA: "失敗%d"}
	textBarLeft     = amtinit.Text{EN: "ETA %s", JA: "残り%s"}
	textBarRate     = amtinit.Text{EN: "%s/s", JA: "毎秒%s台"}
	textSeconds     = amtinit.Text{EN: "%ds", JA: "%d秒"}
	textMinutes     = amtinit.Text{EN: "%dm%02ds", JA: "%d分%02d秒"}
	textHours       = amtinit.Text{EN: "%dh%02dm", JA: "%d時間%02d分"}
	TextRemedy      = amtinit.Text{EN: "Remedy:", JA: "対処:"}
	textHosts       = amtinit.Text{EN: "Hosts:", JA: "実行先:"}
	TextComma       = amtinit.Text{EN: ", ", JA: "、"}
	textMore        = amtinit.Text{EN: " and %d more", JA: "、ほか%d台"}
)

// Row is one message of a table, with how often it came and where.
type Row struct {
	Count         int
	ID            string
	Cause, Remedy string
	Hosts         []string // the first ones
}

// Table lays out rows under a heading, the most frequent first; nothing if there are none. A terminal that is too narrow
// for columns gets the text below number and message ID. broken says that the heading is broken for the width, too.
func Table(width int, broken bool, l amtinit.Lang, heading amtinit.Text, rows []Row) (lines []string) {
	if len(rows) == 0 {
		return nil
	}
	slices.SortStableFunc(rows, func(a, b Row) int { return b.Count - a.Count })
	title := heading.In(l)
	if broken {
		title = layout.Hanging("", 2, title, width)
	}
	lines = append(lines, "", title)
	for _, row := range rows {
		lines = append(lines, "")
		hosts := make([]string, 0, len(row.Hosts))
		for _, h := range row.Hosts {
			hosts = append(hosts, amtinit.Printable(h, maxShown))
		}
		head := fmt.Sprintf("%6d  %s  ", row.Count, row.ID)
		indent := layout.Columns(head)
		if width < leastTable {
			lines = append(lines, strings.TrimRight(head, " "))
			head, indent = "  ", 2
		}
		blank := strings.Repeat(" ", indent)
		lines = append(lines, layout.Hanging(head, indent, row.Cause, width))
		if row.Remedy != "" {
			lines = append(lines, layout.Hanging(blank, indent, TextRemedy.In(l)+" "+row.Remedy, width))
		}
		if len(hosts) > 0 {
			lines = append(lines, layout.Hanging(blank, indent, textHosts.In(l)+" "+List(l, hosts, row.Count), width))
		}
	}
	return lines
}

// List joins the first few of so many names.
func List(l amtinit.Lang, first []string, of int) string {
	text := strings.Join(first, TextComma.In(l))
	if more := of - len(first); more > 0 {
		text += fmt.Sprintf(textMore.In(l), more)
	}
	return text
}
