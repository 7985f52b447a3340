package hostid_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"samehost/internal/hostid"
	"samehost/internal/hostid/storetest"
)

// begun is what begin was told last.
func begun(to *hostid.Record) func(hostid.Record) error {
	return func(next hostid.Record) error { *to = next; return nil }
}

func anyway(hostid.Record) error { return nil }

// newID carries out the order and fails unless it is done.
func (p *pc) newID(t *testing.T) hostid.Record {
	t.Helper()
	var told hostid.Record
	r, err := p.TakeNewID(t.Context(), begun(&told))
	if err != nil {
		t.Fatal(err)
	}
	if held, err := p.file.Load(t.Context()); err != nil || !held.Equal(r) || !told.Equal(r) {
		t.Fatalf("the order gives %+v, the file holds %+v, %v, and begin was told %+v", r, held, err, told)
	}
	return r
}

func (p *pc) kinds() (kinds []hostid.OverwriteKind) {
	for _, o := range p.announced {
		kinds = append(kinds, o.Kind)
	}
	return kinds
}

func (p *pc) asides(t *testing.T, why string) []string {
	t.Helper()
	names, err := filepath.Glob(p.file.Path() + "." + why + "-*")
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A record of another PC, as its memory holds it.
func foreignRecord(t *testing.T) (*storetest.Memory, hostid.Record) {
	t.Helper()
	other := newPC(t)
	other.Evidence = hostid.Evidence{"uuid 2", "board 2", "mac 2", "system 2", "chassis 2", "disk 2"}
	return other.memory, other.establish(t).Record
}

func TestOrderedNewID(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	old := p.establish(t).Record
	r := p.newID(t)
	want := hostid.Local{CopyOf: old.HostID, DropFor: old.HostID, Origin: hostid.Generated}
	if r.HostID == old.HostID || r.Seed == old.Seed || r.Local != want || r.Facts != thisPC.Facts(r.HostID) {
		t.Errorf("%+v after %+v", r, old)
	}
	if p.held(t).HostID != old.HostID {
		t.Error("the order itself writes memory")
	}
	out := p.establish(t)
	if out.Record.HostID != r.HostID || p.held(t).HostID != r.HostID || len(out.Conflicts) != 0 || !out.Record.Local.Stored {
		t.Errorf("then %+v", out)
	}
	if got := p.kinds(); !slices.Equal(got, []hostid.OverwriteKind{hostid.Ordered, hostid.Dropped}) {
		t.Errorf("announced %v", got)
	}
	if o := p.announced[0]; o.Store != hostid.FileStoreName || !o.Old.Equal(old) || !o.New.Equal(r) {
		t.Errorf("announced %+v", o)
	}
	if len(p.asides(t, "ordered")) != 1 || len(p.asides(t, "dropped")) != 1 {
		t.Errorf("set aside: %q, %q", p.asides(t, "ordered"), p.asides(t, "dropped"))
	}
}

// Two orders while memory does not answer: what it holds is still what the first one left.
func TestOrderedTwiceWhileMemoryDoesNotAnswer(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	first := p.establish(t).Record
	p.memory.Err = unavailable("no driver")
	second := p.newID(t)
	p.establish(t)
	third := p.newID(t)
	p.establish(t)
	if third.Local.CopyOf != second.HostID {
		t.Errorf("copy of %s, want %s", third.Local.CopyOf, second.HostID)
	}
	p.memory.Err = nil
	if out := p.establish(t); out.Record.HostID != third.HostID || p.held(t).HostID != third.HostID {
		t.Errorf("memory, which held %s, answers: %+v", first.HostID, out)
	}

	// And back: memory still holds the first one's successor, whatever was taken back meanwhile.
	p.memory.Err = unavailable("no driver")
	if _, err := p.TakeBack(t.Context(), first.HostID, anyway); err != nil {
		t.Fatal(err)
	}
	p.establish(t)
	if _, err := p.TakeBack(t.Context(), second.HostID, anyway); err != nil {
		t.Fatal(err)
	}
	p.memory.Err = nil
	if out := p.establish(t); out.Record.HostID != second.HostID || p.held(t).HostID != second.HostID {
		t.Errorf("memory, which held %s, answers: %+v", third.HostID, out)
	}
}

// What is undone before memory answered: memory holds it already.
func TestTakenBackBeforeMemoryAnswers(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	first := p.establish(t).Record
	p.memory.Err = unavailable("no driver")
	left := p.newID(t)
	r, err := p.TakeBack(t.Context(), first.HostID, anyway)
	if err != nil || r.Local.DropFor != left.HostID {
		t.Fatalf("%+v, %v", r, err)
	}
	writes := p.memory.Writes
	p.memory.Err = nil
	if out := p.establish(t); out.Record.HostID != first.HostID || out.Record.Seed != first.Seed || len(out.Conflicts) != 0 {
		t.Errorf("then %+v", out)
	}
	if p.memory.Writes != writes {
		t.Error("memory is written although it holds the record")
	}
}

func TestOrderedNewIDLeavesForeignMemoryAlone(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	p.establish(t)
	memory, foreign := foreignRecord(t)
	p.memory.Blocks = memory.Blocks
	r := p.newID(t)
	out := p.establish(t)
	if p.held(t).HostID != foreign.HostID || out.Record.HostID != r.HostID || len(out.Conflicts) != 1 || out.Conflicts[0].Kind != hostid.MemoryForeign {
		t.Errorf("memory holds %s, outcome %+v", p.held(t).HostID, out)
	}
}

func TestTakeBack(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	old := p.establish(t).Record
	r := p.newID(t)
	p.establish(t)
	p.announced = nil
	p.Evidence[hostid.OnboardMAC] = "mac 2"
	back, err := p.TakeBack(t.Context(), old.HostID, anyway)
	if err != nil {
		t.Fatal(err)
	}
	want := old
	want.Facts, want.Local.DropFor, want.Local.Stored = p.Evidence.Facts(old.HostID), r.HostID, false
	if !back.Equal(want) {
		t.Errorf("taken back %+v, want %+v", back, want)
	}
	want.Local.Stored = true
	out := p.establish(t)
	if !out.Record.Equal(want) || p.held(t).HostID != old.HostID || len(out.Conflicts) != 0 {
		t.Errorf("then %+v", out)
	}
	if got := p.kinds(); !slices.Equal(got, []hostid.OverwriteKind{hostid.Ordered, hostid.Dropped}) {
		t.Errorf("announced %v", got)
	}
	if len(p.asides(t, "ordered")) != 2 {
		t.Errorf("set aside by order: %q", p.asides(t, "ordered"))
	}
	// There and back again: of the two records of r's ID the one that gave way last comes back.
	if again, err := p.TakeBack(t.Context(), r.HostID, anyway); err != nil || again.Seed != r.Seed || again.Local.CopyOf != old.HostID {
		t.Errorf("%+v, %v", again, err)
	}
}

// A used board with another PC's record took this PC over; the operator says that it is the one it was.
func TestTakeBackFromAUsedBoard(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	mine := p.establish(t).Record
	memory, theirs := foreignRecord(t)
	p.memory.Blocks = memory.Blocks
	p.Evidence = hostid.Evidence{"uuid 2", "board 2", "mac 2", "system", "chassis", "disk", "tpm"}
	if out := p.establish(t); out.Record.HostID != theirs.HostID {
		t.Fatalf("%+v", out)
	}
	if _, err := p.TakeBack(t.Context(), mine.HostID, anyway); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		out := p.establish(t)
		if out.Record.HostID != mine.HostID || out.Record.Seed != mine.Seed || len(out.Conflicts) != 0 || p.held(t).HostID != mine.HostID {
			t.Errorf("outcome %+v", out)
		}
	}
}

