package identity

import (
	"slices"
	"testing"
	"testing/cryptotest"

	"samehost/internal/registry"
)

// trace plays what the model found, or what the rules are about, and then lets everything settle: the invariants hold throughout.
func trace(t *testing.T, f fleet, play func(w *world)) {
	t.Helper()
	cryptotest.SetGlobalRandom(t, 1)
	w := newWorld(t, f)
	defer w.close()
	play(w)
	w.quiet()
}

// decidedLast is the resolution made last.
func (w *world) decidedLast() int64 {
	w.t.Helper()
	all := w.resolutions()
	if len(all) == 0 {
		w.fail("nothing was decided")
	}
	return all[len(all)-1]
}

// A copy took its own host ID by order, and lost its data folder, and with it the record that it would have to take back when the
// operator undid that. It said so, and was told again in every reply for ten days.
func TestUndoneForWhomNothingIsLeftToTakeBack(t *testing.T) {
	trace(t, marked, func(w *world) {
		a, b := w.install(), w.install()
		w.memoryIs(b, "cleared")
		w.copyDisk(a, b)
		w.pass(5 * interval)
		if a.id == b.id {
			w.fail("the copy was not told to take a host ID of its own")
		}
		w.reinstall(b)
		w.pass(4 * interval)
		w.undo(w.decidedLast())
		w.round()
		w.round()
		if open := w.open(); len(open) != 1 || open[0].Status != registry.Waiting {
			w.fail("the operator is not asked: %+v", open)
		}
	})
}

// A PC without memory got a copy of its disk in place of it, and later a new board. Its file knew neither, so it took itself for a
// copy, took a new host ID, and was another asset from then on, with nobody asked.
func TestDiskAndBoardReplacedOneAfterTheOther(t *testing.T) {
	f := good
	f.memory = withoutMemory
	trace(t, f, func(w *world) {
		p := w.install()
		w.pass(3 * interval)
		w.known()
		w.migrate(p)
		w.pass(3 * interval)
		was := p.id
		w.newBoardIn(p)
		w.round()
		open := w.open()
		if len(open) != 1 || open[0].HostID != p.id || open[0].Other != was {
			w.fail("the operator is not asked whether %s is %s: %+v", p.id, was, open)
		}
		r := w.resolve(open[0], registry.Merge)
		w.pass(2 * interval)
		if len(w.open()) != 0 || len(w.assets()[p.id]) != 2 {
			w.fail("merging came to %v", w.assets())
		}
		w.undo(r.ID)
		if len(w.assets()[p.id]) != 1 {
			w.fail("undoing came to %v", w.assets())
		}
	})
}

// As before, but the manager's replies were lost while the disk was new, so that it never knew it. Nothing but its data and its case
// said who the PC was.
func TestDiskAndBoardReplacedUnseen(t *testing.T) {
	f := good
	f.memory = withoutMemory
	trace(t, f, func(w *world) {
		w.install()
		p := w.install()
		w.pass(3 * interval)
		w.known()
		was := p.id
		w.networkOf(p, losesReplies)
		w.pass(3 * interval)
		w.migrate(p)
		w.newBoardIn(p)
		w.networkOf(p, works)
		w.pass(3 * interval)
		if open := w.open(); len(open) != 0 || p.id == was {
			w.fail("asked too early: %+v", open)
		}
		w.pass(3 * interval)
		open := w.open()
		if len(open) != 1 || open[0].HostID != p.id || open[0].Other != was {
			w.fail("the operator is not asked whether %s is %s: %+v", p.id, was, open)
		}
		r := w.resolve(open[0], registry.Merge)
		w.pass(2 * interval)
		if len(w.open()) != 0 || len(w.assets()[p.id]) != 2 {
			w.fail("merging came to %v", w.assets())
		}
		w.undo(r.ID)
		if len(w.assets()[p.id]) != 1 {
			w.fail("undoing came to %v", w.assets())
		}
		w.resolve(w.open()[0], registry.KeepBoth)
		w.pass(6 * interval)
		if open := w.open(); len(open) != 0 {
			w.fail("asked again: %+v", open)
		}
	})
}

// PCs are installed from the image of one that is no more. Where their cases are known nobody is asked; where nothing is, one of them
// asks for all, until the original is heard after all.
func TestImageOfAPCThatIsNoMore(t *testing.T) {
	for name, f := range map[string]fleet{"cases known": good, "cases unknown": caseless} {
		t.Run(name, func(t *testing.T) {
			f.memory = withoutMemory
			trace(t, f, func(w *world) {
				image := w.install()
				w.pass(3 * interval)
				was := image.id
				w.switchPower(image)
				var copies []*pc
				for range 5 {
					p := w.install()
					w.switchPower(p)
					copies = append(copies, p)
				}
				for _, p := range copies {
					w.copyDisk(image, p)
				}
				w.pass(8 * interval)
				asked := func() []registry.Conflict { // of their former assets, too
					return slices.DeleteFunc(w.open(), func(c registry.Conflict) bool { return c.Kind != "observed" })
				}
				open := asked()
				if f.name == good.name {
					if len(open) != 0 {
						w.fail("asked about %+v", open)
					}
					return
				}
				if len(open) != 1 || open[0].Other != was {
					w.fail("asked about %+v", open)
				}
				w.switchPower(image)
				w.round()
				if open := asked(); len(open) != 0 {
					w.fail("asked although the original was heard: %+v", open)
				}
			})
		})
	}
}

// Two PCs shared an asset, and an operator was asked. He deleted the asset instead, which parks the question; with the first report of
// either it is asked again.
func TestSharedAssetDeleted(t *testing.T) {
	trace(t, marked, func(w *world) {
		a, b := w.install(), w.install()
		w.memoryIs(b, "not initialized")
		w.usedBoard(b, a)
		w.usedBoard(b, a)
		w.pass(3 * interval)
		asked := w.open()
		if a.id != b.id || len(asked) == 0 {
			w.fail("%s and %s, and %d conflicts", a.id, b.id, len(asked))
		}
		w.deleteAsset(a, true)
		if open := w.open(); len(open) != 0 {
			w.fail("asked about a deleted asset: %+v", open)
		}
		w.checkIn(b)
		again := w.open()
		if len(again) != len(asked) || again[0].ID != asked[0].ID {
			w.fail("asked %+v before, and %+v now", asked, again)
		}
	})
}
