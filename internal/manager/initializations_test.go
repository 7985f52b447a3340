package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/amtinit"
	"samehost/internal/registry"
)

// A run writes a real journal.
type run struct {
	t       *testing.T
	held    *amtinit.Journals
	journal *amtinit.Journal
}

func beginRun(t *testing.T, dataDir, source string) *run {
	t.Helper()
	held, err := amtinit.HoldJournals(filepath.Join(dataDir, amtinit.JournalFolder), source)
	must(t, err)
	j, err := held.Begin(amtinit.JournalRun{Program: "dcmamtin test", Mode: "all"})
	must(t, err)
	return &run{t, held, j}
}

// finish writes an outcome for each host; a code of "" is success.
func (r *run) finish(code amtinit.Code, hosts ...string) {
	r.t.Helper()
	r.journal.Start(func(amtinit.Outcome) {}, func(err error) { r.t.Error(err) })
	for _, h := range hosts {
		o := amtinit.Outcome{Target: amtinit.Target{Host: h}, Code: code, Reached: netip.MustParseAddrPort("192.0.2.1:16992")}
		if code != "" {
			o.Step, o.Err = amtinit.Initialize, errors.New("in detail")
		}
		o.Result.About.PlatformGUID, o.Result.About.Version = guid(h), "11.8.50"
		r.journal.Finish(o)
	}
	must(r.t, r.journal.Stop())
}

func (r *run) end() {
	r.t.Helper()
	must(r.t, errors.Join(r.journal.End(0), r.journal.Close(), r.held.Close()))
}

func guid(host string) string { return strings.ToUpper(fmt.Sprintf("%032x", host))[:32] }

func opened(t *testing.T, dir string) *registry.Registry {
	t.Helper()
	reg, err := registry.Open(t.Context(), database(dir), registry.Options{})
	must(t, err)
	t.Cleanup(func() { reg.Close() })
	return reg
}

// bare is a data folder with a database alone, which is all that importing takes.
func bare(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	reg, err := registry.Create(t.Context(), database(dir), registry.Options{})
	must(t, err)
	must(t, reg.Close())
	return dir
}

// failures are the PCs whose last attempt failed, by what they are called.
func failures(t *testing.T, reg *registry.Registry) (names []string) {
	t.Helper()
	all, err := reg.Unmatched(t.Context())
	must(t, err)
	for _, u := range all {
		names = append(names, u.Name)
	}
	return names
}

