package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
)

// causeCommand shows one cause of failure in every way that S18 knows: one target (31), one bad target beside a good
// one (30), and nothing but bad ones (31). Each time standard output, DCMAMT.LOG and the exit code must agree:
//
//	cause REASON MESSAGE-ID REMEDY GOOD BAD
//
// GOOD and BAD are addresses, BAD may be a host name; REMEDY is a part of the remedy. $CAUSE_ARGS are further arguments.
func causeCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 5 {
		ts.Fatalf("usage: cause REASON MESSAGE-ID REMEDY GOOD BAD")
	}
	c := cause{ts: ts, reason: args[0], id: args[1], remedy: args[2]}
	good, bad := args[3], args[4]

	// In the file a bad PC stands under two names: two targets that fail alike.
	badAddress, badNames, one := bad, []string{"BAD1", "BAD2"}, []string{"/I", bad}
	if _, err := netip.ParseAddr(bad); err != nil {
		badAddress, badNames, one = "0.0.0.0", []string{bad, "x." + bad}, []string{"/H", bad}
	}
	line := func(address, name string) string { return address + " " + name + " TYPE=client\n" }
	mixed := line(badAddress, badNames[0]) + line(good, "GOOD")
	all := line(badAddress, badNames[0]) + line(badAddress, badNames[1])

	c.run(31, one, nil, []string{bad})
	c.run(30, c.file(mixed), []string{"GOOD"}, badNames[:1])
	c.run(31, c.file(all), nil, badNames)
}

type cause struct {
	ts                 *testscript.TestScript
	reason, id, remedy string
	runs               int
}

// file is the arguments for a system configuration information file.
func (c *cause) file(content string) []string {
	name := c.ts.MkAbs("cause.NDD")
	c.ts.Check(os.WriteFile(name, []byte(content), 0o600))
	return []string{"/f", name}
}

// run runs the command with a log of its own and compares what it did with what it had to do to the targets.
func (c *cause) run(exit int, args, good, bad []string) {
	ts := c.ts
	c.runs++
	dir := ts.MkAbs(filepath.Join("cause", fmt.Sprint(c.runs)))
	ts.Check(os.RemoveAll(dir)) // of the cause before
	ts.Check(os.MkdirAll(dir, 0o700))
	config := filepath.Join(dir, "m.toml")
	ts.Check(os.WriteFile(config, []byte("data_dir = \".\"\n[amt]\npassword_env = \"AMT_PASSWORD\"\n[dcmamtin]\nresolve = \"file\"\n"), 0o600))
	args = append(append(args, "--config", config, "--json"), strings.Fields(ts.Getenv("CAUSE_ARGS"))...)
	err := ts.Exec("dcmamtin", args...)
	got := 0
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		got = failed.ExitCode()
	} else {
		ts.Check(err)
	}

	// What the command printed, host by host, and the summary.
	type target struct {
		Host      string
		OK        bool
		Reason    string
		MessageID string `json:"message_id"`
		Remedy    string
	}
	type summary struct {
		Targets     int
		Initialized int
		Failed      int
		NotTried    int `json:"not_tried"`
		Reasons     map[string]int
		ExitCode    int `json:"exit_code"`
	}
	var sum summary
	seen := make(map[string]target)
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		var l struct {
			target
			Summary *summary
		}
		ts.Check(json.Unmarshal([]byte(line), &l))
		if l.Summary != nil {
			sum = *l.Summary
		} else {
			seen[l.Host] = l.target
		}
	}
	want := make(map[string]target)
	for _, host := range good {
		want[host] = target{Host: host, OK: true}
	}
	for _, host := range bad {
		want[host] = target{Host: host, Reason: c.reason, MessageID: c.id, Remedy: seen[host].Remedy}
		if !strings.Contains(seen[host].Remedy, c.remedy) {
			ts.Fatalf("%q: the remedy for %s does not say %q: %q", args, host, c.remedy, seen[host].Remedy)
		}
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		ts.Fatalf("%q (-want +got):\n%s", args, diff)
	}
	if diff := cmp.Diff(summary{len(want), len(good), len(bad), 0, map[string]int{c.reason: len(bad)}, exit}, sum); diff != "" {
		ts.Fatalf("%q: the summary (-want +got):\n%s", args, diff)
	}
	if got != exit {
		ts.Fatalf("%q: exit code %d, want %d", args, got, exit)
	}

	// The log: the start, a line with cause and remedy for each that failed, the summary.
	log := strings.Split(strings.TrimSuffix(ts.ReadFile(filepath.Join(dir, "DCMAMT.LOG")), "\n"), "\n")
	if len(log) != len(bad)+2 {
		ts.Fatalf("%q: %d lines in the log, want %d:\n%s", args, len(log), len(bad)+2, strings.Join(log, "\n"))
	}
	logged := make(map[string]bool)
	for _, line := range log[1 : len(log)-1] {
		for _, host := range bad {
			logged[host] = logged[host] || strings.Contains(line, " "+c.id+" host="+host+" ") &&
				strings.Contains(line, " reason="+c.reason+" ") && strings.Contains(line, c.remedy)
		}
	}
	for _, host := range bad {
		if !logged[host] {
			ts.Fatalf("%q: no line of the log says %s, %s and %q for %s:\n%s", args, c.id, c.reason, c.remedy, host, strings.Join(log, "\n"))
		}
	}
	last := "SHAM0004-E "
	if exit == exitSome {
		last = "SHAM0003-W "
	}
	last += fmt.Sprintf("targets=%d initialized=%d already=", len(want), len(good))
	if end := log[len(log)-1]; !strings.Contains(end, last) || !strings.Contains(end, fmt.Sprintf(" failed=%d not_tried=0 ", len(bad))) ||
		!strings.Contains(end, fmt.Sprintf(" exit_code=%d ", exit)) {
		ts.Fatalf("%q: the log's last line:\n%s", args, end)
	}
}
