package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/amt"
	"samehost/internal/amtinit"
	"samehost/internal/layout"
	"samehost/internal/terminal"
)

var update = flag.Bool("update", false, "write the screens of docs/operations/dcmamtin.md anew")

// screenOf lays out what a run of fixed outcomes shows in that many columns; none is a file or a pipe.
func screenOf(lang amtinit.Lang, columns int, dryRun bool, show func(r *report, out *bytes.Buffer)) string {
	var out bytes.Buffer
	began := time.Date(2026, 11, 23, 9, 15, 2, 0, time.UTC)
	r := &report{
		w: &out, columns: func() int { return max(columns-1, 0) }, began: began,
		now:       func() time.Time { return began.Add(43 * time.Second) },
		warnings:  make(map[string]*warned),
		arguments: arguments{file: "/var/lib/samehost/NETM.NDD", lang: lang, dryRun: dryRun, parallel: amtinit.DefaultParallel, timeout: amtinit.DefaultTimeout, progress: "auto"},
	}
	show(r, &out)
	return out.String()
}

// pc is a target of the examples.
func pc(n int) amtinit.Outcome {
	addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})
	return amtinit.Outcome{
		Target:  amtinit.Target{Host: fmt.Sprintf("PC%04d", n), Address: addr},
		Reached: netip.AddrPortFrom(addr, amtinit.PortHTTP),
		Result:  amt.Result{About: amt.About{Version: "11.8.50"}},
	}
}

func fails(o amtinit.Outcome, code amtinit.Code, err string) amtinit.Outcome {
	o.Code, o.Step, o.Err = code, amtinit.Initialize, errors.New(err)
	if code == amtinit.NothingAnswers {
		o.Step, o.Reached = amtinit.Connect, netip.AddrPort{}
		o.Result = amt.Result{}
	}
	return o
}

// exampleOutcomes are one of each kind that the screens show.
func exampleOutcomes() []amtinit.Outcome {
	fresh, already, old := pc(1), pc(2), pc(3)
	fresh.Result.EnterpriseAdded, fresh.Result.AllocationAdded = true, true
	already.Result.Enterprises = []string{"samehost"}
	old.Result.AllocationAdded = true
	old.Result.About.Version = "9.1.20"
	old.Result.Enterprises = []string{"samehost", "Contoso Inventory"}
	old.Warnings = amtinit.Warnings()[:1]
	full := fails(pc(42), amtinit.EACLFull, `all enterprise places are taken: "Contoso Inventory", "Fabrikam Backup", "Fabrikam Antivirus", "Wingtip Lock"`)
	full.Result.Enterprises = []string{"Contoso Inventory", "Fabrikam Backup", "Fabrikam Antivirus", "Wingtip Lock"}
	return []amtinit.Outcome{
		fresh, already, old, full,
		fails(pc(57), amtinit.LogOnRefused, "the device refuses the log-on"),
		fails(pc(91), amtinit.NothingAnswers, "dial tcp 192.0.2.91:16992: i/o timeout; dial tcp 192.0.2.91:16993: i/o timeout"),
	}
}

func exampleSummary(warnedTargets int) amtinit.Summary {
	return amtinit.Summary{
		OK: 9700, Already: 120, Failed: 300, Warned: warnedTargets,
		Reasons: map[amtinit.Code]int{amtinit.NothingAnswers: 199, amtinit.LogOnRefused: 100, amtinit.EACLFull: 1},
		Hosts: map[amtinit.Code][]string{
			amtinit.NothingAnswers: {"PC0091", "PC0107", "PC0108"}, amtinit.LogOnRefused: {"PC0057", "PC0157", "PC0257"}, amtinit.EACLFull: {"PC0042"},
		},
	}
}