func TestTakeBackOfWhatIsNotThere(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	old := p.establish(t).Record
	r := p.newID(t)
	names := p.asides(t, "ordered")
	whole, err := os.ReadFile(names[0])
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	for why, damage := range map[string]func() error{
		"emptied":       func() error { return os.WriteFile(names[0], nil, 0o600) },
		"damaged":       func() error { return os.WriteFile(names[0], append([]byte{0x13}, whole[1:]...), 0o600) },
		"a folder":      func() error { return os.Mkdir(names[0], 0o700) },
		"removed":       func() error { return nil },
		"under no name": func() error { return os.WriteFile(p.file.Path()+".bak", whole, 0o600) },
		"another file's": func() error {
			return os.WriteFile(filepath.Join(filepath.Dir(names[0]), "host-idx.a-b-c"), whole, 0o600)
		},
		"newer than this": func() error { return os.WriteFile(names[0], storetest.NewerFrame(1), 0o600) },
	} {
		os.Remove(names[0])
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if got, err := p.TakeBack(t.Context(), old.HostID, anyway); !errors.Is(err, hostid.ErrNoRecord) || !strings.Contains(err.Error(), old.HostID.String()) {
			t.Errorf("%s: %+v, %v", why, got, err)
		}
		if now, err := p.file.Load(t.Context()); err != nil || !now.Equal(r) {
			t.Errorf("%s: the file holds %+v, %v", why, now, err)
		}
		os.Remove(names[0])
	}
	if len(p.asides(t, "ordered")) != 0 {
		t.Errorf("%q was set aside for an order that is not done", p.asides(t, "ordered"))
	}
}

