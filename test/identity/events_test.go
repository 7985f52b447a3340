package identity

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"samehost/internal/hostid"
	"samehost/internal/hostid/storetest"
	"samehost/internal/registry"
)

// fleet says how good the facts are that PCs know of themselves. Each function makes the value for a new board, case or disk.
type fleet struct {
	name                        string
	uuid, board, mac, case_, hd func(w *world) string
	memory                      func(w *world) bool // a new board has memory
}

func (f fleet) disk(w *world) string { return f.hd(w) }

// own is a value that nothing else has; same is one value; either takes its turn.
func own(what string) func(*world) string { return func(w *world) string { return w.made(what) } }
func same(v string) func(*world) string   { return func(*world) string { return v } }
func inTurn(of ...func(*world) string) func(*world) string {
	return func(w *world) string { w.next++; return of[w.next%len(of)](w) }
}

func ownUUID(w *world) string {
	w.next++
	return fmt.Sprintf("4c4c4544-0051-4d10-8051-%012x", w.next)
}

func ownMAC(w *world) string {
	w.next++
	return fmt.Sprintf("00-1B-21-%02X-%02X-%02X", w.next>>16&255, w.next>>8&255, w.next&255)
}

const (
	noUUID    = "ffffffff-ffff-ffff-ffff-ffffffffffff"
	noSerial  = "To Be Filled By O.E.M."
	modelUUID = "03000200-0400-0500-0006-00aa00bb00cc" // of a whole model, on no list
)

func withMemory(*world) bool    { return true }
func withoutMemory(*world) bool { return false }
func halfMemory(w *world) bool  { w.next++; return w.next%2 == 0 }

// The four fleets.
var (
	good     = fleet{"good facts", ownUUID, own("BRD"), ownMAC, own("CASE"), own("DSK"), withMemory}
	mixed    = fleet{"mixed facts", inTurn(ownUUID, same(""), ownUUID, same(noUUID)), inTurn(own("BRD"), same(noSerial), same("")), inTurn(ownMAC, ownMAC, same("")), inTurn(own("CASE"), same(noSerial), same("")), inTurn(own("DSK"), own("DSK"), same("")), withMemory}
	shared   = fleet{"values of a model", same(modelUUID), same("MB-1.02"), ownMAC, own("CASE"), own("DSK"), withMemory}
	caseless = fleet{"no case known", ownUUID, own("BRD"), ownMAC, same(noSerial), own("DSK"), withMemory} // of no model, but of some rules
	marked   = fleet{"placeholders", same(noUUID), same(noSerial), same(""), same(noSerial), own("DSK"), withMemory}
)

var fleets = []fleet{good, mixed, shared, marked}

// newBoard is a board from the factory.
func (w *world) newBoard() *board {
	w.next++
	b := &board{name: fmt.Sprint("board", w.next), uuid: w.fleet.uuid(w), serial: w.fleet.board(w), mac: w.fleet.mac(w)}
	if w.fleet.memory(w) {
		b.memory = &storetest.Memory{}
	}
	return b
}

// install puts up a PC, installs the client and starts it.
func (w *world) install() *pc {
	w.t.Helper()
	p := &pc{w: w, name: fmt.Sprintf("PC %c", 'A'+len(w.pcs)), board: w.newBoard(), system: w.fleet.case_(w), chassis: w.fleet.case_(w)}
	p.disk = w.newDisk(p)
	w.pcs = append(w.pcs, p)
	w.did("%s is installed: UUID %q, board %q, MAC %q, system %q, chassis %q, disk %q, memory %v", p, p.board.uuid, p.board.serial, p.board.mac, p.system, p.chassis, p.disk.serial, p.board.memory != nil)
	w.boot(p)
	return p
}

// boot switches a PC on, if it has a disk, and has it check in.
func (w *world) boot(p *pc) {
	w.t.Helper()
	if p.disk == nil {
		return
	}
	p.powerOn()
	w.checkIn(p)
	w.check()
}

// changed is to be called after what a PC is made of changed while it was off: what of its own survives?
func (p *pc) changed() {
	p.survives()
}

