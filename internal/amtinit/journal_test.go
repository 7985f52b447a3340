package amtinit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"samehost/internal/amt"
)

// written makes a journal of a source with these outcomes, as one run does, and returns its folder and path.
func written(t *testing.T, source string, outcomes ...Outcome) (dir, path string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), JournalFolder)
	held, err := HoldJournals(dir, source)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	j, err := held.Begin(JournalRun{Program: "test", Mode: "all", Targets: len(outcomes), Digest: "d1"})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	record(t, j, outcomes...)
	return dir, j.f.Name()
}

// record writes outcomes and wants them shown in their order.
func record(t *testing.T, j *Journal, outcomes ...Outcome) {
	t.Helper()
	var shown []string
	j.Start(func(o Outcome) { shown = append(shown, o.Target.String()) }, func(err error) { t.Error(err) })
	var want []string
	for _, o := range outcomes {
		want = append(want, o.Target.String())
		j.Finish(o)
	}
	if err := j.Stop(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Errorf("shown (-want +got):\n%s", diff)
	}
}

func good(host string) Outcome {
	return Outcome{Target: Target{Host: host}, Result: amt.Result{EnterpriseAdded: true}}
}

func bad(host string, code Code) Outcome {
	return Outcome{Target: Target{Host: host}, Code: code, Step: Connect, Err: errors.New("no answer")}
}

// finishedIn lists what the newest journal of a source says of each host last.
func finishedIn(t *testing.T, dir, source string) (map[string]Code, *PastRun) {
	t.Helper()
	last := map[string]Code{}
	p, err := LoadJournal(dir, source, func(j *JournalTarget) { last[j.Name()] = j.Reason })
	if err != nil {
		t.Fatal(err)
	}
	return last, p
}