// Of several records of one host ID the one that gave way by order is meant, then the latest.
func TestWhichRecordComesBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := hostid.NewFile(dir)
	put := func(name string, seed byte) {
		r := record(7)
		r.Seed[1] = seed
		b, err := hostid.EncodeFrame(0, r)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{
		"host-id.replaced-20260101T000000Z-02", "host-id.replaced-20260102T000000Z-01", "host-id.copy-20250101T000000Z-03",
		"host-id.ordered-20240101T000000Z-ff", "host-id.ordered-20240102T000000Z-00",
	} {
		put(name, byte(i))
		want := []byte{0, 1, 1, 3, 4}[i]
		if r, err := f.LoadAside(t.Context(), record(7).HostID); err != nil || r.Seed[1] != want {
			t.Errorf("with %s: number %d, %v, want %d", name, r.Seed[1], err, want)
		}
	}
}

// The board was replaced: the conflict ends, the ID is in the new board's memory, also where that came with another's.
func TestRebind(t *testing.T) {
	t.Parallel()
	const other = 9
	for _, c := range []struct {
		name   string
		memory func(t *testing.T, p *pc) // the new board's
		kind   hostid.ConflictKind       // before the order; "": none
		kinds  []hostid.OverwriteKind
	}{
		{"empty", func(*testing.T, *pc) {}, hostid.Moved, nil},
		{"another board's", func(t *testing.T, p *pc) {
			memory, _ := foreignRecord(t)
			p.memory.Blocks = memory.Blocks
		}, hostid.MemoryForeign, []hostid.OverwriteKind{hostid.Rebound}},
		{"the old board's, by the same record", func(t *testing.T, p *pc) {
			r, _ := p.file.Load(t.Context())
			p.memory.Save(t.Context(), r.Portable())
		}, hostid.MemoryForeign, nil},
		{"a twin", func(t *testing.T, p *pc) {
			r, _ := p.file.Load(t.Context())
			r.Seed[other]++
			p.memory.Save(t.Context(), r.Portable())
		}, hostid.Twin, []hostid.OverwriteKind{hostid.Rebound}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPC(t)
			old := p.establish(t).Record
			p.memory.Blocks = [2][]byte{}
			p.Evidence = hostid.Evidence{"uuid 3", "", "mac 3", "system", "", "disk", ""}
			c.memory(t, p)
			out := p.establish(t)
			if len(out.Conflicts) != 1 || out.Conflicts[0].Kind != c.kind || out.Record.HostID != old.HostID {
				t.Fatalf("before: %+v", out)
			}
			var told hostid.Record
			r, err := p.Rebind(t.Context(), begun(&told))
			facts := hostid.Evidence{"uuid 3", "", "mac 3", "system", "chassis", "disk", ""}.Facts(old.HostID)
			if err != nil || !told.Equal(r) || r.HostID != old.HostID || r.Seed != old.Seed || r.Facts != facts {
				t.Fatalf("%+v, %v; begin was told %+v", r, err, told)
			}
			for range 2 {
				out = p.establish(t)
				if len(out.Conflicts) != 0 || out.Stores[1] != (hostid.StoreState{Name: "memory", State: hostid.Stored, HostID: old.HostID}) ||
					!out.Record.Local.DropFor.IsZero() || !out.Record.Local.Stored {
					t.Fatalf("after: %+v", out)
				}
			}
			if m := p.held(t); m.HostID != old.HostID || m.Seed != old.Seed || m.Facts != r.Portable().Facts {
				t.Errorf("memory holds %+v", m)
			}
			if !slices.Equal(p.kinds(), c.kinds) || len(p.asides(t, "rebound")) != len(c.kinds) {
				t.Errorf("announced %v, set aside %q", p.kinds(), p.asides(t, "rebound"))
			}
			// Once: whatever memory holds next is judged as ever.
			memory, _ := foreignRecord(t)
			p.memory.Blocks = memory.Blocks
			if out := p.establish(t); len(out.Conflicts) != 1 || out.Conflicts[0].Kind != hostid.MemoryForeign {
				t.Errorf("the next foreign record: %+v", out)
			}
		})
	}
}

