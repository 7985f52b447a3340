package relay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hostid"
)

// fast leaves out what only a power cut would show: these tests cut files themselves.
func fast(s *spool) { s.sync = func(f *os.File) error { _, err := f.Stat(); return err } }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func text(i int) spooled {
	return spooled{report: checkin.SignedReport{JWS: fmt.Sprintf("%05d%s", i, strings.Repeat("x", i%50)),
		Hops: slices.Repeat([]checkin.Hop{{Relay: hostid.ID{byte(i)}, Held: time.Duration(i) * time.Second, Uncertain: i%2 == 0}}, i%3)}, received: int64(i)}
}

// texts are the reports of a spool, in order.
func texts(t testing.TB, s *spool, entries []*kept) []string {
	t.Helper()
	var list []string
	for _, e := range entries {
		r, err := s.read(e)
		must(t, err)
		list = append(list, r.report.JWS)
	}
	return list
}

func reopened(t testing.TB, dir string) []string {
	t.Helper()
	s, entries, err := openSpool(dir, 64<<20, quiet(), fast)
	must(t, err)
	defer s.close()
	return texts(t, s, entries)
}

func TestSpoolKeepsWhatItTook(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, _, err := openSpool(dir, 64<<20, quiet(), fast)
	must(t, err)
	var want []string
	for i := range 100 {
		e, err := s.append(text(i))
		must(t, err)
		if i%3 == 0 {
			s.done(e)
			continue
		}
		want = append(want, text(i).report.JWS)
		got, err := s.read(e)
		must(t, err)
		want := text(i)
		if diff := cmp.Diff(want.report.Hops, got.report.Hops); diff != "" || got.report.JWS != want.report.JWS || got.received != want.received {
			t.Fatal(diff, got)
		}
	}
	must(t, s.close())
	if diff := cmp.Diff(want, reopened(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// A file cut at any byte gives back every report that was whole, without those that are said to be answered, and takes
// new ones; so does one with rubbish behind the cut.
func TestSpoolCutAtEveryByte(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, _, err := openSpool(dir, 64<<20, quiet(), fast)
	must(t, err)
	type event struct {
		end    int64
		number string
		gone   bool
	}
	var events []event
	for i := range 8 {
		e, err := s.append(text(i))
		must(t, err)
		end := int64(e.offset) + int64(e.size)
		events = append(events, event{end, text(i).report.JWS, false})
		if i%5 == 3 {
			s.done(e) // written with the next
			next, err := s.append(text(100 + i))
			must(t, err)
			events = append(events, event{int64(next.offset), text(i).report.JWS, true}, event{int64(next.offset) + int64(next.size), text(100 + i).report.JWS, false})
		}
	}
	must(t, s.close())
	data, err := os.ReadFile(filepath.Join(dir, segmentName(1)))
	must(t, err)
	for cut := range len(data) + 1 {
		var want []string
		for _, e := range events {
			if e.end > int64(cut) {
				continue
			}
			if e.gone {
				want = slices.DeleteFunc(want, func(n string) bool { return n == e.number })
			} else {
				want = append(want, e.number)
			}
		}
		for _, rubbish := range [][]byte{nil, {0}, make([]byte, 40), []byte("SHS1"), bytes.Repeat([]byte("SHS1\xff"), 9)} {
			if cut == len(data) && rubbish == nil {
				continue
			}
			torn := t.TempDir()
			must(t, os.WriteFile(filepath.Join(torn, segmentName(1)), append(slices.Clone(data[:cut]), rubbish...), 0o600))
			if diff := cmp.Diff(want, reopened(t, torn)); diff != "" {
				t.Fatalf("cut at %d, %q behind: %s", cut, rubbish, diff)
			}
			if cut%5 > 0 {
				continue
			}
			s, entries, err := openSpool(torn, 64<<20, quiet(), fast)
			must(t, err)
			e, err := s.append(text(7))
			must(t, err)
			if got := texts(t, s, append(entries, e)); len(got) != len(want)+1 || got[len(want)] != text(7).report.JWS {
				t.Fatalf("cut at %d: afterwards %q", cut, got)
			}
			must(t, s.close())
			if aside, _ := filepath.Glob(filepath.Join(torn, "*.damaged")); len(aside) > 0 {
				t.Fatalf("cut at %d, %q behind: set aside %s", cut, rubbish, aside)
			}
		}
	}
}

// A process that ends at any step, with segments that begin, are written again and go, loses nothing that it took.
func TestSpoolEndsAtEveryStep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var mu sync.Mutex
	taken := map[string]bool{} // and not said to be answered
	written := map[string]int64{}
	snapshots := 0
	steps := map[string]int{}
	look := func(step string) {
		// The writing goroutine is in here, so nothing changes meanwhile. What a Sync has not returned for may be cut.
		steps[step]++
		names, err := filepath.Glob(filepath.Join(dir, "*"+segmentGlob))
		must(t, err)
		slices.Sort(names)
		last := names[len(names)-1]
		cuts := []int64{-1}
		info, err := os.Stat(last)
		must(t, err)
		if step == "written" || step == "created" {
			for at := written[last]; at < info.Size(); at += 31 {
				cuts = append(cuts, at)
			}
		} else {
			written[last] = info.Size()
		}
		for _, cut := range cuts {
			copied := t.TempDir()
			for _, n := range names {
				b, err := os.ReadFile(n)
				must(t, err)
				if n == last && cut >= 0 {
					b = b[:cut]
				}
				must(t, os.WriteFile(filepath.Join(copied, filepath.Base(n)), b, 0o600))
			}
			got := reopened(t, copied)
			mu.Lock()
			for want := range taken {
				if n := len(slices.DeleteFunc(slices.Clone(got), func(x string) bool { return x != want })); n != 1 {
					t.Errorf("at step %s, cut %d: %s is there %d times", step, cut, want, n)
				}
			}
			mu.Unlock()
			if !slices.IsSorted(got) {
				t.Errorf("at step %s: the order is %q", step, got)
			}
			snapshots++
		}
	}
	s, _, err := openSpool(dir, 64<<20, quiet(), fast, func(s *spool) { s.segSize, s.step = 600, look })
	must(t, err)
	var entries []*kept
	for i := range 120 {
		e, err := s.append(text(i))
		must(t, err)
		entries = append(entries, e)
		mu.Lock()
		taken[text(i).report.JWS] = true
		if i%20 != 1 && i > 0 { // most are answered, a few stay, so that segments become sparse
			delete(taken, text(i-1).report.JWS)
			s.done(entries[i-1])
		}
		mu.Unlock()
	}
	must(t, s.close())
	for _, step := range []string{"created", "begun", "written", "synced", "removed"} {
		if steps[step] == 0 {
			t.Errorf("no step %s", step)
		}
	}
	if snapshots < 200 {
		t.Errorf("%d snapshots only", snapshots)
	}
	if got, _ := filepath.Glob(filepath.Join(dir, "*"+segmentGlob)); len(got) > 12 {
		t.Errorf("%d segments stay", len(got))
	}
}

// What is damaged in the middle of a segment is passed over; a copy of the segment is set aside.
func TestSpoolDamagedInTheMiddle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, _, err := openSpool(dir, 64<<20, quiet(), fast)
	must(t, err)
	var at []*kept
	for i := range 9 {
		e, err := s.append(text(i))
		must(t, err)
		at = append(at, e)
	}
	must(t, s.close())
	path := filepath.Join(dir, segmentName(1))
	b, err := os.ReadFile(path)
	must(t, err)
	b[at[4].offset+20] ^= 1
	must(t, os.WriteFile(path, b, 0o600))
	var want []string
	for i := range 9 {
		if i != 4 {
			want = append(want, text(i).report.JWS)
		}
	}
	if diff := cmp.Diff(want, reopened(t, dir)); diff != "" {
		t.Error(diff)
	}
	aside, _ := filepath.Glob(path + ".*.damaged")
	if len(aside) != 1 {
		t.Fatalf("set aside: %q", aside)
	}
	must(t, os.Rename(aside[0], path+".20250101T000000Z.damaged"))
	if diff := cmp.Diff(want, reopened(t, dir)); diff != "" {
		t.Error(diff)
	}
	if aside, _ := filepath.Glob(path + ".*.damaged"); len(aside) != 1 {
		t.Errorf("set aside with each start: %q", aside)
	}
}

func TestSpoolOfANewerVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, segmentName(1))
	content := appendFrame(nil, []byte{kindSegment, spoolFormat + 1})
	must(t, os.WriteFile(path, content, 0o600))
	if _, _, err := openSpool(dir, 64<<20, quiet(), fast); !errors.Is(err, hostid.ErrNewer) {
		t.Errorf("%v", err)
	}
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, content) {
		t.Errorf("it was changed: %x, %v", b, err)
	}
}

