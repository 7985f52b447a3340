package hostid_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"samehost/internal/hostid"
	"samehost/internal/hostid/storetest"
)

// The model: a few PCs, whose boards, cases, disks and memory are broken, swapped, cloned and cut from power at
// random, with the real Keeper on each. What must hold whatever happens is checked at every write and every start.

// testDisk is a disk with a data folder: a host ID management file, what was set aside, and what BeforeOverwrite
// made durable. It implements hostid.LocalStore.
type testDisk struct {
	serial  string
	frame   []byte // the file's content; nil: none
	aside   []hostid.Record
	journal []hostid.Overwrite
	writes  int
	power   *power

	left []hostid.ID // that this installation was ordered to leave, and must not return to by itself
}

// clone is the disk copied, byte for byte, onto another one.
func (d *testDisk) clone(serial string) *testDisk {
	return &testDisk{serial: serial, frame: slices.Clone(d.frame), aside: slices.Clone(d.aside), journal: slices.Clone(d.journal)}
}

// power is cut at a durable step: nothing of it happens, all of it, or, in memory, the first bytes of it.
type power struct {
	armed   bool
	steps   int // that still succeed
	partly  int // bytes of memory that the step cut writes
	applied bool
}

type powerCut struct{}

// step runs a durable step, or cuts it.
func (p *power) step(apply func(), part func(n int)) {
	if p == nil || !p.armed {
		apply()
		return
	}
	if p.steps > 0 {
		p.steps--
		apply()
		return
	}
	switch {
	case p.applied:
		apply()
	case part != nil:
		part(p.partly)
	}
	panic(powerCut{})
}

func (d *testDisk) Load(context.Context) (hostid.Record, error) {
	if d.frame == nil {
		return hostid.Record{}, hostid.ErrNotStored
	}
	_, r, err := hostid.DecodeFrame(d.frame)
	return r, err
}

func (d *testDisk) Save(ctx context.Context, r hostid.Record) error {
	if old, err := d.Load(ctx); err == nil && old.Equal(r) {
		return nil
	} else if errors.Is(err, hostid.ErrNewer) {
		return err
	}
	frame, err := hostid.EncodeFrame(1, r)
	if err != nil {
		return err
	}
	d.power.step(func() { d.frame = frame; d.writes++ }, nil)
	return nil
}

func (d *testDisk) SetAside(ctx context.Context, why string) (string, error) {
	r, err := d.Load(ctx)
	if err != nil {
		return "", err
	}
	return d.SetAsideRecord(ctx, r, why)
}

func (d *testDisk) SetAsideRecord(_ context.Context, r hostid.Record, why string) (string, error) {
	d.power.step(func() { d.aside = append(d.aside, r) }, nil)
	return why, nil
}

func (d *testDisk) LoadAside(_ context.Context, id hostid.ID) (hostid.Record, error) {
	for _, r := range slices.Backward(d.aside) {
		if r.HostID == id {
			return r, nil
		}
	}
	return hostid.Record{}, hostid.ErrNotStored
}

// keptAside reports that identity r is among what was set aside.
func (d *testDisk) keptAside(r hostid.Record) bool {
	return slices.ContainsFunc(d.aside, func(a hostid.Record) bool { return a.HostID == r.HostID && a.Seed == r.Seed })
}

// guard is a Store that checks each Save before it happens.
type guard struct {
	hostid.LocalStore
	save func(ctx context.Context, r hostid.Record) error
}

func (g guard) Save(ctx context.Context, r hostid.Record) error { return g.save(ctx, r) }

type testBoard struct {
	name              string
	uuid, serial, mac string
	chassis           string
	memory            []*storetest.Memory
	disk              *testDisk
	last              *hostid.Outcome // of the installation that runs; nil if none does since disk or file changed
}

func (b *testBoard) evidence() (e hostid.Evidence) {
	e[hostid.SystemUUID], e[hostid.BoardSerial], e[hostid.OnboardMAC] = b.uuid, b.serial, b.mac
	e[hostid.SystemSerial], e[hostid.ChassisSerial] = b.chassis, b.chassis
	e[hostid.DiskSerial] = b.disk.serial
	return e
}

// own is what b's memory holds: the first record in board order that can be read and is not another board's. A newer
// record beside it forbids its use.
func (b *testBoard) own() (own hostid.Record, ok bool) {
	for _, m := range b.memory {
		r, err := m.Load(context.Background())
		if errors.Is(err, hostid.ErrNewer) {
			return hostid.Record{}, false
		}
		if err == nil && !ok && hostid.Compare(r.Facts, b.evidence().Facts(r.HostID)) != hostid.AnotherBoard {
			own, ok = r, true
		}
	}
	return own, ok
}