func TestRebindEndsPending(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	p.establish(t)
	p.loseDisk(t)
	p.Evidence[hostid.ChassisSerial] = "another case"
	if out := p.establish(t); !out.Pending {
		t.Fatalf("%+v", out)
	}
	if _, err := p.Rebind(t.Context(), anyway); err != nil {
		t.Fatal(err)
	}
	if out := p.establish(t); out.Pending || len(out.Conflicts) != 0 {
		t.Errorf("%+v", out)
	}
	p.loseDisk(t)
	if out := p.establish(t); out.Pending || out.Origin != hostid.Restored {
		t.Errorf("memory did not take the case: %+v", out)
	}
}

// Memory that does not answer follows when it does; of several, nothing readable is overwritten before all answer.
func TestReboundMemoryFollowsLater(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	old := p.establish(t).Record
	memory, foreign := foreignRecord(t)
	second := &storetest.Memory{Blocks: memory.Blocks}
	p.memory.Blocks = memory.Blocks
	p.Memory = append(p.Memory, hostid.NamedStore{Name: "second", Store: second})
	p.Evidence = hostid.Evidence{"uuid 3", "board 3", "mac 3", "system", "chassis", "disk", "tpm"}
	p.memory.Err = unavailable("no driver")
	p.establish(t)
	if _, err := p.Rebind(t.Context(), anyway); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if out := p.establish(t); out.Record.HostID != old.HostID || len(out.Conflicts) != 0 || out.Stores[2].State != hostid.Foreign {
			t.Fatalf("while one does not answer: %+v", out)
		}
	}
	// The announcement fails for one: it is tried again, and the order holds until then.
	p.memory.Err = nil
	announce := p.BeforeOverwrite
	p.BeforeOverwrite = func(ctx context.Context, o hostid.Overwrite) error {
		if o.Store == "second" {
			return errors.New("disk full")
		}
		return announce(ctx, o)
	}
	if out := p.establish(t); p.held(t).HostID != old.HostID || out.Record.Local.DropFor != old.HostID || !strings.Contains(out.Stores[2].Error, "disk full") {
		t.Fatalf("%+v", out)
	}
	p.BeforeOverwrite = announce
	out := p.establish(t)
	if r, err := second.Load(t.Context()); err != nil || r.HostID != old.HostID || !out.Record.Local.DropFor.IsZero() || len(out.Conflicts) != 0 {
		t.Errorf("second holds %+v, %v; %+v", r, err, out)
	}
	for _, o := range p.announced {
		if o.Kind != hostid.Rebound || o.Old.HostID != foreign.HostID || o.Old.Seed != foreign.Seed || o.New.HostID != old.HostID {
			t.Errorf("announced %+v", o)
		}
	}
	if len(p.announced) != 2 {
		t.Errorf("announced %v", p.kinds())
	}
}

