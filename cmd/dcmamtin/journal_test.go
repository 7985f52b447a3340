package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/testscript"
	"pgregory.net/rapid"

	"samehost/internal/amtinit"
)

// newest is the newest journal in a script's folder whose name begins so.
func newest(ts *testscript.TestScript, stem string) string {
	list, err := amtinit.ListJournals(ts.MkAbs(amtinit.JournalFolder))
	ts.Check(err)
	path := ""
	for _, f := range list {
		if strings.HasPrefix(f.Key, stem+"-") {
			path = f.Path
		}
	}
	if path == "" {
		ts.Fatalf("no journal of %s", stem)
	}
	return path
}

// journalCommand copies the newest journal whose name begins so to journal.txt and wants it to have so many lines:
// journal STEM LINES
func journalCommand(ts *testscript.TestScript, neg bool, args []string) {
	text, err := os.ReadFile(newest(ts, args[0]))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("journal.txt"), text, 0o600))
	if n := strconv.Itoa(bytes.Count(text, []byte{'\n'})); n != args[1] {
		ts.Fatalf("%s lines, want %s:\n%s", n, args[1], text)
	}
}

// breakoffCommand leaves of the newest journal whose name begins so the first lines, and a text after them, as a run that was
// killed leaves half a line: breakoff STEM LINES [TEXT]
func breakoffCommand(ts *testscript.TestScript, neg bool, args []string) {
	path := newest(ts, args[0])
	text, err := os.ReadFile(path)
	ts.Check(err)
	keep, err := strconv.Atoi(args[1])
	ts.Check(err)
	lines := bytes.SplitAfter(text, []byte{'\n'})
	if len(lines) < keep {
		ts.Fatalf("the journal has %d lines, not %d", len(lines), keep)
	}
	text = bytes.Join(lines[:keep], nil)
	if len(args) > 2 {
		text = append(text, strings.ReplaceAll(args[2], `\n`, "\n")...)
	}
	ts.Check(os.WriteFile(path, text, 0o600))
}

// heldCommand runs dcmamtin while this process holds the journals of a source, and wants exit code 12 and nothing on standard
// output: held SOURCE ARG...
func heldCommand(ts *testscript.TestScript, neg bool, args []string) {
	held, err := amtinit.HoldJournals(ts.MkAbs(amtinit.JournalFolder), args[0])
	ts.Check(err)
	defer held.Close()
	exitsCommand(ts, neg, append([]string{"12"}, args[1:]...))
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("standard output has %q", out)
	}
	if err := ts.ReadFile("stderr"); !strings.Contains(err, fmt.Sprintf("(process %d)", os.Getpid())) {
		ts.Fatalf("standard error does not name the process")
	}
}