// answers reports that all memory answers, and none was written by a newer client.
func (b *testBoard) answers() bool {
	return !slices.ContainsFunc(b.memory, func(m *storetest.Memory) bool {
		_, err := m.Load(context.Background())
		return errors.Is(err, hostid.ErrUnavailable) || errors.Is(err, hostid.ErrNotInitialized) || errors.Is(err, hostid.ErrNewer)
	})
}

// writes counts everything durable that ever happened on b.
func (b *testBoard) writes() [4]int {
	n := [4]int{b.disk.writes, len(b.disk.aside), len(b.disk.journal)}
	for _, m := range b.memory {
		n[3] += m.Writes
	}
	return n
}

type world struct {
	boards   []*testBoard
	serial   int         // numbers for new things
	chosen   []hostid.ID // that some PC has by order: an operator answers for them
	telltale bool        // every board has a serial number of its own, so that none can pass for another
}

func (w *world) next(what string) string {
	w.serial++
	return fmt.Sprintf("%s-%d", what, w.serial)
}

func newWorld(boards, memories int) *world {
	w := &world{telltale: true}
	for i := range boards {
		b := &testBoard{
			name: fmt.Sprintf("PC %d", i), uuid: w.next("uuid"), serial: w.next("board"), mac: w.next("mac"), chassis: w.next("case"),
			disk: &testDisk{serial: w.next("disk")},
		}
		for range memories {
			b.memory = append(b.memory, &storetest.Memory{})
		}
		w.boards = append(w.boards, b)
	}
	return w
}

// blur takes facts away from the boards, or makes them the same for all, as firmware does.
func (w *world) blur(t *rapid.T) {
	for _, b := range w.boards {
		for _, fact := range []*string{&b.uuid, &b.serial, &b.mac, &b.chassis} {
			*fact = rapid.SampledFrom([]string{*fact, *fact, *fact, "", "shared"}).Draw(t, "fact")
		}
	}
	w.telltale = false
}

func (w *world) board(t *rapid.T) *testBoard { return rapid.SampledFrom(w.boards).Draw(t, "board") }

func (w *world) memory(t *rapid.T) *storetest.Memory {
	return rapid.SampledFrom(w.board(t).memory).Draw(t, "memory")
}

// keeper makes the Keeper of an installation, with the checks of every write.
func (w *world) keeper(t *rapid.T, b *testBoard, p *power) *hostid.Keeper {
	disk := b.disk
	disk.power = p
	// mayReplace is the promise of every write: another ID's record is set aside and announced first.
	mayReplace := func(where string, old, r hostid.Record) {
		if old.HostID == r.HostID && old.Seed == r.Seed {
			return
		}
		if !announced(disk, where, old, r, func(k hostid.OverwriteKind) bool {
			return old.HostID != r.HostID || k == hostid.Ordered || k == hostid.Rebound
		}) {
			t.Fatalf("%s: %s: %s is overwritten by %s, and nothing announced it", b.name, where, old.HostID, r.HostID)
		}
		if !disk.keptAside(old) {
			t.Fatalf("%s: %s: %s is overwritten by %s, and not set aside", b.name, where, old.HostID, r.HostID)
		}
	}
	k := &hostid.Keeper{
		File: guard{disk, func(ctx context.Context, r hostid.Record) error {
			old, err := disk.Load(ctx)
			if err == nil {
				mayReplace(hostid.FileStoreName, old, r)
			} else if errors.Is(err, hostid.ErrNewer) {
				t.Fatalf("%s: a newer file is overwritten", b.name)
			}
			return disk.Save(ctx, r)
		}},
		Evidence: b.evidence(),
		BeforeOverwrite: func(_ context.Context, o hostid.Overwrite) error {
			p.step(func() { disk.journal = append(disk.journal, o) }, nil)
			return nil
		},
	}
	for i, m := range b.memory {
		name := fmt.Sprintf("memory %d", i)
		k.Memory = append(k.Memory, hostid.NamedStore{Name: name, Store: guard{loader{m}, func(ctx context.Context, r hostid.Record) error {
			old, err := m.Load(ctx)
			switch {
			case err == nil:
				mayReplace(name, old, r)
				if old.HostID != r.HostID && hostid.Compare(old.Facts, b.evidence().Facts(old.HostID)) == hostid.AnotherBoard && len(b.memory) == 1 &&
					!announced(disk, name, old, r, func(k hostid.OverwriteKind) bool { return k == hostid.Rebound }) {
					t.Fatalf("%s: the foreign record %s is overwritten", b.name, old.HostID)
				}
			case errors.Is(err, hostid.ErrNewer):
				t.Fatalf("%s: Save to memory that holds a newer record", b.name)
			}
			if r.Local != (hostid.Local{}) || r.Facts[hostid.DiskSerial] != (hostid.Digest{}) {
				t.Fatalf("%s: memory gets what concerns the disk: %+v", b.name, r)
			}
			return cutSave(ctx, p, m, r)
		}}})
	}
	return k
}

