package hostid_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/hostid"
	"samehost/internal/hostid/storetest"
)

var thisPC = hostid.Evidence{"uuid", "board", "mac", "system", "chassis", "disk", "tpm"}

// pc is a PC with a real host ID management file, memory on the board, and a note of what was announced.
type pc struct {
	hostid.Keeper
	file      *hostid.File
	memory    *storetest.Memory
	announced []hostid.Overwrite
}

func newPC(t *testing.T) *pc {
	p := &pc{file: hostid.NewFile(filepath.Join(t.TempDir(), "data")), memory: &storetest.Memory{}}
	p.Keeper = hostid.Keeper{
		File: p.file, Memory: []hostid.NamedStore{{Name: "memory", Store: p.memory}}, Evidence: thisPC,
		BeforeOverwrite: func(_ context.Context, o hostid.Overwrite) error {
			p.announced = append(p.announced, o)
			return nil
		},
	}
	return p
}

func (p *pc) establish(t *testing.T) hostid.Outcome {
	t.Helper()
	out, err := p.Establish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r, err := p.file.Load(t.Context()); err != nil || !r.Equal(out.Record) {
		t.Fatalf("the file holds %+v, %v, the outcome says %+v", r, err, out.Record)
	}
	return out
}

// held is what memory holds.
func (p *pc) held(t *testing.T) hostid.Record {
	t.Helper()
	r, err := p.memory.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (p *pc) loseDisk(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(filepath.Dir(p.file.Path())); err != nil {
		t.Fatal(err)
	}
	p.announced = nil
}

func unavailable(why string) error { return fmt.Errorf("%w: %s", hostid.ErrUnavailable, why) }

// S7, S9: what is generated is stored at once.
func TestGeneratedHostIDIsStoredAtInstallation(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	out := p.establish(t)
	if out.Origin != hostid.Generated || out.Record.Local != (hostid.Local{Stored: true, Origin: hostid.Generated}) || len(out.Conflicts) != 0 {
		t.Errorf("outcome %+v", out)
	}
	if got := p.held(t); !got.Equal(out.Record.Portable()) {
		t.Errorf("memory holds %+v, want %+v", got, out.Record.Portable())
	}
	if out.Record.Facts != thisPC.Facts(out.Record.HostID) {
		t.Errorf("facts %x", out.Record.Facts)
	}
	if len(out.Reasons) != 1 || !strings.Contains(out.Reasons[0], "memory held no host ID") {
		t.Errorf("reasons %q", out.Reasons)
	}
	want := []hostid.StoreState{
		{Name: "file", State: hostid.Stored, HostID: out.Record.HostID}, {Name: "memory", State: hostid.Stored, HostID: out.Record.HostID},
	}
	if diff := cmp.Diff(want, out.Stores); diff != "" {
		t.Errorf("stores (-want +got):\n%s", diff)
	}
}

// S2: the disk fails, the client is installed again.
func TestHostIDIsRestoredAfterDiskFailure(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	first := p.establish(t)
	p.loseDisk(t)
	p.Evidence[hostid.DiskSerial] = "new disk"
	out := p.establish(t)
	if out.Origin != hostid.Restored || out.Pending || out.Record.HostID != first.Record.HostID || out.Record.Seed != first.Record.Seed || len(out.Reasons) != 0 {
		t.Errorf("outcome %+v, want %s restored", out, first.Record.HostID)
	}
	if out.Record.Facts != p.Evidence.Facts(out.Record.HostID) {
		t.Error("the restored file does not have the present facts")
	}
	if next := p.establish(t); next.Origin != hostid.Kept || !next.Record.Equal(out.Record) {
		t.Errorf("then %+v", next)
	}
}

// S8: the client is there first, and what it has is stored once the area is initialized.
func TestExistingHostIDIsStoredOnceInitialized(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	p.memory.Err = hostid.ErrNotInitialized
	first := p.establish(t)
	if first.Origin != hostid.Generated || first.Record.Local != (hostid.Local{Origin: hostid.Generated}) || first.Stores[1].State != hostid.NotInitialized {
		t.Errorf("outcome %+v", first)
	}
	if len(first.Reasons) != 1 || !strings.Contains(first.Reasons[0], "Initialize it from the higher system") {
		t.Errorf("reasons %q", first.Reasons)
	}
	p.memory.Err = nil
	out := p.establish(t)
	if out.Origin != hostid.Kept || out.Record.HostID != first.Record.HostID || !out.Record.Local.Stored || p.held(t).HostID != first.Record.HostID {
		t.Errorf("outcome %+v", out)
	}
}

// S11: it cannot be restored, a new one is generated, and the old one in memory is overwritten later, with proof.
func TestUnrestoredHostIDIsOverwrittenWithProof(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	old := p.establish(t).Record
	p.loseDisk(t)
	p.memory.Err = unavailable("log-on refused: set the password")
	out := p.establish(t)
	if out.Origin != hostid.Provisional || out.Record.HostID == old.HostID || !out.Record.Local.Fresh || !out.Record.Local.Provisional {
		t.Errorf("outcome %+v", out)
	}
	if len(out.Reasons) != 1 || !strings.Contains(out.Reasons[0], "log-on refused: set the password") || !strings.Contains(out.Reasons[0], "reported to the manager as replaced") {
		t.Errorf("reasons %q", out.Reasons)
	}
	if again := p.establish(t); again.Origin != hostid.Provisional || !again.Record.Equal(out.Record) {
		t.Errorf("while memory does not answer: %+v", again)
	}
	p.memory.Err = nil

	// Without a lasting note for the manager nothing is overwritten.
	announce := p.BeforeOverwrite
	p.BeforeOverwrite = func(context.Context, hostid.Overwrite) error { return errors.New("disk full") }
	failed := p.establish(t)
	if p.held(t).HostID != old.HostID || failed.Stores[1].State != hostid.Differs || !strings.Contains(failed.Stores[1].Error, "disk full") || failed.Origin != hostid.Provisional {
		t.Errorf("the note failed: %+v", failed)
	}
	p.BeforeOverwrite = nil
	if failed := p.establish(t); p.held(t).HostID != old.HostID || !strings.Contains(failed.Stores[1].Error, "must not be overwritten") {
		t.Errorf("no note: %+v", failed)
	}

	p.BeforeOverwrite = func(ctx context.Context, o hostid.Overwrite) error {
		if p.held(t).HostID != old.HostID {
			t.Error("overwritten before it was announced")
		}
		return announce(ctx, o)
	}
	out = p.establish(t)
	if len(p.announced) != 1 || p.announced[0].Kind != hostid.Replaced || p.announced[0].Store != "memory" ||
		p.announced[0].Old.HostID != old.HostID || p.announced[0].Old.Seed != old.Seed || p.announced[0].New.HostID != out.Record.HostID {
		t.Errorf("announced %+v", p.announced)
	}
	if p.held(t).HostID != out.Record.HostID || out.Origin != hostid.Kept || out.Record.Local != (hostid.Local{Stored: true, Origin: hostid.Generated}) {
		t.Errorf("outcome %+v", out)
	}
	if s := out.Stores[1]; s.State != hostid.Stored || s.HostID != out.Record.HostID || s.Error != "" {
		t.Errorf("memory after it was overwritten: %+v", s)
	}
	aside, err := filepath.Glob(p.file.Path() + ".replaced-*")
	if err != nil || len(aside) != 1 {
		t.Errorf("set aside: %q, %v", aside, err)
	}
}

func TestOtherHostIDInMemoryWinsAndTheFileIsSetAside(t *testing.T) {
	t.Parallel()
	p, other := newPC(t), newPC(t)
	mine, theirs := p.establish(t).Record, other.establish(t).Record
	p.memory.Blocks = other.memory.Blocks
	out := p.establish(t)
	if out.Origin != hostid.Restored || out.Record.HostID != theirs.HostID || len(out.Conflicts) != 1 {
		t.Fatalf("outcome %+v", out)
	}
	if c := out.Conflicts[0]; c.Kind != hostid.OtherID || c.File != mine.HostID || c.Memory != theirs.HostID || c.Store != "memory" {
		t.Errorf("conflict %+v", c)
	}
	if len(p.announced) != 1 || p.announced[0].Kind != hostid.Returned || p.announced[0].Store != hostid.FileStoreName || p.announced[0].Old.HostID != mine.HostID {
		t.Errorf("announced %+v", p.announced)
	}
	aside, err := filepath.Glob(p.file.Path() + ".replaced-*")
	if err != nil || len(aside) != 1 {
		t.Fatalf("set aside: %q, %v", aside, err)
	}
	b, err := os.ReadFile(aside[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, r, err := hostid.DecodeFrame(b); err != nil || !r.Equal(mine) {
		t.Errorf("set aside %+v, %v, want %+v", r, err, mine)
	}
}

func TestCopiedDiskGetsItsOwnHostID(t *testing.T) {
	t.Parallel()
	p, other := newPC(t), newPC(t)
	original := p.establish(t).Record
	other.File = p.file
	other.file = p.file
	other.Evidence = hostid.Evidence{"uuid 2", "board 2", "mac 2", "system 2", "chassis 2", "disk 2"}
	out := other.establish(t)
	if out.Origin != hostid.Generated || out.Record.HostID == original.HostID || out.Record.Seed == original.Seed || out.Record.Local.CopyOf != original.HostID {
		t.Errorf("outcome %+v", out)
	}
	if other.held(t).HostID != out.Record.HostID {
		t.Error("it is not in memory")
	}
	if len(other.announced) != 1 || other.announced[0].Kind != hostid.Copied {
		t.Errorf("announced %+v", other.announced)
	}
	aside, err := filepath.Glob(p.file.Path() + ".copy-*")
	if err != nil || len(aside) != 1 {
		t.Errorf("set aside: %q, %v", aside, err)
	}
}

func TestBoardInAnotherCaseIsPending(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	first := p.establish(t)
	p.loseDisk(t)
	p.Evidence[hostid.ChassisSerial] = "another case"
	out := p.establish(t)
	if !out.Pending || !out.Record.Local.Pending || out.Origin != hostid.Restored || out.Record.HostID != first.Record.HostID {
		t.Errorf("outcome %+v", out)
	}
	if len(out.Conflicts) != 1 || out.Conflicts[0].Kind != hostid.OtherCase {
		t.Errorf("conflicts %+v", out.Conflicts)
	}
	if out := p.establish(t); !out.Pending || out.Origin != hostid.Kept {
		t.Errorf("then %+v", out)
	}
}

func TestDroppedByOrder(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	r := p.establish(t).Record
	old := r
	r.HostID, r.Seed = hostid.NewID(), hostid.NewSeed()
	r.Facts, r.Local = thisPC.Facts(r.HostID), hostid.Local{CopyOf: old.HostID, DropFor: old.HostID, Origin: hostid.Generated}
	if err := p.file.Save(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	out := p.establish(t)
	if out.Record.HostID != r.HostID || p.held(t).HostID != r.HostID || len(p.announced) != 1 || p.announced[0].Kind != hostid.Dropped || len(out.Conflicts) != 0 {
		t.Errorf("outcome %+v, announced %+v", out, p.announced)
	}
}

func TestFactsFollowThePC(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	id := p.establish(t).Record.HostID
	writes := p.memory.Writes
	for _, c := range []struct {
		why    string
		change func(*hostid.Evidence)
		writes int // to memory
		file   hostid.Evidence
	}{
		{"nothing changed", func(*hostid.Evidence) {}, 0, thisPC},
		{"disk replaced by a clone", func(e *hostid.Evidence) { e[hostid.DiskSerial] = "disk 2" }, 0,
			hostid.Evidence{"uuid", "board", "mac", "system", "chassis", "disk 2", "tpm"}},
		{"UUID now a placeholder", func(e *hostid.Evidence) { e[hostid.SystemUUID] = "" }, 0,
			hostid.Evidence{"uuid", "board", "mac", "system", "chassis", "disk 2", "tpm"}},
		{"network interface swapped", func(e *hostid.Evidence) { e[hostid.OnboardMAC] = "mac 2" }, 1,
			hostid.Evidence{"uuid", "board", "mac 2", "system", "chassis", "disk 2", "tpm"}},
		{"nothing changed again", func(*hostid.Evidence) {}, 0,
			hostid.Evidence{"uuid", "board", "mac 2", "system", "chassis", "disk 2", "tpm"}},
	} {
		c.change(&p.Evidence)
		out := p.establish(t)
		if out.Record.Facts != c.file.Facts(id) {
			t.Errorf("%s: the file's facts are not %q", c.why, c.file)
		}
		portable := out.Record.Portable()
		if got := p.held(t); got.Facts != portable.Facts {
			t.Errorf("%s: memory's facts are not the file's", c.why)
		}
		if got := p.memory.Writes - writes; got != c.writes {
			t.Errorf("%s: %d writes to memory, want %d", c.why, got, c.writes)
		}
		writes = p.memory.Writes
	}
}

// Memory that can be read but not written to any more still ends what it ended: the ID is in it.
func TestMemoryThatCannotBeWrittenStillHoldsTheID(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	r := p.establish(t).Record
	r.Local = hostid.Local{Fresh: true, Provisional: true, Origin: hostid.Generated} // power was cut before the mark
	if err := p.file.Save(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	worn := errors.New("worn out")
	p.Memory[0].Store = guard{LocalStore: loader{p.memory}, save: func(context.Context, hostid.Record) error { return worn }}
	p.Evidence[hostid.OnboardMAC] = "mac 2"
	out := p.establish(t)
	if out.Record.Local != (hostid.Local{Stored: true, Origin: hostid.Generated}) || out.Stores[1].State != hostid.Stored || out.Stores[1].Error != worn.Error() {
		t.Errorf("outcome %+v", out)
	}
}

func TestNothingChangedWritesNothing(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	var d disk
	p.file.CutAt(d.call)
	p.establish(t)
	memory, calls := p.memory.Writes, len(d.calls)
	for range 100 {
		p.establish(t)
	}
	if p.memory.Writes != memory || len(d.calls) != calls {
		t.Errorf("100 times with nothing changed: %d writes to memory, calls %q", p.memory.Writes-memory, d.calls[calls:])
	}
}

func TestDamagedBlockIsHealed(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	r := p.establish(t).Record
	p.Evidence[hostid.OnboardMAC] = "mac 2"
	p.establish(t) // now both blocks are written
	for i := range p.memory.Blocks {
		p.memory.Blocks[i][30] ^= 1
		p.establish(t)
		p.memory.Blocks[1-i][30] ^= 1
		if got, err := p.memory.Load(t.Context()); err != nil || got.HostID != r.HostID {
			t.Fatalf("block %d was not healed: %v", i, err)
		}
		p.establish(t)
	}
}

func TestNewerIsLeftAlone(t *testing.T) {
	t.Parallel()
	newer := storetest.NewerFrame(1)
	p := newPC(t)
	p.memory.Blocks[1] = newer
	if _, err := p.Establish(t.Context()); !errors.Is(err, hostid.ErrNewer) || !strings.Contains(err.Error(), "memory") || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("memory newer, no file: %v", err)
	}
	if _, err := p.file.Load(t.Context()); !errors.Is(err, hostid.ErrNotStored) {
		t.Errorf("the file: %v", err)
	}
	p.memory.Blocks[1] = nil
	r := p.establish(t).Record
	p.memory.Blocks[1] = newer
	out := p.establish(t)
	if !out.Record.Equal(r) || out.Origin != hostid.Kept || out.Stores[1].State != hostid.Newer || !strings.Contains(out.Stores[1].Error, "upgrade this client") {
		t.Errorf("memory newer, own file: %+v", out)
	}
	if !bytes.Equal(p.memory.Blocks[1], newer) {
		t.Error("it was overwritten")
	}
	if err := os.WriteFile(p.file.Path(), newer, 0o600); err != nil {
		t.Fatal(err)
	}
	p.memory.Blocks[1] = nil
	if _, err := p.Establish(t.Context()); !errors.Is(err, hostid.ErrNewer) || !strings.Contains(err.Error(), "file") {
		t.Errorf("file newer: %v", err)
	}
}

func TestNoMemoryAtAll(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	p.Memory, p.Expected = nil, true
	out := p.establish(t)
	if out.Origin != hostid.Generated || out.Record.Local != (hostid.Local{Origin: hostid.Generated}) || len(out.Reasons) != 0 || len(out.Stores) != 1 {
		t.Errorf("outcome %+v", out)
	}
	if again := p.establish(t); again.Origin != hostid.Kept || !again.Record.Equal(out.Record) {
		t.Errorf("then %+v", again)
	}
}

// late is memory that answers from a time on.
type late struct {
	*storetest.Memory
	from time.Time
}

func (l late) Load(ctx context.Context) (hostid.Record, error) {
	if !time.Now().Before(l.from) {
		l.Err = nil
	}
	return l.Memory.Load(ctx)
}

func TestMemoryIsWaitedFor(t *testing.T) {
	t.Parallel()
	old := func(t *testing.T, p *pc) hostid.ID {
		id := p.establish(t).Record.HostID
		p.loseDisk(t)
		p.memory.Err, p.Expected = unavailable("no driver yet"), true
		return id
	}
	for _, c := range []struct {
		name     string
		set      func(p *pc)
		answers  time.Duration // after which memory answers; 0: never
		want     hostid.Origin
		min, max time.Duration
	}{
		{"it comes up", func(*pc) {}, 61 * time.Second, hostid.Restored, 61 * time.Second, 63 * time.Second},
		{"it never does", func(*pc) {}, 0, hostid.Provisional, hostid.DefaultRestoreWait, hostid.DefaultRestoreWait},
		{"another time", func(p *pc) { p.RestoreWait = 5 * time.Second }, 0, hostid.Provisional, 5 * time.Second, 5 * time.Second},
		{"no time", func(p *pc) { p.RestoreWait = -1 }, 0, hostid.Provisional, 0, 0},
		{"not expected", func(p *pc) { p.Expected = false }, 0, hostid.Provisional, 0, 0},
		{"a file is there", func(p *pc) { p.file.Save(context.Background(), record(7)) }, 0, hostid.Kept, 0, 0},
		{"the area is not initialized", func(p *pc) { p.memory.Err = hostid.ErrNotInitialized }, 0, hostid.Generated, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPC(t)
				id := old(t, p)
				c.set(p)
				if c.answers > 0 {
					p.Memory[0].Store = late{p.memory, time.Now().Add(c.answers)}
				}
				begin := time.Now()
				out := p.establish(t)
				if took := time.Since(begin); took < c.min || took > c.max {
					t.Errorf("took %v, want %v to %v", took, c.min, c.max)
				}
				if out.Origin != c.want || (out.Record.HostID == id) != (c.want == hostid.Restored) {
					t.Errorf("outcome %+v, want %s", out, c.want)
				}
			})
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			p := newPC(t)
			old(t, p)
			ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
			defer cancel()
			begin := time.Now()
			if _, err := p.Establish(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 7*time.Second {
				t.Errorf("%v after %v", err, time.Since(begin))
			}
			if _, err := p.file.Load(t.Context()); !errors.Is(err, hostid.ErrNotStored) {
				t.Errorf("a host ID was generated: %v", err)
			}
		})
	})
}

func TestNothingIsUsedThatTheFileDoesNotHold(t *testing.T) {
	t.Parallel()
	full := &fs.PathError{Op: "write", Path: "x", Err: errors.New("no space left on device")}
	fail := func(call string, data []byte) (int, error) {
		if call == "write" {
			return 0, full
		}
		return len(data), nil
	}
	p := newPC(t)
	p.file.CutAt(fail)
	if _, err := p.Establish(t.Context()); !errors.Is(err, full) || p.memory.Writes != 0 {
		t.Errorf("generate: %v, %d writes to memory", err, p.memory.Writes)
	}
	p.file.CutAt(nil)
	p.establish(t)
	p.loseDisk(t)
	p.file.CutAt(fail)
	if _, err := p.Establish(t.Context()); !errors.Is(err, full) {
		t.Errorf("restore: %v", err)
	}
	p.file.CutAt(nil)
	p.establish(t)

	// A mark that cannot be written stops nothing.
	p.Evidence[hostid.DiskSerial] = "another disk"
	p.file.CutAt(fail)
	if out := p.establish(t); out.Origin != hostid.Kept || !strings.Contains(out.Stores[0].Error, "no space left") {
		t.Errorf("keep: %+v", out)
	}
	p.file.CutAt(nil)

	// A file that cannot be read is not taken for none.
	if err := os.Remove(p.file.Path()); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(p.file.Path(), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Establish(t.Context()); !errors.Is(err, hostid.ErrUnavailable) {
		t.Errorf("unreadable: %v", err)
	}
}

func TestEstablishLogsNoSecret(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	p := newPC(t)
	p.Log = slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))
	seeds := [][]byte{}
	for range 2 {
		r := p.establish(t).Record
		seeds = append(seeds, slices.Clone(r.Seed[:]))
		p.loseDisk(t)
		p.memory.Err = unavailable("x")
		r = p.establish(t).Record
		seeds = append(seeds, slices.Clone(r.Seed[:]))
		p.memory.Err = nil
		p.establish(t)
	}
	if b.Len() == 0 {
		t.Fatal("nothing was logged")
	}
	for _, s := range seeds {
		if bytes.Contains(b.Bytes(), s[:4]) || strings.Contains(b.String(), fmt.Sprintf("%x", s[:4])) || strings.Contains(b.String(), fmt.Sprint(s[:4])) {
			t.Fatalf("the log shows a seed:\n%s", b.String())
		}
	}
}