func (w *world) reinstall(p *pc) {
	w.t.Helper()
	if p.disk == nil {
		return
	}
	p.powerOff()
	w.must(os.RemoveAll(p.disk.folder))
	p.disk.home = p
	w.did("%s is reinstalled", p)
	p.changed()
	w.boot(p)
}

func (w *world) newDiskIn(p *pc) {
	w.t.Helper()
	p.powerOff()
	p.disk = w.newDisk(p)
	w.did("%s gets a new disk, %q", p, p.disk.serial)
	p.changed()
	w.boot(p)
}

// copyDisk puts a copy of one PC's disk into another PC. The original may run meanwhile.
func (w *world) copyDisk(from, to *pc) {
	w.t.Helper()
	if from == to || from.disk == nil {
		return
	}
	to.powerOff()
	to.disk = w.clone(from.disk)
	w.did("%s gets a copy of %s's disk, on %q", to, from, to.disk.serial)
	to.changed()
	w.boot(to)
}

// migrate copies the disk to a new one within a PC; the old one is thrown away.
func (w *world) migrate(p *pc) {
	w.t.Helper()
	if p.disk == nil {
		return
	}
	p.powerOff()
	p.disk = w.clone(p.disk)
	w.did("%s's disk is copied to a new one, %q, which takes its place", p, p.disk.serial)
	p.changed()
	w.boot(p)
}

// swapDisks exchanges the disks of two PCs.
func (w *world) swapDisks(p, q *pc) {
	w.t.Helper()
	if p == q {
		return
	}
	p.powerOff()
	q.powerOff()
	p.disk, q.disk = q.disk, p.disk
	w.did("%s and %s exchange disks", p, q)
	p.changed()
	q.changed()
	w.boot(p)
	w.boot(q)
}

// moveDisk puts a PC's disk into another one, whose own is thrown away, and is left without.
func (w *world) moveDisk(from, to *pc) {
	w.t.Helper()
	if from == to || from.disk == nil {
		return
	}
	from.powerOff()
	to.powerOff()
	from.disk, to.disk = nil, from.disk
	w.did("%s's disk is moved to %s", from, to)
	from.changed()
	to.changed()
	w.boot(to)
}

// otherSystem starts the other system of a PC, which is installed on a second disk if there is none yet.
func (w *world) otherSystem(p *pc) {
	w.t.Helper()
	p.powerOff()
	if p.second == nil {
		p.second = w.newDisk(p)
	}
	p.disk, p.second = p.second, p.disk
	w.did("%s starts its other system, on %s", p, p.disk.name)
	p.changed()
	w.boot(p)
}

// newBoardIn replaces the board by one from the factory.
func (w *world) newBoardIn(p *pc) {
	w.t.Helper()
	p.powerOff()
	p.board = w.newBoard()
	w.did("%s gets a new board: UUID %q, board %q, MAC %q", p, p.board.uuid, p.board.serial, p.board.mac)
	p.changed()
	w.boot(p)
}

// usedBoard puts the board of one PC, with what its memory holds, into another; the one it comes from gets a new one.
func (w *world) usedBoard(from, to *pc) {
	w.t.Helper()
	if from == to {
		return
	}
	from.powerOff()
	to.powerOff()
	to.board, from.board = from.board, w.newBoard()
	w.did("%s's board is put into %s, and a new one into %s: UUID %q, board %q, MAC %q", from, to, from, from.board.uuid, from.board.serial, from.board.mac)
	from.changed()
	to.changed()
	w.boot(from)
	w.boot(to)
}

// What happens to memory on the board, while the PC runs. The next check-in meets it.
func (w *world) memoryIs(p *pc, what string) {
	w.t.Helper()
	m := p.board.memory
	if m == nil {
		return
	}
	switch what {
	case "cleared":
		m.Blocks = [2][]byte{}
	case "corrupt":
		m.Blocks = [2][]byte{{0x13}, {0x14}}
	case "half corrupt":
		for i := range m.Blocks {
			if m.Blocks[i] != nil {
				m.Blocks[i] = append([]byte{0x13}, m.Blocks[i][1:]...)
				break
			}
		}
	case "unavailable":
		m.Err = fmt.Errorf("%w: no driver", hostid.ErrUnavailable)
	case "not initialized":
		m.Err = hostid.ErrNotInitialized
	case "answering":
		m.Err = nil
	}
	w.did("%s's memory is %s", p, what)
	p.changed()
}