// announced reports that old was to give way to r in that store, for a reason that fits.
func announced(d *testDisk, where string, old, r hostid.Record, fits func(hostid.OverwriteKind) bool) bool {
	return slices.ContainsFunc(d.journal, func(o hostid.Overwrite) bool {
		return o.Store == where && o.Old.HostID == old.HostID && o.New.HostID == r.HostID && o.Old.Seed == old.Seed && fits(o.Kind)
	})
}

// cutSave saves to memory as a durable step that can be cut within its bytes. What writes nothing is no step.
func cutSave(ctx context.Context, p *power, m *storetest.Memory, r hostid.Record) (err error) {
	trial := storetest.Memory{Blocks: m.Blocks, Err: m.Err}
	if err := trial.Save(ctx, r); err != nil || trial.Writes == 0 {
		return err
	}
	p.step(func() { err = m.Save(ctx, r) }, func(n int) { m.Cut(n); m.Save(ctx, r); m.Restart() })
	return err
}

// loader lets guard embed a Store that sets nothing aside.
type loader struct{ hostid.Store }

func (loader) SetAside(context.Context, string) (string, error) { panic("memory sets nothing aside") }
func (loader) SetAsideRecord(context.Context, hostid.Record, string) (string, error) {
	panic("memory sets nothing aside")
}
func (loader) LoadAside(context.Context, hostid.ID) (hostid.Record, error) {
	panic("memory sets nothing aside")
}

// start runs Establish on b, with power cut at a step if p says so. It reports whether it came to an end.
func (w *world) start(t *rapid.T, b *testBoard, p *power) (cut bool) {
	k := w.keeper(t, b, p)
	var out hostid.Outcome
	var err error
	before, loadErr := b.disk.Load(context.Background())
	holdsPlace := loadErr == nil && len(b.memory) < 2 && hostid.Compare(before.Facts, b.evidence().Facts(before.HostID)) != hostid.AnotherBoard
	if cut = cutBy(func() { out, err = k.Establish(context.Background()) }); cut {
		b.last = nil // it is off; what it used before counts no more than its next start
		return true
	}
	if err != nil {
		b.last = nil
		if !errors.Is(err, hostid.ErrNewer) {
			t.Fatalf("%s: %v", b.name, err)
		}
		return false
	}
	b.last = &out
	onDisk, err := b.disk.Load(context.Background())
	if err != nil || !onDisk.Equal(out.Record) {
		t.Fatalf("%s uses %+v, and its disk holds %+v, %v", b.name, out.Record, onDisk, err)
	}
	if id := out.Record.HostID; holdsPlace && id != before.HostID && slices.Contains(b.disk.left, id) {
		t.Fatalf("%s was ordered to leave %s, and returns to it by itself: %+v, then %+v", b.name, id, before, out)
	}
	w.checkShared(t, b)
	return false
}

// cutBy reports whether what f does was cut from power.
func cutBy(f func()) (cut bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(powerCut); !ok {
				panic(r)
			}
			cut = true
		}
	}()
	f()
	return false
}