// With the order under way the disk goes to another PC: there it means nothing.
func TestRebindDoesNotTravel(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	p.establish(t)
	p.memory.Err = unavailable("no driver")
	if _, err := p.Rebind(t.Context(), anyway); err != nil {
		t.Fatal(err)
	}
	memory, foreign := foreignRecord(t)
	*p.memory = *memory
	p.Evidence = hostid.Evidence{"uuid 2", "board 2", "mac 2", "system 2", "chassis 2", "disk"}
	out := p.establish(t)
	if p.held(t).HostID != foreign.HostID || out.Record.HostID != foreign.HostID {
		t.Errorf("that PC's memory holds %s, want %s; %+v", p.held(t).HostID, foreign.HostID, out)
	}
}

func TestRebindWithoutMemory(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	p.Memory = nil
	p.establish(t)
	p.Evidence[hostid.SystemUUID], p.Evidence[hostid.BoardSerial] = "uuid 3", "board 3"
	if out := p.establish(t); len(out.Conflicts) != 1 {
		t.Fatalf("%+v", out)
	}
	r, err := p.Rebind(t.Context(), anyway)
	if err != nil || !r.Local.DropFor.IsZero() {
		t.Fatalf("%+v, %v", r, err)
	}
	if out := p.establish(t); len(out.Conflicts) != 0 || !out.Record.Equal(r) {
		t.Errorf("%+v", out)
	}
}

func TestUseNonvolatile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		memory func(t *testing.T, p *pc) hostid.Record // the one meant
	}{
		{"another board's", func(t *testing.T, p *pc) hostid.Record {
			memory, r := foreignRecord(t)
			p.memory.Blocks = memory.Blocks
			return r
		}},
		{"a twin", func(t *testing.T, p *pc) hostid.Record {
			r := p.held(t)
			r.Seed[3]++
			p.memory.Blocks = [2][]byte{}
			p.memory.Save(t.Context(), r)
			return r
		}},
		{"a twin in the second, the file's own in the first", func(t *testing.T, p *pc) hostid.Record {
			r := p.held(t)
			r.Seed[3]++
			second := &storetest.Memory{}
			second.Save(t.Context(), r)
			p.Memory = append(p.Memory, hostid.NamedStore{Name: "second", Store: second})
			return r
		}},
		{"the second of two that differ", func(t *testing.T, p *pc) hostid.Record {
			memory, r := foreignRecord(t)
			p.Memory = append(p.Memory, hostid.NamedStore{Name: "second", Store: memory})
			return r
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPC(t)
			old := p.establish(t).Record
			meant := c.memory(t, p)
			if out := p.establish(t); len(out.Conflicts) == 0 {
				t.Fatalf("no conflict before: %+v", out)
			}
			var told hostid.Record
			r, err := p.UseNonvolatile(t.Context(), meant.HostID, begun(&told))
			if err != nil || r.HostID != meant.HostID || r.Seed != meant.Seed || !told.Equal(r) || r.Facts != thisPC.Facts(r.HostID) {
				t.Fatalf("%+v, %v", r, err)
			}
			for range 2 {
				if out := p.establish(t); out.Record.HostID != meant.HostID || out.Record.Seed != meant.Seed || len(out.Conflicts) != 0 || !out.Record.Local.DropFor.IsZero() {
					t.Fatalf("then %+v", out)
				}
			}
			for _, m := range p.Memory {
				if r, err := m.Store.Load(t.Context()); err != nil || r.HostID != meant.HostID || r.Seed != meant.Seed {
					t.Errorf("%s holds %+v, %v", m.Name, r, err)
				}
			}
			if names := p.asides(t, "ordered"); len(names) != 1 || p.announced[0].Kind != hostid.Ordered || !p.announced[0].Old.Equal(old) {
				t.Errorf("set aside %q, announced %v", names, p.kinds())
			}
		})
	}
}