// A disk that fails takes nothing, and the spool goes on when it works again.
func TestSpoolOnADiskThatFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var works atomic.Bool
	works.Store(true)
	s, _, err := openSpool(dir, 64<<20, quiet(), fast, func(made *spool) {
		made.step = func(step string) {
			if step == "written" && !works.Load() {
				made.tail.Close() // what comes next fails
			}
		}
	})
	must(t, err)
	first, err := s.append(text(1))
	must(t, err)
	works.Store(false)
	if _, err := s.append(text(2)); err == nil {
		t.Error("taken all the same")
	}
	works.Store(true)
	third, err := s.append(text(3))
	must(t, err)
	s.done(first)
	if diff := cmp.Diff([]string{text(3).report.JWS}, texts(t, s, []*kept{third})); diff != "" {
		t.Error(diff)
	}
	must(t, s.close())
	got := reopened(t, dir)
	if !slices.Contains(got, text(3).report.JWS) || slices.Contains(got, text(1).report.JWS) {
		t.Errorf("kept: %q", got)
	}
}

func FuzzSegment(f *testing.F) {
	whole := appendFrame(appendFrame(nil, []byte{kindSegment, spoolFormat}), encodeReport(7, text(5)))
	f.Add(whole)
	f.Add(appendFrame(whole, binary.BigEndian.AppendUint64([]byte{kindAnswered}, 7)))
	f.Add(appendFrame(nil, []byte{kindReport, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 255}))
	f.Add([]byte("SHS1\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, segmentName(1)), b, 0o600))
		s, entries, err := openSpool(dir, 64<<20, quiet(), fast)
		if err != nil {
			if errors.Is(err, hostid.ErrNewer) {
				return
			}
			t.Fatal(err)
		}
		first := texts(t, s, entries)
		must(t, s.close())
		if diff := cmp.Diff(first, reopened(t, dir)); diff != "" {
			t.Fatal(diff)
		}
	})
}