// order carries out an order on b, with power cut at a step if p says so, and checks that the file then holds what it
// held, or what begin was told.
func (w *world) order(t *rapid.T, b *testBoard, p *power, what string, carryOut func(k *hostid.Keeper, begin func(hostid.Record) error) (hostid.Record, error)) {
	ctx := context.Background()
	before, err := b.disk.Load(ctx)
	if err != nil || b.last == nil {
		return // no service runs there that could be given an order
	}
	memory := b.writes()[3]
	var begun, got hostid.Record
	var orderErr error
	k := w.keeper(t, b, p)
	cut := cutBy(func() {
		got, orderErr = carryOut(k, func(next hostid.Record) error {
			p.step(func() { begun = next }, nil)
			return nil
		})
	})
	after, err := b.disk.Load(ctx)
	if err != nil {
		t.Fatalf("%s: %s: the file holds nothing: %v", b.name, what, err)
	}
	if b.writes()[3] != memory {
		t.Fatalf("%s: %s: an order writes to memory past Establish", b.name, what)
	}
	done := !begun.HostID.IsZero() && after.Equal(begun)
	switch {
	case !done && !after.Equal(before):
		t.Fatalf("%s: %s: the file held %+v, begun was %+v, and it holds %+v", b.name, what, before, begun, after)
	case !cut && orderErr == nil && (!done || !got.Equal(after)):
		t.Fatalf("%s: %s: it says %+v, begun was %+v, and the file holds %+v", b.name, what, got, begun, after)
	case !cut && orderErr != nil && (done && !begun.Equal(before) || !errors.Is(orderErr, hostid.ErrNoRecord) && !errors.Is(orderErr, hostid.ErrUnavailable)):
		t.Fatalf("%s: %s: %v, and the file holds %+v", b.name, what, orderErr, after)
	}
	if done {
		switch {
		case what == "new-id":
			b.disk.left = append(b.disk.left, before.HostID)
			if after.Local.CopyOf != before.HostID {
				t.Fatalf("%s: %s: copy of %s, want %s", b.name, what, after.Local.CopyOf, before.HostID)
			}
		default:
			if what == "take-back" {
				b.disk.left = append(b.disk.left, before.HostID)
			}
			w.chosen = append(w.chosen, after.HostID)
			if c := hostid.Compare(after.Facts, b.evidence().Facts(after.HostID)); c == hostid.AnotherBoard {
				t.Fatalf("%s: %s: the record is still another board's", b.name, what)
			}
		}
		b.disk.left = slices.DeleteFunc(b.disk.left, func(id hostid.ID) bool { return id == after.HostID })
	}
	b.last = nil
	w.start(t, b, nil)
	if b.last != nil && done && b.last.Record.HostID != after.HostID && what != "new-id" && what != "take-back" {
		t.Fatalf("%s: %s: it was done, and %s became %s at the next start", b.name, what, after.HostID, b.last.Record.HostID)
	}
	if (what == "rebind" || what == "use-nonvolatile") && done && b.answers() {
		w.settled(t, b, what)
	}
}

// settled checks that memory follows such an order at once, whatever it held, and that nothing is left to decide.
func (w *world) settled(t *rapid.T, b *testBoard, what string) {
	if b.last == nil || len(b.last.Conflicts) > 0 || b.last.Pending || b.last.Record.Local.DropFor == b.last.Record.HostID && len(b.memory) > 0 {
		t.Fatalf("%s: after %s: %+v", b.name, what, b.last)
	}
	for i, m := range b.memory {
		if r, err := m.Load(context.Background()); err != nil || r.HostID != b.last.Record.HostID || r.Seed != b.last.Record.Seed {
			t.Fatalf("%s: after %s: memory %d holds %+v, %v", b.name, what, i, r, err)
		}
	}
}

// moved says that a disk is in another PC, or its memory was exchanged under it: what was ordered here does not hold there.
func (d *testDisk) moved() { d.left = nil }

// checkShared: no host ID is in use on two boards without one of them saying so.
func (w *world) checkShared(t *rapid.T, b *testBoard) {
	id := b.last.Record.HostID
	for _, o := range w.boards {
		if !w.telltale || slices.Contains(w.chosen, id) || o == b || o.last == nil || o.last.Record.HostID != id {
			continue
		}
		if !speaksOf(b, id) && !speaksOf(o, id) {
			t.Fatalf("%s and %s both use %s, and neither says so:\n%+v\n%+v", b.name, o.name, id, *b.last, *o.last)
		}
	}
}

// speaksOf reports that the installation on b tells the manager something about id beyond that it is its own.
func speaksOf(b *testBoard, id hostid.ID) bool {
	for _, c := range b.last.Conflicts {
		if c.File == id || c.Memory == id {
			return true
		}
	}
	return slices.ContainsFunc(b.disk.journal, func(o hostid.Overwrite) bool { return o.Old.HostID == id || o.New.HostID == id })
}

// newDisk puts an empty disk into b; reinstall empties the folder.
func (w *world) newDisk(b *testBoard)   { b.disk, b.last = &testDisk{serial: w.next("disk")}, nil }
func (w *world) reinstall(b *testBoard) { b.disk, b.last = &testDisk{serial: b.disk.serial}, nil }