func (w *world) resetUUID(p *pc, to string) {
	w.t.Helper()
	p.board.uuid = to
	w.did("a BIOS update resets %s's UUID to %q", p, to)
	p.stop()
}

func (w *world) newNIC(p *pc) {
	w.t.Helper()
	p.board.mac = w.fleet.mac(w)
	w.did("%s's MAC becomes %q", p, p.board.mac)
	p.stop()
}

// saveBackup keeps what is on the disk; restoreBackup brings it back, on the same disk or, after a failure, on a new one.
func (w *world) saveBackup(p *pc) {
	w.t.Helper()
	if p.disk == nil {
		return
	}
	if _, err := os.Stat(p.disk.folder); err != nil {
		return
	}
	w.disks++
	p.backup = filepath.Join(w.dir, fmt.Sprint("backup", w.disks))
	w.must(copyFolder(p.disk.folder, p.backup))
	w.did("%s is backed up", p)
}

func (w *world) restoreBackup(p *pc, newDisk bool) {
	w.t.Helper()
	if p.backup == "" || p.disk == nil {
		return
	}
	p.powerOff()
	if newDisk {
		p.disk = w.newDisk(p)
	}
	w.must(os.RemoveAll(p.disk.folder))
	w.must(os.CopyFS(p.disk.folder, os.DirFS(p.backup)))
	w.did("%s's backup is restored, new disk: %v", p, newDisk)
	p.changed()
	w.boot(p)
}

// hibernate lets the PC sleep; unseen means that none of its clocks knows, as in a virtual machine that was halted.
func (w *world) hibernate(p *pc, d time.Duration, unseen bool) {
	w.t.Helper()
	if !p.on {
		return
	}
	w.did("%s sleeps for %s, unseen: %v", p, d, unseen)
	p.on = false
	w.ended(p)
	p.answered = nil
	w.pass(d)
	p.on = true
	if unseen {
		p.unseen += d
	} else {
		p.asleep += d
	}
	w.checkIn(p)
}

// pass lets time pass; the PCs that are on go on checking in.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	for ; d >= interval; d -= interval {
		w.round()
	}
	w.now = w.now.Add(d)
}

// everybodyOff lets time pass in which all PCs are off.
func (w *world) everybodyOff(d time.Duration) {
	w.t.Helper()
	living := w.living()
	for _, p := range living {
		p.powerOff()
	}
	w.did("all PCs are off for %s", d)
	w.now = w.now.Add(d)
	for _, p := range living {
		w.boot(p)
	}
}

func (w *world) switchPower(p *pc) {
	w.t.Helper()
	if p.on {
		w.did("%s is switched off", p)
		p.powerOff()
		return
	}
	w.did("%s is switched on", p)
	w.boot(p)
}

func (w *world) networkOf(p *pc, n network) {
	w.did("%s's network: %s", p, []string{"works", "loses reports", "loses replies"}[n])
	p.network = n
}

// relayOff breaks the relay's way up. relayOn mends it: what was held comes, in that order or in another.
func (w *world) relayOff() {
	w.did("the relay is offline")
	w.offline = true
}

func (w *world) relayOn(reversed bool) {
	w.t.Helper()
	w.did("the relay is online and delivers %d reports, reversed: %v", len(w.held), reversed)
	w.offline = false
	held := w.held
	w.held = nil
	if reversed {
		slices.Reverse(held)
	}
	for _, r := range held {
		if _, err := w.deliver(r); err != nil {
			w.fail("a report that the relay held is refused: %v", err)
		}
	}
}

func (w *world) crashAt(p *pc, steps int) {
	w.did("%s's client ends at step %d", p, steps)
	p.crash = steps
}

func (w *world) skew(p *pc, d time.Duration) {
	w.did("%s's clock is wrong by %s", p, d)
	p.skew = d
}