// Power is cut at every durable step of every kind of change; the next start ends where an uncut one ends.
func TestEstablishAfterEveryPowerCut(t *testing.T) {
	t.Parallel()
	holds := func(b *testBoard, id byte, l hostid.Local) {
		r := record(id)
		r.Facts, r.Local = b.evidence().Facts(r.HostID), l
		b.disk.frame, _ = hostid.EncodeFrame(1, r)
	}
	remembers := func(b *testBoard, id byte) {
		r := record(id)
		r.Facts = b.evidence().Facts(r.HostID)
		b.memory[0].Save(context.Background(), r.Portable())
	}
	file, memory := record(1).HostID, record(2).HostID
	for _, c := range []struct {
		name     string
		prepare  func(b *testBoard)
		id       hostid.ID // in the end; zero: a generated one
		copyOf   hostid.ID
		announce hostid.OverwriteKind
		steps    int // durable ones
	}{
		{"generate", func(b *testBoard) {}, hostid.ID{}, hostid.ID{}, "", 3},
		{"preserve", func(b *testBoard) { holds(b, 1, hostid.Local{}) }, file, hostid.ID{}, "", 2},
		{"restore", func(b *testBoard) { remembers(b, 2) }, memory, hostid.ID{}, "", 1},
		{"replace", func(b *testBoard) { remembers(b, 2); holds(b, 1, hostid.Local{Fresh: true, Provisional: true}) }, file, hostid.ID{}, hostid.Replaced, 4},
		{"drop", func(b *testBoard) { remembers(b, 2); holds(b, 1, hostid.Local{DropFor: memory}) }, file, hostid.ID{}, hostid.Dropped, 4},
		{"return", func(b *testBoard) { remembers(b, 2); holds(b, 1, hostid.Local{}) }, memory, hostid.ID{}, hostid.Returned, 3},
		{"copy", func(b *testBoard) {
			other := newWorld(2, 1).boards[1]
			holds(other, 1, hostid.Local{Stored: true})
			b.disk.frame = other.disk.frame
		}, hostid.ID{}, file, hostid.Copied, 5},
		{"new facts", func(b *testBoard) { remembers(b, 1); holds(b, 1, hostid.Local{Stored: true}); b.mac = "new" }, file, hostid.ID{}, "", 2},
	} {
		for _, p := range []power{{}, {applied: true}, {partly: 50}, {partly: 500}} {
			for steps := 0; ; steps++ {
				b := newWorld(1, 1).boards[0]
				c.prepare(b)
				p := p
				p.armed, p.steps = true, steps
				cut := establishCut(t, b, &p)
				if !cut {
					if steps != c.steps {
						t.Errorf("%s: %d durable steps, want %d", c.name, steps, c.steps)
					}
				} else if establishCut(t, b, nil) {
					t.Fatal("power is cut although it is not armed")
				}
				at := fmt.Sprintf("%s, cut at step %d of %+v", c.name, steps, p)
				r, err := b.disk.Load(t.Context())
				m, err2 := b.memory[0].Load(t.Context())
				if err != nil || err2 != nil || r.HostID != m.HostID || r.Seed != m.Seed || !r.Local.Stored || r.Local.Fresh || r.Local.Provisional {
					t.Fatalf("%s: the file holds %+v, %v, memory %+v, %v", at, r, err, m, err2)
				}
				if c.id != (hostid.ID{}) && r.HostID != c.id || c.id == (hostid.ID{}) && (r.HostID == file || r.HostID == memory) || r.Local.CopyOf != c.copyOf {
					t.Errorf("%s: it is %s, copy of %s", at, r.HostID, r.Local.CopyOf)
				}
				if got := slices.ContainsFunc(b.disk.journal, func(o hostid.Overwrite) bool { return o.Kind == c.announce }); got != (c.announce != "") {
					t.Errorf("%s: announced %+v", at, b.disk.journal)
				}
				if !cut {
					break
				}
				if steps > 20 {
					t.Fatalf("%s: more than 20 steps", c.name)
				}
			}
		}
	}
}

// establishCut runs Establish on b and reports whether power was cut.
func establishCut(t *testing.T, b *testBoard, p *power) (cut bool) {
	t.Helper()
	b.disk.power = p
	k := hostid.Keeper{
		File: b.disk, Evidence: b.evidence(),
		Memory: []hostid.NamedStore{{Name: "memory", Store: guard{loader{b.memory[0]}, func(ctx context.Context, r hostid.Record) error {
			return cutSave(ctx, p, b.memory[0], r)
		}}}},
		BeforeOverwrite: func(_ context.Context, o hostid.Overwrite) error {
			p.step(func() { b.disk.journal = append(b.disk.journal, o) }, nil)
			return nil
		},
	}
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(powerCut); !ok {
				panic(r)
			}
			cut = true
		}
	}()
	if _, err := k.Establish(t.Context()); err != nil {
		t.Fatal(err)
	}
	return false
}