// screens are those of docs/operations/dcmamtin.md, by the name that stands there.
func screens() map[string]string {
	const log = "/var/lib/samehost/DCMAMT.LOG"
	all := make(map[string]string)
	half := terminal.Standing{Total: 10000, Done: 5230, Failed: 161, Rate: 241.3}
	for _, lang := range []amtinit.Lang{amtinit.English, amtinit.Japanese} {
		for name, width := range map[string]int{"progress": 80, "progress-40": 40} {
			all[name+"-"+string(lang)] = screenOf(lang, width, false, func(r *report, out *bytes.Buffer) {
				for _, o := range exampleOutcomes() {
					r.target(o)
				}
				fmt.Fprintln(out, half.Bar(lang, width-1))
			})
		}
		all["summary-"+string(lang)] = screenOf(lang, 80, false, func(r *report, _ *bytes.Buffer) {
			r.finished = 10000
			r.summary(exampleSummary(0), 10000, exitSome, log)
		})
		all["dry-run-"+string(lang)] = screenOf(lang, 80, true, func(r *report, _ *bytes.Buffer) {
			for _, o := range exampleOutcomes() {
				r.target(o)
			}
			r.finished = 10000
			r.summary(exampleSummary(1), 10000, exitSome, log)
		})
		all["file-"+string(lang)] = screenOf(lang, 0, false, func(r *report, _ *bytes.Buffer) {
			for _, o := range exampleOutcomes()[:4] {
				r.target(o)
			}
		})
	}
	return all
}

// The screens in the documentation are what the command shows. After a change that is wanted: go test ./cmd/dcmamtin -run
// TestScreens -update, and look at them.
func TestScreens(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("the documentation shows paths of Linux")
	}
	path := filepath.Join("..", "..", "docs", "operations", "dcmamtin.md")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page, rest := "", string(b)
	want := screens()
	for {
		before, after, found := strings.Cut(rest, "<!-- screen: ")
		page += before
		if !found {
			break
		}
		name, after, _ := strings.Cut(after, " -->\n```\n")
		shown, after, closed := strings.Cut(after, "```\n")
		screen, known := want[name]
		if !known || !closed {
			t.Fatalf("%s: there is no screen %q, or it is not closed", path, name)
		}
		delete(want, name)
		if diff := cmp.Diff(screen, shown); diff != "" && !*update {
			t.Errorf("%s: the screen %s is not what the command shows (-command +page):\n%s", path, name, diff)
		}
		page += "<!-- screen: " + name + " -->\n```\n" + screen + "```\n"
		rest = after
	}
	for name := range want {
		t.Errorf("%s lacks the screen %s", path, name)
	}
	if *update {
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// No line of a screen takes the last column of the terminal.
func TestScreensFit(t *testing.T) {
	t.Parallel()
	for name, screen := range screens() {
		limit := 80
		if strings.HasPrefix(name, "progress-40") {
			limit = 40
		}
		for line := range strings.Lines(screen) {
			if n := layout.Columns(strings.TrimSuffix(line, "\n")); n >= limit && !strings.HasPrefix(name, "file-") {
				t.Errorf("%s: %d columns: %s", name, n, line)
			}
			if strings.TrimRight(line, " \n") != strings.TrimSuffix(line, "\n") {
				t.Errorf("%s: spaces at the end of %q", name, line)
			}
		}
	}
}

// A rate stands only where a run was long enough to have one, and where it finished something.
func TestRateOfTheSummary(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 11, 23, 9, 15, 2, 0, time.UTC)
	for _, c := range []struct {
		took     time.Duration
		finished int
		lang     amtinit.Lang
		want     string
	}{
		{8 * time.Millisecond, 2, amtinit.English, "Time: 1s"},
		{9 * time.Second, 300, amtinit.English, "Time: 9s"},
		{10 * time.Second, 300, amtinit.English, "Time: 10s, 30.0 targets per second"},
		{10 * time.Second, 300, amtinit.Japanese, "所要時間: 10秒、毎秒30.0台"},
		{9 * time.Second, 300, amtinit.Japanese, "所要時間: 9秒"},
		{time.Minute, 0, amtinit.English, "Time: 1m00s"},
	} {
		var out bytes.Buffer
		r := &report{w: &out, columns: func() int { return 0 }, began: began, now: func() time.Time { return began.Add(c.took) }, finished: c.finished,
			warnings: make(map[string]*warned), arguments: arguments{file: "/NETM.NDD", lang: c.lang}}
		r.summary(amtinit.Summary{OK: 300}, 300, 0, "DCMAMT.LOG")
		if line := strings.Split(out.String(), "\n")[2]; line != c.want {
			t.Errorf("%v, %d finished: %q, want %q", c.took, c.finished, line, c.want)
		}
	}
}