// allAtOnce has every PC that is on check in at the same moment.
func (w *world) allAtOnce() {
	w.t.Helper()
	w.did("all PCs check in at once")
	var group sync.WaitGroup
	living := w.living()
	for _, p := range living {
		group.Go(p.once)
	}
	group.Wait()
	for _, p := range living {
		w.outcome(p)
	}
	w.check()
}

// anew starts the count of answered check-ins anew: somebody decided something.
func (w *world) anew() {
	w.decided++
	for _, p := range w.pcs {
		p.answered = nil
	}
}

// concerns are the host IDs that a conflict is about.
func concerns(c registry.Conflict) []hostid.ID {
	return slices.DeleteFunc([]hostid.ID{c.HostID, c.Other}, hostid.ID.IsZero)
}

// resolve has an operator decide a conflict.
func (w *world) resolve(c registry.Conflict, verb registry.Verb) (r registry.Resolution) {
	w.t.Helper()
	before := w.state()
	if _, err := w.reg.Preview(w.ctx, c.ID, verb); err != nil {
		w.fail("preview: %v", err)
	}
	w.same("a preview changed something", before, w.state())
	r, err := w.reg.Resolve(w.ctx, c.ID, verb, "operator")
	w.must(err)
	w.did("conflict %d (%s) is decided: %s, resolution %d", c.ID, c.Kind, verb, r.ID)
	if verb != registry.KeepBoth {
		w.said[r.ID] = concerns(c)
	}
	if len(c.Decided) == 0 || !c.Decided[len(c.Decided)-1].Undone.IsZero() {
		w.undoable[r.ID] = undoable{before, len(w.groupings())}
	}
	w.anew()
	return r
}

// undo has the operator take a resolution back.
func (w *world) undo(id int64) {
	w.t.Helper()
	u, whole := w.undoable[id]
	whole = whole && w.checkIns == u.before.checkIns && w.maintained == u.before.maintained && w.decided == u.before.decided+1
	was := w.groupings()
	w.must(w.reg.Undo(w.ctx, id, "operator"))
	w.did("resolution %d is undone", id)
	if whole {
		w.undoIsExact(id, u)
	} else if u.groupings > 0 || len(was) >= 0 {
		w.undoSeparates(id, u, was)
	}
	delete(w.said, id)
	delete(w.undoable, id)
	w.anew()
}

// open are the conflicts that somebody may decide, and resolutions those that may be undone.
func (w *world) open() []registry.Conflict {
	all, err := w.reg.Conflicts(w.ctx)
	w.must(err)
	return slices.DeleteFunc(all, func(c registry.Conflict) bool {
		return len(c.Verbs) == 0 || c.Status == registry.Ordered && !byRule(c)
	})
}

func byRule(c registry.Conflict) bool {
	for _, d := range slices.Backward(c.Decided) {
		if d.Undone.IsZero() {
			return len(d.Who) > 5 && d.Who[:5] == "rule "
		}
	}
	return true
}

func (w *world) resolutions() (all []int64) {
	open, err := w.reg.Conflicts(w.ctx)
	w.must(err)
	closed, err := w.reg.ClosedConflicts(w.ctx, 100)
	w.must(err)
	for _, c := range append(open, closed...) {
		for _, d := range c.Decided {
			if d.Undone.IsZero() {
				all = append(all, d.ID)
			}
		}
	}
	slices.Sort(all)
	return all
}

func (w *world) declare(kind, value string) {
	w.t.Helper()
	w.did("%s %q is declared a placeholder", kind, value)
	w.must(w.reg.AddPlaceholder(w.ctx, kind, value, "operator"))
	w.anew()
}

func (w *world) rule(name string, m registry.Mode) {
	w.t.Helper()
	w.did("rule %s: %s", name, m)
	w.decided++
	w.must(w.reg.SetRule(w.ctx, name, m, "operator"))
}

// heal mends everything that can be mended without anybody deciding anything.
func (w *world) heal() {
	w.t.Helper()
	w.did("everything is mended and switched on")
	for _, p := range w.pcs {
		p.network, p.crash = works, 0
		if p.board.memory != nil {
			p.board.memory.Err = nil
		}
	}
	if w.offline || len(w.held) > 0 {
		w.relayOn(false)
	}
	for _, p := range w.pcs {
		w.boot(p)
	}
}

