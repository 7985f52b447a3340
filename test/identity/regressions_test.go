package identity

import (
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