// faultsCommand replaces the fault switches of a simulated device: faults CONTROL-ADDRESS:PORT N JSON
func faultsCommand(ts *testscript.TestScript, neg bool, args []string) {
	req, err := http.NewRequest(http.MethodPut, fmt.Sprintf("http://%s/devices/%s/faults", args[0], args[1]), strings.NewReader(args[2]))
	ts.Check(err)
	client := http.Client{Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	ts.Check(err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		ts.Fatalf("%s", resp.Status)
	}
}

// Of several outcomes of a host the last counts, whatever came before, and the first hosts named have the reason they are
// named for.
func TestTally(t *testing.T) {
	t.Parallel()
	codes := []amtinit.Code{"", "already", amtinit.Busy, amtinit.WornOut, amtinit.NotTried, amtinit.Interrupted, "of-tomorrow"}
	rapid.Check(t, func(t *rapid.T) {
		tally, last := newTally(), map[string]amtinit.Code{}
		for range rapid.IntRange(0, 60).Draw(t, "outcomes") {
			host := fmt.Sprintf("pc%d", rapid.IntRange(0, 12).Draw(t, "host"))
			code := rapid.SampledFrom(codes).Draw(t, "code")
			last[host] = code
			v := tally.verdict(code, false)
			if code == "already" {
				v = tally.verdict("", true)
			}
			tally.record(amtinit.Target{Host: host}.Key(), host, v)

			want := amtinit.Summary{Reasons: map[amtinit.Code]int{}}
			for h, c := range last {
				key := amtinit.Target{Host: h}.Key()
				if !tally.finished(key) || tally.failed(key) != (c != "" && c != "already") {
					t.Fatalf("%s with %q: finished %v, failed %v", h, c, tally.finished(key), tally.failed(key))
				}
				switch c {
				case "already":
					want.Already++
					fallthrough
				case "":
					want.OK++
					continue
				case amtinit.NotTried:
					want.NotTried++
				case "of-tomorrow":
					c = amtinit.OtherError
					fallthrough
				default:
					want.Failed++
				}
				want.Reasons[c]++
			}
			if diff := cmp.Diff(want, tally.sum, cmpopts.IgnoreFields(amtinit.Summary{}, "Hosts")); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
			for code, hosts := range tally.sum.Hosts {
				if len(hosts) == 0 || len(hosts) > amtinit.FirstHosts || len(slices.Compact(slices.Sorted(slices.Values(hosts)))) != len(hosts) {
					t.Fatalf("%s: %v", code, hosts)
				}
				for _, h := range hosts {
					if c := last[h]; c != code && !(c == "of-tomorrow" && code == amtinit.OtherError) {
						t.Fatalf("%s is named for %s, its reason is %q", h, code, c)
					}
				}
			}
			if rapid.IntRange(0, 9).Draw(t, "named") == 0 {
				for h, c := range last {
					tally.name(amtinit.Target{Host: h}.Key(), h, tally.verdict(c, false))
				}
				for code, n := range tally.sum.Reasons {
					if len(tally.sum.Hosts[code]) != min(n, amtinit.FirstHosts) || tally.lacksHosts() {
						t.Fatalf("%s: %d hosts, named are %v", code, n, tally.sum.Hosts[code])
					}
				}
			}
			if tally.finished(amtinit.Target{Host: "never"}.Key()) || tally.failed(amtinit.Target{Host: "never"}.Key()) {
				t.Fatal("a host without an outcome has one")
			}
		}
	})

	// Without repetition it is the first ones.
	tally := newTally()
	for i := range 9 {
		host := fmt.Sprintf("pc%d", i)
		tally.record(amtinit.Target{Host: host}.Key(), host, tally.verdict([]amtinit.Code{amtinit.Busy, amtinit.WornOut}[i%2], false))
	}
	want := map[amtinit.Code][]string{amtinit.Busy: {"pc0", "pc2", "pc4"}, amtinit.WornOut: {"pc1", "pc3", "pc5"}}
	if diff := cmp.Diff(want, tally.sum.Hosts); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The digest is that of the whole file, whatever its encoding, and the same both times it is read.
func TestDigestOfFile(t *testing.T) {
	t.Parallel()
	const line = "127.0.0.1 A TYPE=client\n"
	utf16 := []byte{0xFF, 0xFE}
	for _, c := range line {
		utf16 = append(utf16, byte(c), 0)
	}
	for name, content := range map[string]string{
		"UTF-8":  line,
		"mark":   "\xEF\xBB\xBF" + line,
		"UTF-16": string(utf16),
		"long":   strings.Repeat("' comment\n", 20_000) + line,
		"no end": strings.TrimSuffix(line, "\n"),
	} {
		file := filepath.Join(t.TempDir(), "NETM.NDD")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		l, p := openTargets(arguments{file: file})
		if p != nil {
			t.Fatalf("%s: %+v", name, p)
		}
		if want := fmt.Sprintf("%x", sha256.Sum256([]byte(content))); l.digest != want {
			t.Errorf("%s: %s, want %s", name, l.digest, want)
		}
		n := 0
		for range l.until(new(atomic.Bool)) {
			n++
		}
		if n != 1 || l.err != nil || l.file.digest() != l.digest {
			t.Errorf("%s: %d targets, %+v, %s", name, n, l.err, l.file.digest())
		}
		l.close()
	}
}

// What was finished is not yielded, whatever the file says now, and a file that is another after the last target is noticed.
func TestPendingTargets(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "NETM.NDD")
	content := "127.0.0.1 a TYPE=client\n127.0.0.2 B TYPE=client\n127.0.0.9 B. TYPE=client\n127.0.0.3 m TYPE=manager\n127.0.0.4 c TYPE=relay\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() *targetList {
		l, p := openTargets(arguments{file: file})
		if p != nil || l.count != 3 {
			t.Fatalf("%+v, %+v", l, p)
		}
		return l
	}
	l := open()
	defer l.close()
	delete(l.pending, amtinit.Target{Host: "A"}.Key())
	var got []string
	for target := range l.until(new(atomic.Bool)) {
		got = append(got, target.Host+" "+target.Address.String())
	}
	if diff := cmp.Diff([]string{"B 127.0.0.2", "c 127.0.0.4"}, got); diff != "" || l.err != nil {
		t.Errorf("%+v (-want +got):\n%s", l.err, diff)
	}

	got = nil
	l = open()
	defer l.close()
	if err := os.WriteFile(file, []byte(strings.Replace(content, "127.0.0.3 m TYPE=manager", "127.0.0.3 m TYPE=clients", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for target := range l.until(new(atomic.Bool)) {
		got = append(got, target.Host)
	}
	if l.err == nil || slices.Contains(got, "m") {
		t.Errorf("another file, and nothing noticed: %v", got)
	}

	l, p := openTargets(arguments{host: "pc1"})
	if p != nil || l.count != 1 || l.digest != "" {
		t.Fatalf("%+v, %+v", l, p)
	}
	clear(l.pending)
	for target := range l.until(new(atomic.Bool)) {
		t.Errorf("%v was finished", target)
	}
}
