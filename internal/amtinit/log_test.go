package amtinit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/amt"
)

// TestMain lets the test binary play another process that writes to the same log.
func TestMain(m *testing.M) {
	if dir := os.Getenv("AMTINIT_TEST_LOG"); dir != "" {
		if err := writeMany(dir, os.Getenv("AMTINIT_TEST_WRITER")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const (
	manyLines = 1200 // each writer writes
	manyLimit = 40   // lines of a file in that test
)

// writeMany begins when standard input ends, so that several begin together.
func writeMany(dir, writer string) error {
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	l := OpenLog(dir, English)
	l.lines, l.generations = manyLimit, 1000
	for n := range manyLines {
		if err := l.Start(fmt.Sprintf("%s-%d", writer, n), 1, "all"); err != nil {
			return err
		}
	}
	return nil
}

func linesOf(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var lines []string
	for s := bufio.NewScanner(f); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return lines
}

func TestLogWithTwoProcesses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var writers []*exec.Cmd
	begin, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		c := exec.Command(os.Args[0])
		c.Stdin = begin
		c.Env = append(os.Environ(), "AMTINIT_TEST_LOG="+dir, "AMTINIT_TEST_WRITER="+name)
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		writers = append(writers, c)
	}
	begin.Close()
	hold.Close()
	for _, c := range writers {
		if err := c.Wait(); err != nil {
			t.Fatal(err)
		}
	}

	// Every line is there once and whole, every full file has exactly its limit, and each writer's lines are in order.
	line := regexp.MustCompile(`^\S+ \[\d+\] SHAM0001-I source=([ab])-(\d+) targets=1 mode=all Initialization of AMT nonvolatile memory started\.$`)
	next := map[string]int{}
	last, turns := "", 0
	for n := 2*manyLines/manyLimit - 1; n >= 0; n-- {
		path := filepath.Join(dir, LogName)
		if n > 0 {
			path += fmt.Sprintf(".%d", n)
		}
		lines := linesOf(t, path)
		if len(lines) != manyLimit {
			t.Errorf("%s has %d lines, want %d", filepath.Base(path), len(lines), manyLimit)
		}
		for _, l := range lines {
			m := line.FindStringSubmatch(l)
			if m == nil {
				t.Fatalf("torn line %q", l)
			}
			if want := fmt.Sprint(next[m[1]]); m[2] != want {
				t.Fatalf("writer %s: line %s where %s was due", m[1], m[2], want)
			}
			next[m[1]]++
			if m[1] != last {
				last = m[1]
				turns++
			}
		}
	}
	if turns < 4 {
		t.Errorf("the processes took %d turns: they did not write at the same time, and nothing is shown", turns)
	}
	if next["a"] != manyLines || next["b"] != manyLines {
		t.Errorf("lines found: %v, want %d of each", next, manyLines)
	}
}

func TestLogKeepsItsGenerations(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 3 { // a process each: the count is taken from the file
		l := OpenLog(dir, English)
		l.lines, l.generations = 4, 3
		for range 6 {
			if err := l.Start("x", 1, "all"); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := map[string]int{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		got[e.Name()] = len(linesOf(t, filepath.Join(dir, e.Name())))
	}
	want := map[string]int{"DCMAMT.LOG": 2, "DCMAMT.LOG.1": 4, "DCMAMT.LOG.2": 4, "DCMAMT.LOG.lock": 0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines per file (-want +got):\n%s", diff)
	}
}

func TestLogLines(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, lang := range []Lang{English, Japanese} {
		l := OpenLog(dir, lang)
		out := Outcome{
			Target:  Target{Host: "PC 1\n\x1b[2J\"", Address: netip.MustParseAddr("192.0.2.1")},
			Reached: netip.MustParseAddrPort("192.0.2.1:16992"),
			Code:    WornOut, Step: Initialize, Status: amt.StatusFlashWriteLimitExceeded, Err: errors.New(`AddStorageEaclEntry: "x"`),
		}
		if err := errors.Join(
			l.Failed(out),
			l.Failed(Outcome{Target: Target{Address: netip.MustParseAddr("192.0.2.7")}, Code: NothingAnswers, Step: Connect}),
			l.End(Summary{OK: 2, Already: 1}, 2, 0),
			l.End(Summary{OK: 1, Failed: 1}, 2, 30),
			l.End(Summary{Failed: 2}, 2, 31),
			l.End(Summary{Failed: 5, NotTried: 4}, 9, 31),
			l.End(Summary{OK: 1}, 2, 12),
			l.End(Summary{Failed: 1, Reasons: map[Code]int{Interrupted: 1}}, 1, 12),
		); err != nil {
			t.Fatal(err)
		}
	}
	stamp := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d \[\d+\] `)
	var got []string
	for _, l := range linesOf(t, filepath.Join(dir, LogName)) {
		if !stamp.MatchString(l) {
			t.Errorf("%q begins without time and process", l)
		}
		got = append(got, stamp.ReplaceAllString(l, ""))
	}
	worn, silent := ReasonOf(WornOut), ReasonOf(NothingAnswers)
	var want []string
	for _, lang := range []Lang{English, Japanese} {
		mark := Text{" Remedy: ", " 対処: "}.In(lang)
		want = append(want,
			`SHAM1020-E host="PC 1\\u{a}\\u{1b}[2J\"" address=192.0.2.1:16992 step=initialize reason=worn-out`+
				` status="PT_STATUS_FLASH_WRITE_LIMIT_EXCEEDED (38)" detail="AddStorageEaclEntry: \"x\"" `+
				worn.Cause.In(lang)+mark+worn.Remedy.In(lang),
			`SHAM1002-E host=192.0.2.7 address=192.0.2.7 step=connect reason=nothing-answers status=- detail=- `+
				silent.Cause.In(lang)+mark+silent.Remedy.In(lang),
			`SHAM0002-I targets=2 initialized=2 already=1 failed=0 not_tried=0 exit_code=0 warned=0 `+logAllOK.text.In(lang),
			`SHAM0003-W targets=2 initialized=1 already=0 failed=1 not_tried=0 exit_code=30 warned=0 `+logSomeBad.text.In(lang),
			`SHAM0004-E targets=2 initialized=0 already=0 failed=2 not_tried=0 exit_code=31 warned=0 `+logAllBad.text.In(lang),
			`SHAM0005-E targets=9 initialized=0 already=0 failed=5 not_tried=4 exit_code=31 warned=0 `+logStopped.text.In(lang),
			`SHAM0006-E targets=2 initialized=1 already=0 failed=0 not_tried=1 exit_code=12 warned=0 `+logBroken.text.In(lang),
			`SHAM0006-E targets=1 initialized=0 already=0 failed=1 not_tried=0 exit_code=12 warned=0 `+logBroken.text.In(lang))
	}
	if diff := cmp.Diff(strings.Join(want, "\n"), strings.Join(got, "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLogThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "missing")
	err := OpenLog(dir, English).Start("x", 1, "all")
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), filepath.Join(dir, LogName)) {
		t.Errorf("Start = %v, want an error that names the log", err)
	}
}