func TestJournalLines(t *testing.T) {
	t.Parallel()
	const guid = "00112233445566778899AABBCCDDEEFF"
	_, path := written(t, "/srv/NETM.NDD",
		Outcome{
			Target:  Target{Host: "pc1", Address: netip.MustParseAddr("192.0.2.1")},
			Reached: netip.MustParseAddrPort("192.0.2.7:16992"),
			Result:  amt.Result{About: amt.About{PlatformGUID: guid, Version: "11.8.50"}, EnterpriseAdded: true, AllocationAdded: true},
			Took:    1500 * time.Millisecond,
		},
		Outcome{Target: Target{Host: "pc2", Address: netip.MustParseAddr("192.0.2.2")}},
		Outcome{
			Target: Target{Host: "pc3"}, Code: WornOut, Step: Initialize, Status: 38, Err: errors.New("line\nend \x1b[2J"),
			Result: amt.Result{EnterpriseAdded: true, About: amt.About{PlatformGUID: "short"}},
		},
		Outcome{Target: Target{Address: netip.MustParseAddr("2001:db8::1")}, Reached: netip.MustParseAddrPort("[2001:db8::1]:16993")},
		bad("pc4", NotTried),
		bad("pc5", Interrupted),
	)
	lines, next, err := ReadJournal(path, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := []JournalLine{
		{Run: &JournalRun{Format: 1, Program: "test", Source: "/srv/NETM.NDD", Digest: "d1", Targets: 6, Mode: "all"}},
		{Target: &JournalTarget{Host: "pc1", Address: "192.0.2.7", OK: true, Done: []string{"enterprise-added", "allocation-added"},
			PlatformGUID: guid, Version: "11.8.50", Milliseconds: 1500}},
		{Target: &JournalTarget{Host: "pc2", Address: "192.0.2.2", OK: true, Already: true}},
		{Target: &JournalTarget{Host: "pc3", Reason: WornOut, Step: Initialize, Status: 38, Detail: `line\u{a}end \u{1b}[2J`}},
		{Target: &JournalTarget{Address: "2001:db8::1", OK: true, Already: true}},
	}
	ignored := cmpopts.IgnoreFields(JournalRun{}, "Started", "By", "Machine")
	if diff := cmp.Diff(want, lines, ignored, cmpopts.IgnoreFields(JournalTarget{}, "Finished")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if r := lines[0].Run; r.By == "" || r.Machine == "" || time.Since(r.Started) > time.Hour || r.Started.Location() != time.UTC {
		t.Errorf("who, where, when: %+v", r)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != next {
		t.Errorf("read up to %d of %v, %v", next, info.Size(), err)
	}
	if runtime.GOOS != "windows" {
		for name, mode := range map[string]os.FileMode{filepath.Dir(path): 0o750, path: 0o640} {
			if info, err := os.Stat(name); err != nil || info.Mode().Perm()&^mode != 0 {
				t.Errorf("%s: %v, %v, want at most %v", name, info.Mode(), err, mode)
			}
		}
	}
}

// The field names are read by other releases and programs.
func TestJournalFieldNames(t *testing.T) {
	t.Parallel()
	_, path := written(t, "pc1", Outcome{
		Target: Target{Host: "pc1"}, Code: WornOut, Step: Initialize, Status: 38, Err: errors.New("x"),
		Result: amt.Result{About: amt.About{PlatformGUID: strings.Repeat("A", 32), Version: "11"}},
	})
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		var object map[string]map[string]any
		if err := json.Unmarshal([]byte(line), &object); err != nil {
			t.Fatal(err)
		}
		for kind, fields := range object {
			for name := range fields {
				names = append(names, kind+"."+name)
			}
		}
	}
	want := strings.Fields(`run.format run.program run.source run.digest run.targets run.mode run.started run.by run.machine
		run.enterprise target.host target.finished target.ok target.reason target.step target.status target.detail
		target.platform_guid target.amt_version target.milliseconds`)
	if diff := cmp.Diff(want, names, cmpopts.SortSlices(func(a, b string) bool { return a < b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var end JournalLine
	if err := json.Unmarshal([]byte(`{"end":{"finished":"2026-11-23T00:00:00Z","exit_code":30}}`), &end); err != nil || end.End == nil || end.End.ExitCode != 30 {
		t.Errorf("%+v, %v", end, err)
	}
}

// The longest line that can be written can be read.
func TestJournalLongestLine(t *testing.T) {
	t.Parallel()
	worst := func(n int) string { return strings.Repeat("\U0010FFFF", n) }
	o := bad(worst(1000), OtherError)
	o.Err = errors.New(worst(5000))
	o.Result.About.Version = worst(500)
	_, path := written(t, "/"+worst(5000), o)
	lines, _, err := ReadJournal(path, 0)
	if err != nil || len(lines) != 2 || lines[0].Run == nil || lines[1].Target == nil {
		t.Fatalf("%v, %v", lines, err)
	}
	if lines[1].Target.Key() != o.Target.Key() {
		t.Error("the longest host name is another after reading")
	}
}

// A journal of which power took a part, or filled one with zeros, loses the outcomes of that part and nothing else, and can
// be gone on with.
func TestJournalAfterPowerLoss(t *testing.T) {
	t.Parallel()
	const source = "/srv/NETM.NDD"
	dir, path := written(t, source, good("pc1"), bad("pc2", Busy), good("pc3"))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ends := []int{}
	for i, c := range whole {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	held, err := HoldJournals(dir, source)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	check := func(name string, content []byte, cut int) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o640); err != nil {
			t.Fatal(err)
		}
		want := map[string]Code{}
		outcomes := []struct {
			host string
			code Code
		}{{"pc1", ""}, {"pc2", Busy}, {"pc3", ""}}
		for i, o := range outcomes {
			if cut >= ends[i+1] {
				want[o.host] = o.code
			}
		}
		got, past := finishedIn(t, dir, source)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s at %d (-want +got):\n%s", name, cut, diff)
		}
		if past.Unreadable != 0 || (past.Run == nil) != (cut < ends[0]) {
			t.Fatalf("%s at %d: %+v", name, cut, past)
		}
		// Whoever reads meanwhile gets whole lines and no half one.
		lines, next, err := ReadJournal(path, 0)
		if err != nil || len(lines) > 0 && next != int64(ends[len(lines)-1]) {
			t.Fatalf("%s at %d: %d lines up to %d, %v", name, cut, len(lines), next, err)
		}
		// To go on costs three syncs: that is done for every byte of the last line, and around the ends of the others.
		if cut < ends[len(ends)-2] && !slices.ContainsFunc(ends, func(end int) bool { return cut >= end-1 && cut <= end+1 }) && cut > 1 {
			return
		}
		j, err := held.Continue(past, JournalRun{Program: "test", Mode: "resume", Digest: "d1"})
		if err != nil {
			t.Fatalf("%s at %d: %v", name, cut, err)
		}
		record(t, j, good("pc9"))
		if err := errors.Join(j.End(0), j.Close()); err != nil {
			t.Fatal(err)
		}
		if content, err := os.ReadFile(path); err != nil || content[len(content)-1] != '\n' || bytes.IndexByte(content, 0) >= 0 {
			t.Fatalf("%s at %d: what was left of the loss stays behind: %v, %q", name, cut, err, content)
		}
		want["pc9"] = ""
		got, past = finishedIn(t, dir, source)
		if diff := cmp.Diff(want, got); diff != "" || past.Unreadable != 0 || past.Run.Mode != "resume" || past.End == nil {
			t.Fatalf("%s at %d, gone on with: %+v (-want +got):\n%s", name, cut, past, diff)
		}
		if more, _, err := ReadJournal(path, next); err != nil || len(more) != 3 || more[0].Run == nil || more[2].End == nil {
			t.Fatalf("%s at %d: a reader that goes on gets %v, %v", name, cut, more, err)
		}
	}
	for cut := 0; cut <= len(whole); cut++ {
		check("truncated", whole[:cut], cut)
		zeros := append(bytes.Clone(whole[:cut]), make([]byte, len(whole)-cut)...)
		check("zeros", zeros, cut)
		if cut%50 == 0 || slices.Contains(ends, cut) {
			check("many zeros", append(bytes.Clone(whole[:cut]), make([]byte, 3*maxJournalLine)...), cut)
		}
	}
}

// One line in the middle that is not one of ours any more costs that one outcome.
func TestJournalWithDamagedLine(t *testing.T) {
	t.Parallel()
	const source = "pc"
	dir, path := written(t, source, good("pc1"), bad("pc2", Busy), good("pc3"))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte{'\n'})
	for _, damage := range []string{
		"", "\x00\x00\x00", "garbage", "{", "null", "[]", "{}", `{"target":null}`, `{"target":{}}`, `{"target":[1]}`,
		`{"target":{"ok":true}}`, `{"target":{"host":"x","ok":true,"reason":"busy"}}`, `{"target":{"host":"x","ok":false}}`,
		`{"target":{"host":"x","ok":true},"end":{"exit_code":0}}`, `{"run":{"format":0}}`, `{"run":{"format":-1}}`,
		`{"run":{"format":1,"targets":-1}}`, `{"run":{"format":"1"}}`, strings.Repeat("[", maxJournalLine-1), strings.Repeat(" ", maxJournalLine),
		strings.Repeat("x", 5*maxJournalLine), strings.Repeat(" ", maxJournalLine) + `{"target":{"host":"x","ok":true}}`,
		`{"target":{"host":"x","ok":true,"detail":"` + strings.Repeat("x", maxJournalLine) + `"}}`,
	} {
		name := damage[:min(len(damage), 40)]
		content := append(append(append(bytes.Clone(lines[0]), lines[1]...), damage...), '\n')
		content = append(content, lines[3]...)
		if err := os.WriteFile(path, content, 0o640); err != nil {
			t.Fatal(err)
		}
		got, past := finishedIn(t, dir, source)
		if diff := cmp.Diff(map[string]Code{"pc1": "", "pc3": ""}, got); diff != "" || past.Unreadable != 1 {
			t.Errorf("%q: %+v (-want +got):\n%s", name, past, diff)
		}
		read, next, err := ReadJournal(path, 0)
		if err != nil || len(read) != 4 || read[2] != (JournalLine{}) || next != int64(len(content)) {
			t.Errorf("%q: %d lines, up to %d of %d, %v", name, len(read), next, len(content), err)
		}

		// As the first line it takes away what the journal is about.
		if err := os.WriteFile(path, append([]byte(damage+"\n"), lines[1]...), 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadJournal(dir, source, func(*JournalTarget) {}); !errors.Is(err, ErrJournalDamaged) {
			t.Errorf("%q as the first line: %v", name, err)
		}
	}
}

// A file that is no journal behind some line is not read to its end: that may be terabytes of zeros away.
func TestJournalWithoutEnd(t *testing.T) {
	t.Parallel()
	const source = "pc"
	dir, path := written(t, source, good("pc1"))
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Skipf("NOT TESTED: this file system has no file of a terabyte: %v", err)
	}
	read, next, err := ReadJournal(path, 0)
	if err == nil || len(read) != 2 || next != info.Size() {
		t.Errorf("%d lines, up to %d of %d, %v", len(read), next, info.Size(), err)
	}
	if _, err := LoadJournal(dir, source, func(*JournalTarget) {}); err == nil {
		t.Error("loaded")
	}
}

func TestJournalOfNewerRelease(t *testing.T) {
	t.Parallel()
	const source = "pc"
	dir, path := written(t, source, good("pc1"))
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, newer := range []string{
		`{"run":{"format":2,"program":"x"}}`,
		`{"run":{"format":3,"program":["another","type"],"targets":{"a":1}}}`,
		`{"run":{"format":2},"more":true}`,
	} {
		for _, before := range []string{"", string(old)} {
			if err := os.WriteFile(path, []byte(before+newer+"\n"+string(old)), 0o640); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadJournal(dir, source, func(*JournalTarget) {}); !errors.Is(err, ErrJournalFormat) {
				t.Errorf("%s: %v", newer, err)
			}
			lines, next, err := ReadJournal(path, 0)
			if !errors.Is(err, ErrJournalFormat) || next != int64(len(before)) || len(lines) != strings.Count(before, "\n") {
				t.Errorf("%s: %d lines up to %d, %v", newer, len(lines), next, err)
			}
		}
	}
	// A GUID that is none is left out.
	const guids = `{"run":{"format":1}}` + "\n" + `{"target":{"host":"a","ok":true,"platform_guid":"00112233445566778899aabbccddeeff"}}` + "\n"
	if err := os.WriteFile(path, []byte(guids), 0o640); err != nil {
		t.Fatal(err)
	}
	if lines, _, err := ReadJournal(path, 0); err != nil || len(lines) != 2 || lines[1].Target.PlatformGUID != "" {
		t.Error(lines, err)
	}
	// What a release adds without a new format is ignored.
	if err := os.WriteFile(path, []byte(`{"run":{"format":1,"new":7}}`+"\n"+`{"target":{"host":"a","ok":false,"reason":"of-tomorrow","new":[]}}`+"\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if got, _ := finishedIn(t, dir, source); got["a"] != "of-tomorrow" {
		t.Error(got)
	}
}

// A reader that comes back with an offset gets each line once, however the file grew, and everything again where the file is
// not what it was.
func TestReadJournalInParts(t *testing.T) {
	t.Parallel()
	const many = 2*maxJournalPart + 17
	var outcomes []Outcome
	for i := range many {
		outcomes = append(outcomes, good(fmt.Sprintf("pc%d", i)))
	}
	_, path := written(t, "pc", outcomes...)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var from int64
	seen := 0
	for {
		lines, next, err := ReadJournal(path, from)
		if err != nil {
			t.Fatal(err)
		}
		if len(lines) > maxJournalPart {
			t.Fatalf("%d lines at once", len(lines))
		}
		for _, l := range lines {
			if l.Target != nil && l.Target.Host != fmt.Sprintf("pc%d", seen) {
				t.Fatalf("%s where pc%d was due", l.Target.Host, seen)
			}
			if l.Target != nil {
				seen++
			}
		}
		if next == from {
			break
		}
		from = next
	}
	if seen != many || from != int64(len(whole)) {
		t.Fatalf("%d targets, up to %d of %d", seen, from, len(whole))
	}

	// Growing byte by byte.
	small := whole[:bytes.IndexByte(whole, '\n')+300]
	growing := filepath.Join(t.TempDir(), "x.000001.journal")
	from, seen = 0, 0
	for n := range len(small) + 1 {
		if err := os.WriteFile(growing, small[:n], 0o640); err != nil {
			t.Fatal(err)
		}
		lines, next, err := ReadJournal(growing, from)
		if err != nil || (next == from) != (len(lines) == 0) {
			t.Fatalf("%d bytes: %d lines from %d to %d, %v", n, len(lines), from, next, err)
		}
		seen, from = seen+len(lines), next
	}
	if want := bytes.Count(small, []byte{'\n'}); seen != want {
		t.Errorf("%d lines, want %d", seen, want)
	}

	// Shorter than the offset, zeros before the offset, and no offset at all.
	for _, test := range []struct {
		content []byte
		from    int64
	}{{small, int64(len(whole))}, {append(make([]byte, 50), small...), 50}, {small, -1}, {small, 7}} {
		if err := os.WriteFile(growing, test.content, 0o640); err != nil {
			t.Fatal(err)
		}
		lines, next, err := ReadJournal(growing, test.from)
		if err != nil || len(lines) != seen || next != int64(bytes.LastIndexByte(test.content, '\n')+1) {
			t.Errorf("from %d of %d: %d lines up to %d, %v", test.from, len(test.content), len(lines), next, err)
		}
	}
	if _, _, err := ReadJournal(filepath.Join(t.TempDir(), "missing"), 0); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestJournalNames(t *testing.T) {
	t.Parallel()
	for source, stem := range map[string]string{
		"/srv/NETM.NDD":                   "NETM-NDD",
		"/srv/" + strings.Repeat("長", 99): strings.Repeat("長", maxJournalStem),
		"pc1.example.com":                 "pc1-example-com",
		"2001:db8::1":                     "2001-db8--1",
		"/srv/a b;rm -rf\n\xff":           "a-b-rm--rf--",
		"/":                               "",
		"con":                             "con",
	} {
		key := JournalKey(source)
		if runtime.GOOS == "windows" {
			stem = strings.ToLower(stem)
		}
		got, ok := strings.CutPrefix(key, stem+"-")
		if !ok || len(got) != 8 || !utf8.ValidString(key) || len(key) > 200 {
			t.Errorf("%q: key %q, want %q and 8 digits", source, key, stem)
		}
		name := fmt.Sprintf("%s.%06d%s", key, 42, journalSuffix)
		if k, n, ok := parseJournalName(name); !ok || k != key || n != 42 {
			t.Errorf("%q: %q, %d, %v", name, k, n, ok)
		}
	}
	if JournalKey("/a/NETM.NDD") == JournalKey("/b/NETM.NDD") {
		t.Error("two files have one key")
	}

	dir := t.TempDir()
	for _, name := range []string{
		"b.000001.journal", "a.000010.journal", "a.000009.journal", "a.1000000.journal", "a.lock", "a.00001.journal", "a.0000001234.journal",
		"a.-00001.journal", ".000001.journal", "a.000001.journal.tmp", "notes.txt",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("xyz"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "a.000011.journal"), 0o750); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" {
		if err := os.Symlink("/etc/passwd", filepath.Join(dir, "a.000012.journal")); err != nil {
			t.Fatal(err)
		}
	}
	list, err := ListJournals(dir)
	want := []JournalFile{
		{filepath.Join(dir, "a.000009.journal"), "a", 9, 3},
		{filepath.Join(dir, "a.000010.journal"), "a", 10, 3},
		{filepath.Join(dir, "a.1000000.journal"), "a", 1000000, 3},
		{filepath.Join(dir, "b.000001.journal"), "b", 1, 3},
	}
	if diff := cmp.Diff(want, list); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if list, err := ListJournals(filepath.Join(dir, "missing")); len(list) != 0 || err != nil {
		t.Error(list, err)
	}
}

// The number of a journal grows with each new run, whatever the clock says, and the newest is gone on with.
func TestJournalNumbers(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), JournalFolder)
	if _, err := LoadJournal(dir, "pc", nil); !errors.Is(err, ErrNoJournal) {
		t.Errorf("no folder: %v", err)
	}
	held, err := HoldJournals(dir, "pc")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := LoadJournal(dir, "pc", nil); !errors.Is(err, ErrNoJournal) {
		t.Errorf("no journal: %v", err)
	}
	other, err := HoldJournals(dir, "pc2")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for n, h := range []*Journals{held, other, held, held, other} {
		j, err := h.Begin(JournalRun{})
		if err != nil {
			t.Fatal(err)
		}
		record(t, j, good(fmt.Sprint(n)))
		j.Close()
		if n == 2 { // a journal that is gone leaves no number to use again, as long as there is a later one
			if err := os.Remove(filepath.Join(dir, JournalKey("pc")+".000001.journal")); err != nil {
				t.Fatal(err)
			}
		}
	}
	list, err := ListJournals(dir)
	var got []string
	for _, f := range list {
		got = append(got, fmt.Sprint(f.Key[:len(f.Key)-9], f.N))
	}
	if diff := cmp.Diff([]string{"pc2", "pc3", "pc21", "pc22"}, got, cmpopts.SortSlices(func(a, b string) bool { return a < b })); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if finished, p := finishedIn(t, dir, "pc"); len(finished) != 1 || finished["3"] != "" || p.End != nil || p.Run == nil {
		t.Errorf("%v, %+v", finished, p)
	} else {
		j, err := held.Continue(p, JournalRun{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(j.End(31), j.Close()); err != nil {
			t.Fatal(err)
		}
		if _, p = finishedIn(t, dir, "pc"); p.End == nil || p.End.ExitCode != 31 {
			t.Errorf("ended: %+v", p)
		}
		if j, err = held.Continue(p, JournalRun{}); err != nil {
			t.Fatal(err)
		}
		j.Close()
		if _, p = finishedIn(t, dir, "pc"); p.End != nil {
			t.Errorf("begun again, and still ended: %+v", p.End)
		}
	}
}

func TestJournalsAreHeldByOne(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), JournalFolder)
	first, err := HoldJournals(dir, "/srv/a.NDD")
	if err != nil {
		t.Fatal(err)
	}
	_, err = HoldJournals(dir, "/srv/a.NDD")
	if want := fmt.Sprintf("process %d)", os.Getpid()); !errors.Is(err, ErrJournalBusy) || !strings.Contains(err.Error(), want) {
		t.Errorf("held twice: %v", err)
	}
	other, err := HoldJournals(dir, "/srv/b.NDD")
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	first.Close()
	again, err := HoldJournals(dir, "/srv/a.NDD")
	if err != nil {
		t.Fatalf("after it was given back: %v", err)
	}
	again.Close()

	if _, err := HoldJournals(filepath.Join(dir, "missing", "x"), "a"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder above: %v", err)
	}
	file := filepath.Join(t.TempDir(), JournalFolder)
	if err := os.WriteFile(file, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := HoldJournals(file, "a"); err == nil {
		t.Error("a file in the folder's place is no error")
	}
}

// What could not be written is not shown, and is told once; what was on the disk before stays.
func TestJournalThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir, path := written(t, "pc", good("pc1"))
	f, err := os.Open(path) // for reading only: every write fails
	if err != nil {
		t.Fatal(err)
	}
	j := &Journal{f: f}
	defer j.Close()
	var shown []string
	failures := 0
	told := make(chan struct{})
	j.Start(func(o Outcome) { shown = append(shown, o.Host) }, func(error) {
		failures++
		close(told)
	})
	j.Finish(good("pc2"))
	<-told
	for _, o := range []Outcome{good("pc3"), bad("pc4", Busy), bad("pc5", Interrupted), bad("pc6", NotTried)} {
		j.Finish(o)
	}
	err = j.Stop()
	if diff := cmp.Diff([]string{"pc5", "pc6"}, shown); diff != "" || failures != 1 || err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%d failures, %v (-want +got):\n%s", failures, err, diff)
	}
	if err := j.End(0); err == nil {
		t.Error("the end of a run was written after all")
	}
	if got, _ := finishedIn(t, dir, "pc"); len(got) != 1 {
		t.Error(got)
	}
}