func equal[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// pass imports, and returns what was told.
func pass(t *testing.T, im *importer) {
	t.Helper()
	_, err := im.pass(t.Context())
	must(t, err)
}

func collecting(reg *registry.Registry, dir string) (*importer, *[]string) {
	told := &[]string{}
	return newImporter(reg, dir, func(text string) { *told = append(*told, text) }), told
}

func TestImport(t *testing.T) {
	t.Parallel()
	dir := bare(t)
	reg := opened(t, dir)
	im, told := collecting(reg, dir)
	pass(t, im) // no folder yet
	r := beginRun(t, dir, "/srv/NETM.NDD")
	pass(t, im)
	r.finish(amtinit.LogOnRefused, "alpha", "beta")
	pass(t, im)
	equal(t, "failed", failures(t, reg), []string{"alpha", "beta"})
	r.finish("", "alpha")
	r.finish(amtinit.WornOut, "gamma")
	pass(t, im)
	r.end()
	pass(t, im)
	equal(t, "failed", failures(t, reg), []string{"beta", "gamma"})
	equal(t, "told", *told, []string{})

	all, err := reg.Unmatched(t.Context())
	must(t, err)
	got := all[0].Initialization
	if got.Finished.IsZero() || got.By == "" || got.Machine == "" {
		t.Errorf("when, by whom or where is missing: %+v", got)
	}
	got.Finished, got.By, got.Machine = time.Time{}, "", ""
	reason := amtinit.ReasonOf(amtinit.LogOnRefused)
	raw := strings.ToLower(guid("beta"))
	flip := func(s string) string { // little-endian, as SMBIOS has it
		var b []string
		for i := 0; i < len(s); i += 2 {
			b = append([]string{s[i : i+2]}, b...)
		}
		return strings.Join(b, "")
	}
	equal(t, "attempt", got, registry.Initialization{
		Host: "beta", Address: "192.0.2.1", SystemUUID: strings.Join([]string{flip(raw[:8]), flip(raw[8:12]), flip(raw[12:16]), raw[16:20], raw[20:]}, "-"),
		Source: "/srv/NETM.NDD", Reason: "log-on-refused", MessageID: reason.ID, Cause: registry.Text{EN: reason.Cause.EN, JA: reason.Cause.JA},
		Step: "initialize", Detail: "in detail", Version: "11.8.50", Matched: registry.NoMatch,
	})

	// A new start, as after the service was down: nothing is opened that did not change, and what is new comes.
	again, told := collecting(reg, dir)
	r = beginRun(t, dir, "/srv/NETM.NDD")
	r.finish("", "beta", "gamma")
	r.finish(amtinit.Busy, "delta")
	r.end()
	// What did not change is not opened: this would be another journal, if anybody looked.
	first := journals(t, dir)[0]
	before, err := os.Stat(first)
	must(t, err)
	must(t, os.WriteFile(first, []byte(targetLine("x")+strings.Repeat("\n", int(before.Size())-len(targetLine("x")))), 0o640))
	must(t, os.Chtimes(first, time.Time{}, before.ModTime()))
	pass(t, again)
	equal(t, "failed", failures(t, reg), []string{"delta"})
	equal(t, "told", *told, []string{})

	// Whoever imported before it goes on from where it has come, not from where it was itself.
	grown, err := os.OpenFile(journals(t, dir)[1], os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = grown.WriteString(targetLine("epsilon"))
	must(t, errors.Join(err, grown.Close()))
	pass(t, im)
	equal(t, "failed", failures(t, reg), []string{"delta", "epsilon"})
}

func journals(t *testing.T, dir string) (paths []string) {
	t.Helper()
	files, err := amtinit.ListJournals(filepath.Join(dir, amtinit.JournalFolder))
	must(t, err)
	for _, f := range files {
		paths = append(paths, f.Path)
	}
	return paths
}

const runLine = `{"run":{"format":1,"program":"x","source":"/x","targets":1,"mode":"all","started":"2026-04-01T09:00:00Z","by":"admin","machine":"mgr","enterprise":"samehost"}}` + "\n"

func targetLine(host string) string {
	return `{"target":{"host":"` + host + `","finished":"2026-04-01T09:00:01Z","ok":false,"reason":"busy","milliseconds":1}}` + "\n"
}

// writeJournal makes, or replaces, a journal file.
func writeJournal(t *testing.T, dir, name, text string) {
	t.Helper()
	folder := filepath.Join(dir, amtinit.JournalFolder)
	must(t, os.MkdirAll(folder, 0o750))
	must(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o640))
}

// A journal that grows a few bytes at a time is imported line by line, whatever half line stands at its end.
func TestImportOfATornTail(t *testing.T) {
	t.Parallel()
	dir := bare(t)
	reg := opened(t, dir)
	im, told := collecting(reg, dir)
	text := runLine + targetLine("alpha") + "{broken\n" + targetLine("beta")
	var want []string
	for n := 0; n <= len(text); n++ {
		if around := text[max(n-2, 0):min(n+2, len(text))]; n%16 != 0 && !strings.Contains(around, "\n") {
			continue
		}
		writeJournal(t, dir, "x-1.000001.journal", text[:n])
		pass(t, im)
		switch n {
		case len(runLine + targetLine("alpha")):
			want = []string{"alpha"}
		case len(text):
			want = []string{"alpha", "beta"}
		}
		if got := failures(t, reg); !slices.Equal(got, want) {
			t.Fatalf("after %d bytes: %q, want %q", n, got, want)
		}
	}
	equal(t, "told", *told, []string{"journal x-1.000001.journal: 1 lines could not be read; what they said is not imported"})
}

func TestImportOfOddJournals(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		texts []string // the file as it is at each pass
		want  []string
		told  int
	}{
		"replaced by another":                   {[]string{runLine + targetLine("a"), strings.Replace(runLine, "09:00:00", "09:30:00", 1) + targetLine("b")}, []string{"a", "b"}, 0},
		"replaced by a shorter one":             {[]string{runLine + targetLine("aaaaaaaaaaaaaaaaaaaa"), strings.Replace(runLine, "09:00:00", "09:30:00", 1) + targetLine("b")}, []string{"aaaaaaaaaaaaaaaaaaaa", "b"}, 0},
		"the end was lost":                      {[]string{runLine + targetLine("a") + targetLine("b"), runLine + targetLine("a"), runLine + targetLine("a") + targetLine("c")}, []string{"a", "b", "c"}, 0},
		"no run line":                           {[]string{targetLine("a")}, []string{"a"}, 0},
		"nothing":                               {[]string{""}, nil, 0},
		"zeros":                                 {[]string{strings.Repeat("\x00", 1<<17)}, nil, 0},
		"a line without end":                    {[]string{runLine + targetLine("a") + strings.Repeat("x", 1<<18)}, []string{"a"}, 0},
		"a line that is too long":               {[]string{runLine + strings.Repeat("x", 1<<18) + "\n" + targetLine("a")}, []string{"a"}, 1},
		"a line beyond all bounds, told once":   {[]string{runLine + targetLine("a") + strings.Repeat("\x00", 17<<20) + "\n" + targetLine("b")}, []string{"a"}, 1},
		"a first line that is too long":         {[]string{strings.Repeat("x", 1<<18) + "\n" + targetLine("a")}, []string{"a"}, 1},
		"no time":                               {[]string{runLine + strings.Replace(targetLine("a"), "2026-04-01T09:00:01Z", "0001-01-01T00:00:00Z", 1) + targetLine("b")}, []string{"b"}, 1},
		"a newer format, told once":             {[]string{runLine + targetLine("a") + strings.Replace(runLine, ":1,", ":2,", 1) + targetLine("b"), runLine + targetLine("a") + strings.Replace(runLine, ":1,", ":2,", 1) + targetLine("b")}, []string{"a"}, 1},
		"a reason of a newer release, and more": {[]string{runLine + strings.Replace(targetLine("a"), "busy", "moonphase", 1)}, []string{"a"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := bare(t)
			reg := opened(t, dir)
			im, told := collecting(reg, dir)
			for i, text := range tt.texts {
				if i == 0 || text != tt.texts[i-1] {
					writeJournal(t, dir, "x-1.000001.journal", text)
				}
				pass(t, im)
				pass(t, im)
			}
			equal(t, "failed", failures(t, reg), tt.want)
			if len(*told) != tt.told {
				t.Errorf("told %q, want %d lines", *told, tt.told)
			}
			must(t, ImportInitializations(t.Context(), reg, dir, func(string) {})) // with nothing in mind
			equal(t, "failed", failures(t, reg), tt.want)
		})
	}
}