func TestUseNonvolatileThatIsNotThere(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	old := p.establish(t).Record
	second := &storetest.Memory{}
	p.Memory = append(p.Memory, hostid.NamedStore{Name: "second", Store: second})
	for _, c := range []struct {
		state error
		want  error
	}{
		{nil, hostid.ErrNoRecord}, {hostid.ErrNotInitialized, hostid.ErrNoRecord}, {hostid.ErrCorrupt, hostid.ErrNoRecord},
		{unavailable("no driver"), hostid.ErrUnavailable}, {errors.New("of no kind"), nil},
	} {
		second.Err = c.state
		got, err := p.UseNonvolatile(t.Context(), hostid.NewID(), anyway)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || c.want == nil && errors.Is(err, hostid.ErrNoRecord) {
			t.Errorf("%v: %+v, %v", c.state, got, err)
		}
	}
	if now, err := p.file.Load(t.Context()); err != nil || !now.Equal(old) || len(p.announced) != 0 || len(p.asides(t, "*")) != 0 {
		t.Errorf("the file holds %+v, %v; announced %v, set aside %q", now, err, p.kinds(), p.asides(t, "*"))
	}
}

// Without a lasting note of the order, or of what gives way, nothing is changed.
func TestOrderThatCannotBegin(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	old := p.establish(t).Record
	full := errors.New("disk full")
	if _, err := p.TakeNewID(t.Context(), func(hostid.Record) error { return full }); !errors.Is(err, full) {
		t.Error(err)
	}
	if _, err := p.Rebind(t.Context(), func(hostid.Record) error { return full }); !errors.Is(err, full) {
		t.Error(err)
	}
	p.BeforeOverwrite = func(context.Context, hostid.Overwrite) error { return full }
	if _, err := p.TakeNewID(t.Context(), func(hostid.Record) error { t.Error("begun"); return nil }); !errors.Is(err, full) {
		t.Error(err)
	}
	if now, err := p.file.Load(t.Context()); err != nil || !now.Equal(old) {
		t.Errorf("the file holds %+v, %v", now, err)
	}
}

// Each order, cut at every durable step: the file holds what it held or what begin was told, and then Establish
// brings memory to it.
func TestOrdersAfterEveryPowerCut(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	mine, theirs := record(1), record(2)
	for _, c := range []struct {
		name  string
		order func(k *hostid.Keeper, begin func(hostid.Record) error) (hostid.Record, error)
		steps int
	}{
		{"new-id", func(k *hostid.Keeper, begin func(hostid.Record) error) (hostid.Record, error) {
			return k.TakeNewID(ctx, begin)
		}, 4},
		{"take-back", func(k *hostid.Keeper, begin func(hostid.Record) error) (hostid.Record, error) {
			return k.TakeBack(ctx, theirs.HostID, begin)
		}, 4},
		{"rebind", func(k *hostid.Keeper, begin func(hostid.Record) error) (hostid.Record, error) {
			return k.Rebind(ctx, begin)
		}, 2},
		{"use-nonvolatile", func(k *hostid.Keeper, begin func(hostid.Record) error) (hostid.Record, error) {
			return k.UseNonvolatile(ctx, mine.HostID, begin)
		}, 4},
	} {
		for _, applied := range []bool{false, true} {
			for steps := 0; ; steps++ {
				at := fmt.Sprintf("%s, cut at step %d, applied %v", c.name, steps, applied)
				b := newWorld(1, 1).boards[0]
				file, memory := mine, mine
				if c.name == "use-nonvolatile" {
					memory.Seed[5] = 5
				}
				file.Local.Stored = true
				file.Facts, memory.Facts = b.evidence().Facts(file.HostID), b.evidence().Facts(memory.HostID)
				b.disk.frame, _ = hostid.EncodeFrame(1, file)
				b.disk.aside = []hostid.Record{theirs}
				b.memory[0].Save(ctx, memory.Portable())

				p := &power{armed: true, steps: steps, applied: applied}
				b.disk.power = p
				var told hostid.Record
				k := &hostid.Keeper{File: b.disk, Memory: []hostid.NamedStore{{Name: "memory", Store: b.memory[0]}}, Evidence: b.evidence()}
				k.BeforeOverwrite = func(_ context.Context, o hostid.Overwrite) error {
					p.step(func() { b.disk.journal = append(b.disk.journal, o) }, nil)
					return nil
				}
				cut := cutBy(func() {
					if _, err := c.order(k, func(next hostid.Record) error { p.step(func() { told = next }, nil); return nil }); err != nil {
						t.Fatalf("%s: %v", at, err)
					}
				})
				p.armed = false
				after, err := b.disk.Load(ctx)
				if err != nil || !after.Equal(file) && !after.Equal(told) || told.HostID.IsZero() && !after.Equal(file) {
					t.Fatalf("%s: the file holds %+v, %v, and begin was told %+v", at, after, err, told)
				}
				if after.HostID != file.HostID || after.Seed != file.Seed {
					if !b.disk.keptAside(file) {
						t.Fatalf("%s: %s is lost", at, file.HostID)
					}
				}
				out, err := k.Establish(ctx)
				if m, loadErr := b.memory[0].Load(ctx); err != nil || loadErr != nil || out.Record.HostID != after.HostID ||
					after.Equal(told) && (m.HostID != after.HostID || m.Seed != after.Seed) {
					t.Fatalf("%s: then %+v, %v, memory %+v, %v", at, out, err, m, loadErr)
				}
				if !cut {
					if steps != c.steps {
						t.Errorf("%s: %d durable steps, want %d", c.name, steps, c.steps)
					}
					break
				}
				if steps > 20 {
					t.Fatalf("%s: more than 20 steps", c.name)
				}
			}
		}
	}
}