// restored checks the promise that the product is for: after the disk failed, memory gives the same ID back.
func (w *world) restored(t *rapid.T, b *testBoard) {
	r, ok := b.own()
	w.start(t, b, nil)
	if ok && (b.last == nil || b.last.Record.HostID != r.HostID || b.last.Record.Seed != r.Seed || b.last.Origin != hostid.Restored) {
		t.Fatalf("%s lost its disk; memory held %s: %+v", b.name, r.HostID, b.last)
	}
}

// cut is power that fails at one of the next steps; maybeCut fails every third time.
func (w *world) cut(t *rapid.T) *power {
	return &power{
		armed: true, steps: rapid.IntRange(0, 5).Draw(t, "steps"), applied: rapid.Bool().Draw(t, "applied"),
		partly: rapid.IntRange(0, hostid.MaxFrame).Draw(t, "bytes"),
	}
}

func (w *world) maybeCut(t *rapid.T) *power {
	if rapid.IntRange(0, 2).Draw(t, "cut") > 0 {
		return nil
	}
	return w.cut(t)
}

func (w *world) events() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"start": func(t *rapid.T) { w.start(t, w.board(t), nil) },
		"start, power cut, start": func(t *rapid.T) {
			b := w.board(t)
			w.start(t, b, w.cut(t))
			w.start(t, b, nil)
		},
		"reinstall":            func(t *rapid.T) { b := w.board(t); w.reinstall(b); w.restored(t, b) },
		"disk replaced":        func(t *rapid.T) { b := w.board(t); w.newDisk(b); w.restored(t, b) },
		"reinstall, not begun": func(t *rapid.T) { w.reinstall(w.board(t)) },
		"disks swapped": func(t *rapid.T) {
			a, b := w.board(t), w.board(t)
			a.disk, b.disk = b.disk, a.disk
			a.disk.moved()
			b.disk.moved()
			a.last, b.last = nil, nil
		},
		"disk moved, a new one in its place": func(t *rapid.T) {
			a, b := w.board(t), w.board(t)
			b.disk, b.last = a.disk, nil
			b.disk.moved()
			w.newDisk(a)
		},
		"disk cloned": func(t *rapid.T) {
			a, b := w.board(t), w.board(t)
			b.disk, b.last = a.disk.clone(w.next("disk")), nil
		},
		"file corrupt": func(t *rapid.T) {
			if d := w.board(t).disk; d.frame != nil {
				d.frame = append([]byte{0x13}, d.frame[1:]...)
				d.left = nil
			}
		},
		"file deleted": func(t *rapid.T) { b := w.board(t); b.disk.frame, b.disk.left, b.last = nil, nil, nil },
		"memory does not answer": func(t *rapid.T) {
			w.memory(t).Err = fmt.Errorf("%w: no driver", hostid.ErrUnavailable)
		},
		"memory not initialized": func(t *rapid.T) { w.memory(t).Err = hostid.ErrNotInitialized },
		"memory answers":         func(t *rapid.T) { w.memory(t).Err = nil },
		"memory erased":          func(t *rapid.T) { w.memory(t).Blocks = [2][]byte{} },
		"one block corrupt": func(t *rapid.T) {
			m := w.memory(t)
			if i := rapid.IntRange(0, 1).Draw(t, "block"); m.Blocks[i] != nil {
				m.Blocks[i] = append([]byte{0x13}, m.Blocks[i][1:]...)
			}
		},
		"a newer client wrote memory": func(t *rapid.T) {
			w.memory(t).Blocks[rapid.IntRange(0, 1).Draw(t, "block")] = storetest.NewerFrame(uint64(rapid.IntRange(0, 99).Draw(t, "sequence")))
		},
		"a newer client wrote the file": func(t *rapid.T) {
			if rapid.IntRange(0, 3).Draw(t, "rarely") == 0 {
				w.board(t).disk.frame = storetest.NewerFrame(1)
			}
		},
		"both blocks corrupt": func(t *rapid.T) {
			m := w.memory(t)
			m.Blocks = [2][]byte{{0x13}, {0x14}}
		},
		"another board's memory": func(t *rapid.T) {
			a, b := w.memory(t), w.memory(t)
			b.Blocks = [2][]byte{slices.Clone(a.Blocks[0]), slices.Clone(a.Blocks[1])}
			for _, o := range w.boards {
				if slices.Contains(o.memory, b) {
					o.disk.moved()
				}
			}
		},
		"network interface swapped": func(t *rapid.T) { w.board(t).mac = w.next("mac") },
		"UUID reset": func(t *rapid.T) {
			w.board(t).uuid = rapid.SampledFrom([]string{"", "shared", w.next("uuid")}).Draw(t, "uuid")
		},
		"order new-id": func(t *rapid.T) {
			w.order(t, w.board(t), w.maybeCut(t), "new-id", func(k *hostid.Keeper, begin func(hostid.Record) error) (hostid.Record, error) {
				return k.TakeNewID(context.Background(), begin)
			})
		},
		"order take-back": func(t *rapid.T) {
			b := w.board(t)
			id := hostid.NewID() // was never set aside
			if n := len(b.disk.aside); n > 0 {
				id = b.disk.aside[rapid.IntRange(0, n-1).Draw(t, "record")].HostID
			}
			w.order(t, b, w.maybeCut(t), "take-back", func(k *hostid.Keeper, begin func(hostid.Record) error) (hostid.Record, error) {
				return k.TakeBack(context.Background(), id, begin)
			})
		},
		"order rebind": func(t *rapid.T) {
			w.order(t, w.board(t), w.maybeCut(t), "rebind", func(k *hostid.Keeper, begin func(hostid.Record) error) (hostid.Record, error) {
				return k.Rebind(context.Background(), begin)
			})
		},
		"order use-nonvolatile": func(t *rapid.T) {
			b := w.board(t)
			id := hostid.NewID() // no memory holds it
			for _, m := range b.memory {
				if r, err := m.Load(context.Background()); err == nil && rapid.Bool().Draw(t, "this") {
					id = r.HostID
				}
			}
			w.order(t, b, w.maybeCut(t), "use-nonvolatile", func(k *hostid.Keeper, begin func(hostid.Record) error) (hostid.Record, error) {
				return k.UseNonvolatile(context.Background(), id, begin)
			})
		},
		"another case":        func(t *rapid.T) { w.board(t).chassis = w.next("case") },
		"serial numbers lost": func(t *rapid.T) { w.board(t).chassis = "" },
		"":                    func(t *rapid.T) {},
	}
}