// What arrives while the disk is busy is written together: with a sync each, ten thousand outcomes would take as many.
func TestJournalWritesTogether(t *testing.T) {
	t.Parallel()
	dir, path := written(t, "pc")
	_, past := finishedIn(t, dir, "pc")
	held, err := HoldJournals(dir, "pc")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	j, err := held.Continue(past, JournalRun{})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	hold, first := make(chan struct{}), make(chan struct{})
	shown, sizes := 0, map[int64]bool{}
	j.Start(func(o Outcome) {
		if shown++; shown == 1 {
			close(first)
			<-hold
		}
		if info, err := os.Stat(path); err == nil {
			sizes[info.Size()] = true
		}
	}, func(err error) { t.Error(err) })
	j.Finish(good("pc0"))
	<-first
	for i := range journalBatch {
		j.Finish(good(fmt.Sprintf("pc%d", i+1)))
	}
	close(hold)
	if err := j.Stop(); err != nil {
		t.Fatal(err)
	}
	if shown != journalBatch+1 || len(sizes) != 2 {
		t.Errorf("%d outcomes in %d writes, want %d in 2", shown, len(sizes), journalBatch+1)
	}
}

func TestHostKeys(t *testing.T) {
	t.Parallel()
	key := Target{Host: "PC0001.example.com."}.Key()
	for _, same := range []string{"pc0001.example.com", "Pc0001.EXAMPLE.com", "pc0001.example.com."} {
		if (Target{Host: same}).Key() != key || (&JournalTarget{Host: same, Address: "192.0.2.9"}).Key() != key {
			t.Errorf("%s is another host", same)
		}
	}
	if (Target{Host: "pc0001"}).Key() == key {
		t.Error("a name without its domain is the same host")
	}
	a := netip.MustParseAddr("2001:db8::1")
	if (Target{Address: a}).Key() != (&JournalTarget{Address: a.String()}).Key() {
		t.Error("an address is another after it was written")
	}
}