// A value that ceases to count makes no other PC of this one, though it was all that outweighed what changed since.
func TestTakeFacts(t *testing.T) {
	t.Parallel()
	recorded := hostid.Evidence{"shared", "", "mac", "", "", "disk"}
	for _, c := range []struct {
		name           string
		present, taken hostid.Evidence // taken: zero if nothing is
		origin         hostid.Origin   // once the shared UUID is a placeholder
		conflicts      int
	}{
		{"network interface swapped", hostid.Evidence{"shared", "", "mac 2", "system", "", "disk"},
			hostid.Evidence{"shared", "", "mac 2", "system", "", "disk"}, hostid.Kept, 0},
		{"a serial number that came with an update", hostid.Evidence{"shared", "board", "mac", "", "", ""},
			hostid.Evidence{"shared", "board", "mac", "", "", "disk"}, hostid.Kept, 0},
		{"copied to a PC of the same model", hostid.Evidence{"shared", "", "mac 2", "", "", "disk 2"},
			hostid.Evidence{}, hostid.Generated, 0},
		{"nothing but the value speaks for this PC", hostid.Evidence{"shared", "", "mac 2", "", "", ""},
			hostid.Evidence{}, hostid.Kept, 1},
		{"another board", hostid.Evidence{"uuid 2", "", "mac 2", "", "", "disk"}, hostid.Evidence{}, hostid.Kept, 1},
		{"nothing known", hostid.Evidence{}, hostid.Evidence{}, hostid.Kept, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPC(t)
			p.Memory, p.Evidence = nil, recorded
			old := p.establish(t).Record
			p.Evidence = c.present
			want := old
			if c.taken != (hostid.Evidence{}) {
				want.Facts = c.taken.Facts(old.HostID)
			}
			for range 2 {
				if err := p.TakeFacts(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if r, err := p.file.Load(t.Context()); err != nil || !r.Equal(want) {
				t.Errorf("the file holds %+v, %v, want %+v", r, err, want)
			}
			p.Evidence[hostid.SystemUUID] = "" // declared a placeholder
			if out := p.establish(t); out.Origin != c.origin || len(out.Conflicts) != c.conflicts {
				t.Errorf("%+v", out)
			}
		})
	}
}

func TestOrderWithoutARecord(t *testing.T) {
	t.Parallel()
	p := newPC(t)
	for name, err := range map[string]error{
		"new-id":          errOf(p.TakeNewID(t.Context(), anyway)),
		"take-back":       errOf(p.TakeBack(t.Context(), record(1).HostID, anyway)),
		"rebind":          errOf(p.Rebind(t.Context(), anyway)),
		"use-nonvolatile": errOf(p.UseNonvolatile(t.Context(), record(1).HostID, anyway)),
		"facts":           p.TakeFacts(t.Context()),
	} {
		if !errors.Is(err, hostid.ErrNotStored) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func errOf(_ hostid.Record, err error) error { return err }