// quiet lets a PC start a few times with nothing changing, and checks what must hold then.
func (w *world) quiet(t *rapid.T, b *testBoard) {
	for range 3 { // restore; store it in empty memory; rewrite a second damaged block
		w.start(t, b, nil)
	}
	before := b.writes()
	w.start(t, b, nil)
	if after := b.writes(); after != before {
		t.Fatalf("%s: the fourth start with nothing changed still writes: %v, then %v", b.name, before, after)
	}
	r, ok := b.own()
	if b.last == nil || !ok || len(b.last.Conflicts) > 0 || !b.answers() {
		return
	}
	if got := b.last.Record; got.HostID != r.HostID || got.Seed != r.Seed || got.Local.Fresh || got.Local.Provisional || !got.Local.Stored {
		t.Fatalf("%s: quiet, its own memory holds %s, and the file %+v", b.name, r.HostID, got)
	}
}

func TestKeeperModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(3, rapid.SampledFrom([]int{1, 1, 2, 0}).Draw(t, "memories"))
		if rapid.Bool().Draw(t, "blurred") {
			w.blur(t)
		}
		events := w.events()
		if len(w.boards[0].memory) == 0 {
			for _, name := range memoryEvents {
				delete(events, name)
			}
		}
		t.Repeat(events)
		for _, b := range w.boards {
			w.quiet(t, b)
		}
		// Memory comes back at last: then file and memory agree everywhere, or a conflict is on record.
		for _, b := range w.boards {
			for _, m := range b.memory {
				m.Err = nil
			}
			w.quiet(t, b)
			if b.last == nil || len(b.last.Conflicts) > 0 || !b.answers() {
				continue
			}
			for i, m := range b.memory {
				if r, err := m.Load(t.Context()); err != nil || r.HostID != b.last.Record.HostID || r.Seed != b.last.Record.Seed {
					t.Fatalf("%s: memory %d answers, holds %s, %v, and the file %s", b.name, i, r.HostID, err, b.last.Record.HostID)
				}
			}
		}
	})
}

// memoryEvents are the events that a PC without memory cannot have.
var memoryEvents = []string{
	"memory does not answer", "memory not initialized", "memory answers", "memory erased", "one block corrupt",
	"a newer client wrote memory", "both blocks corrupt", "another board's memory",
}