// Two processes import one journal while it grows.
func TestTwoImporters(t *testing.T) {
	t.Parallel()
	dir := bare(t)
	r := beginRun(t, dir, "/srv/NETM.NDD")
	var want []string
	var importers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		im, told := collecting(opened(t, dir), dir)
		importers.Go(func() {
			for last := false; ; {
				if _, err := im.pass(t.Context()); err != nil {
					t.Error(err)
					return
				}
				if last {
					break
				}
				select {
				case <-stop:
					last = true
				default:
				}
			}
			if len(*told) > 0 {
				t.Errorf("told %q", *told)
			}
		})
	}
	for i := range 4 {
		var hosts []string
		for j := range 80 {
			hosts = append(hosts, fmt.Sprintf("pc%02d-%02d", i, j))
		}
		r.finish(amtinit.Busy, hosts...)
		want = append(want, hosts...)
	}
	r.end()
	close(stop)
	importers.Wait()
	equal(t, "failed", failures(t, opened(t, dir)), want)
}

// What cannot be imported ends nothing, and is told once.
func TestServeFollows(t *testing.T) {
	t.Parallel()
	dir, _ := initialized(t)
	must(t, os.WriteFile(filepath.Join(dir, amtinit.JournalFolder), nil, 0o600)) // no folder
	log := make(chan string, 100)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	listening := make(chan net.Addr, 1)
	go func() {
		ended <- Serve(ctx, Options{DataDir: dir, Database: database(dir), Listen: "127.124.1.1:0",
			Log: slog.New(slog.NewTextHandler(writer(log), nil)), Listening: func(a net.Addr) { listening <- a }})
	}()
	<-listening
	for text := range log {
		if strings.Contains(text, "could not be imported") {
			break
		}
	}
	must(t, os.Remove(filepath.Join(dir, amtinit.JournalFolder)))
	r := beginRun(t, dir, "/srv/NETM.NDD")
	r.finish(amtinit.Busy, "alpha")
	r.end()
	reg := opened(t, dir)
	for len(failures(t, reg)) == 0 {
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	stop()
	must(t, <-ended)
	close(log)
	for text := range log {
		if strings.Contains(text, "WARN") {
			t.Errorf("told: %s", text)
		}
	}
}

type writer chan string

func (w writer) Write(b []byte) (int, error) { w <- string(b); return len(b), nil }

func TestTidy(t *testing.T) {
	t.Parallel()
	dir := bare(t)
	reg := opened(t, dir)
	im, told := collecting(reg, dir)
	name := func(paths []string) (names []string) {
		for _, p := range paths {
			source, number, _ := strings.Cut(filepath.Base(p), "-")
			names = append(names, source+strings.TrimLeft(strings.TrimSuffix(number[strings.IndexByte(number, '.')+1:], ".journal"), "0"))
		}
		return names
	}
	for range 3 {
		r := beginRun(t, dir, "/srv/a")
		r.finish("", "alpha")
		r.end()
	}
	r := beginRun(t, dir, "/srv/b")
	r.end()
	b := beginRun(t, dir, "/srv/b")
	defer b.end() // goes on: its lock is held
	files, err := im.pass(t.Context())
	must(t, err)
	im.tidy(files, time.Now().Add(keepJournal-time.Minute))
	equal(t, "before the time", name(journals(t, dir)), []string{"a1", "a2", "a3", "b1", "b2"})

	// One that has more than was imported stays.
	grown, err := os.OpenFile(files[1].Path, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = grown.WriteString(targetLine("late"))
	must(t, errors.Join(err, grown.Close()))
	im.tidy(files, time.Now().Add(keepJournal+time.Minute))
	equal(t, "with more to import", name(journals(t, dir)), []string{"a2", "a3", "b1", "b2"})
	files, err = im.pass(t.Context())
	must(t, err)
	im.tidy(files, time.Now().Add(keepJournal+time.Minute))
	equal(t, "at last", name(journals(t, dir)), []string{"a3", "b1", "b2"})
	equal(t, "failed", failures(t, reg), []string{"late"})
	equal(t, "told", *told, []string{})
}

// Ten thousand results beside nothing else, and a look at a thousand journals that did not change.
func BenchmarkImport(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "m")
	if _, err := Init(b.Context(), dir, "127.0.0.1:0"); err != nil {
		b.Fatal(err)
	}
	reg, err := OpenRegistry(b.Context(), dir, database(dir))
	if err != nil {
		b.Fatal(err)
	}
	defer reg.Close()
	folder := filepath.Join(dir, amtinit.JournalFolder)
	if err := os.Mkdir(folder, 0o750); err != nil {
		b.Fatal(err)
	}
	im := newImporter(reg, dir, func(text string) { b.Error(text) })
	const results = 10_000
	var took time.Duration
	for n := 0; b.Loop(); n++ {
		var text strings.Builder
		text.WriteString(strings.Replace(runLine, `"x"`, fmt.Sprintf(`"x%d"`, n), 1))
		for i := range results {
			text.WriteString(targetLine(fmt.Sprintf("pc%d-%d", n, i)))
		}
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("x.%06d.journal", n+1)), []byte(text.String()), 0o640); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		if _, err := im.pass(b.Context()); err != nil {
			b.Fatal(err)
		}
		took += time.Since(began)
	}
	b.ReportMetric(float64(b.N*results)/took.Seconds(), "results/s")
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("y%d.%06d.journal", i, 1)), []byte(runLine), 0o640); err != nil {
			b.Fatal(err)
		}
	}
	began := time.Now()
	if _, err := im.pass(b.Context()); err != nil {
		b.Fatal(err)
	}
	first := time.Since(began)
	began = time.Now()
	if _, err := im.pass(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(first.Milliseconds()), "ms-1000-new")
	b.ReportMetric(float64(time.Since(began).Microseconds()), "us-1000-old")
}