// saveSnapshot keeps a running PC as it is, in the middle of its run; restoreSnapshot goes back to that.
func (w *world) saveSnapshot(p *pc) {
	if p.on && p.agent != nil {
		w.did("a snapshot of %s is made", p)
		p.snapshot = p.takeSnapshot()
	}
}

func (w *world) restoreSnapshot(p *pc) {
	w.t.Helper()
	if p.snapshot == nil || !p.resume(p.snapshot) {
		return
	}
	w.did("%s goes back to its snapshot", p)
	p.changed()
	w.checkIn(p)
	w.check()
}

// operator is who maintains assets.
var operator = registry.Actor{Who: "operator", Trigger: registry.ByCommand}

// refusedMaintenance reports that something cannot be done to an asset as it is, which is no fault.
func (w *world) refusedMaintenance(err error) bool {
	w.t.Helper()
	for _, known := range []error{registry.ErrState, registry.ErrSucceeded, registry.ErrUnknown, registry.ErrClash, registry.ErrNoDuplicate, registry.ErrManyOpen, registry.ErrVerb, registry.ErrResolved} {
		if errors.Is(err, known) {
			return true
		}
	}
	w.must(err)
	return false
}

// maintain does something to an asset, and takes it back at once: then nothing has changed. Only then it is done for good, if it is.
func (w *world) maintain(what string, lasting bool, do func() (registry.Maintenance, error), undo func(registry.Maintenance) (registry.Maintenance, error)) (m registry.Maintenance, before state, done bool) {
	w.t.Helper()
	before = w.state()
	m, err := do()
	if w.refusedMaintenance(err) {
		w.same(what+", refused, changed something", before, w.state())
		return m, before, false
	}
	w.did("%s, for good: %v", what, lasting)
	_, err = undo(m)
	w.must(err)
	w.same(what+" and taking it back changed something", before, w.state())
	if lasting {
		m, err = do()
		w.must(err)
		w.maintained++
	}
	return m, before, lasting
}

// deleteAsset deletes the asset of a PC; its next report takes that back.
func (w *world) deleteAsset(p *pc, lasting bool) {
	w.t.Helper()
	id := p.id
	byNumber := false
	m, before, done := w.maintain(fmt.Sprintf("deleting %s's asset", p), lasting, func() (registry.Maintenance, error) { return w.reg.Delete(w.ctx, id, operator) },
		func(m registry.Maintenance) (registry.Maintenance, error) {
			if byNumber = !byNumber; byNumber {
				return w.reg.RestoreDeletion(w.ctx, m.ID, operator)
			}
			return w.reg.Restore(w.ctx, id, operator)
		})
	if done {
		w.deleted[m.ID] = before
	}
	w.check()
}

// restoreDeletion takes back a deletion, if it is still in force: with nothing in between everything is as it was.
func (w *world) restoreDeletion(number int64) {
	w.t.Helper()
	before := w.deleted[number]
	delete(w.deleted, number)
	whole := before.checkIns == w.checkIns && before.maintained+1 == w.maintained && before.decided == w.decided
	_, err := w.reg.RestoreDeletion(w.ctx, number, operator)
	if w.refusedMaintenance(err) {
		return
	}
	w.maintained++
	w.did("deletion %d is taken back, with nothing in between: %v", number, whole)
	if whole {
		after := w.state()
		for _, s := range []state{before, after} { // but that time has passed
			for h, a := range s.assets {
				if a.State == registry.Live {
					a.State = registry.Silent
					s.assets[h] = a
				}
			}
		}
		w.same("restoring did not bring back what was deleted", before, after)
	}
	w.check()
}

// retire says that a PC leaves, or takes that back. Nothing else depends on it.
func (w *world) retire(p *pc, lasting bool) {
	w.t.Helper()
	a, err := w.reg.Asset(w.ctx, p.id)
	if err != nil {
		return
	}
	if a.State == registry.Retired {
		w.did("%s is retired no longer", p)
		_, err := w.reg.Unretire(w.ctx, p.id, operator)
		if !w.refusedMaintenance(err) {
			w.maintained++
		}
		w.check()
		return
	}
	id := p.id
	w.maintain(fmt.Sprintf("retiring %s", p), lasting, func() (registry.Maintenance, error) { return w.reg.Retire(w.ctx, id, operator) },
		func(registry.Maintenance) (registry.Maintenance, error) { return w.reg.Unretire(w.ctx, id, operator) })
	w.check()
}