func FuzzParseJournalLine(f *testing.F) {
	f.Add([]byte(`{"run":{"format":1,"program":"dcmamtin","source":"/srv/NETM.NDD","digest":"","targets":3,"mode":"all","started":"2026-11-23T00:00:00Z","by":"root","machine":"m","enterprise":"samehost"}}`))
	f.Add([]byte(`{"target":{"host":"pc1","finished":"2026-11-23T00:00:00Z","ok":false,"reason":"busy","done":["\u001b"],"platform_guid":"00112233445566778899AABBCCDDEEFF","milliseconds":3}}`))
	f.Add([]byte(`{"end":{"finished":"2026-11-23T00:00:00Z","exit_code":30}}`))
	f.Add([]byte(`{"run":{"format":2}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) >= maxJournalLine {
			return
		}
		line, err := parseJournalLine(text)
		if err != nil {
			if !errors.Is(err, ErrJournalFormat) || line != (JournalLine{}) {
				t.Fatal(line, err)
			}
			return
		}
		if line == (JournalLine{}) {
			return
		}
		// What was read is fit for a terminal, and reads the same when it is written again.
		out, err := json.Marshal(line)
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsFunc(string(out), func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x202e }) || bytes.Contains(out, []byte(`\u001b`)) {
			t.Fatalf("not printable: %s", out)
		}
		if len(out) >= maxJournalLine {
			return
		}
		again, err := parseJournalLine(out)
		if diff := cmp.Diff(line, again, cmpopts.EquateEmpty()); diff != "" || err != nil {
			t.Fatalf("%v (-first +again):\n%s", err, diff)
		}
	})
}