// replace puts one PC in the place of another one. Both may go on.
func (w *world) replace(old, successor *pc, lasting bool) {
	w.t.Helper()
	from, to := old.id, successor.id
	events := len(w.groupings())
	m, _, done := w.maintain(fmt.Sprintf("%s taking the place of %s", successor, old), lasting, func() (registry.Maintenance, error) { return w.reg.Replace(w.ctx, from, to, operator) },
		func(registry.Maintenance) (registry.Maintenance, error) {
			return w.reg.UndoReplace(w.ctx, from, operator)
		})
	if done {
		w.succeeded[m.ID] = succession{m, events + 3} // done, undone, done
		w.anew()
	}
	w.check()
}

// undoReplace takes a replacement back: what it joined is two assets again, unless something else joined it since.
func (w *world) undoReplace(number int64) {
	w.t.Helper()
	s := w.succeeded[number]
	since := w.groupings()[s.groupings:]
	m, err := w.reg.UndoReplace(w.ctx, s.HostID, operator)
	if w.refusedMaintenance(err) { // it left the asset of its successor by another way
		delete(w.succeeded, number)
		return
	}
	w.did("replacement %d is taken back", m.ID)
	delete(w.succeeded, m.ID)
	w.maintained++
	w.replacementSeparates(m, since)
	assets := w.assets()
	for _, p := range w.pcs { // an operator says who is who
		if slices.Contains(assets[m.HostID], p.was) || slices.Contains(assets[m.Successor], p.was) {
			p.was = hostid.ID{}
		}
	}
	w.anew()
	w.check()
}

// archive takes what has long been silent out of sight; who reports comes back.
func (w *world) archive(days int) {
	w.t.Helper()
	due, err := w.reg.Archive(w.ctx, days, true, operator)
	w.must(err)
	if len(due.Assets) == 0 {
		return
	}
	before := w.state()
	done, err := w.reg.Archive(w.ctx, days, false, operator)
	w.must(err)
	w.did("%d assets, silent for %d days, are archived", len(done.Assets), days)
	if len(done.Assets) != len(due.Assets) {
		w.fail("%d assets were archived, and %d were said to be", len(done.Assets), len(due.Assets))
	}
	for _, a := range done.Assets {
		_, err := w.reg.Restore(w.ctx, a.HostID, operator)
		w.must(err)
	}
	w.same("archiving and taking it back changed something", before, w.state())
	_, err = w.reg.Archive(w.ctx, days, false, operator)
	w.must(err)
	w.maintained++
	w.check()
}

// duplicates are the pairs that somebody may decide about.
func (w *world) duplicates(by ...registry.Agreement) []registry.Duplicate {
	w.t.Helper()
	all, err := w.reg.Duplicates(w.ctx, by)
	w.must(err)
	return all
}

// decideDuplicate says of two assets that agree in something that they are one PC, or two.
func (w *world) decideDuplicate(d registry.Duplicate, verb registry.Verb) {
	w.t.Helper()
	before, events := w.state(), len(w.groupings())
	r, err := w.reg.DecideDuplicate(w.ctx, d.HostID, d.Other, verb, "operator")
	if w.refusedMaintenance(err) {
		return
	}
	w.did("%s and %s agree in %v: %s, resolution %d", d.HostID, d.Other, d.Values, verb, r.ID)
	if verb == registry.Merge {
		w.said[r.ID] = []hostid.ID{d.HostID, d.Other}
		if !slices.Contains(w.assets()[d.HostID], d.Other) {
			w.fail("%s and %s were merged, and are two assets", d.HostID, d.Other)
		}
	}
	w.undoable[r.ID] = undoable{before, events}
	w.anew()
	w.check()
	for _, again := range w.duplicates(d.By...) {
		if again.HostID == d.HostID && again.Other == d.Other {
			w.fail("%s and %s are proposed again", d.HostID, d.Other)
		}
	}
}
