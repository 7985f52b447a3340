package identity

import (
	"fmt"
	"strings"
	"testing"
	"testing/cryptotest"

	"samehost/internal/hostid"
	"samehost/internal/registry"
)

// redness takes the place of a test, and keeps what it failed with.
type redness struct{ *testing.T }

type red string

func (redness) Fatalf(format string, args ...any) { panic(red(fmt.Sprintf(format, args...))) }

// An invariant that cannot fail promises nothing: each one is given a world in which it does not hold.
func TestEveryInvariantCanFail(t *testing.T) {
	for says, breaks := range map[string]func(w *world){
		"nobody is asked": func(w *world) { // two PCs of which the model is told that they are one
			a, b := w.install(), w.install()
			w.pass(3 * interval)
			b.id = a.id
			w.nobodyShares(w.assets())
		},
		"leads to no asset": func(w *world) {
			w.install()
			w.spoken[hostid.NewID()] = true
			w.check()
		},
		"which no other PC had": func(w *world) { // a copy that is rightly ordered away, but of which the books say nothing
			a, b := w.install(), w.install()
			w.memoryIs(b, "cleared")
			w.copyDisk(a, b)
			for a.id == b.id {
				w.stays = nil
				w.round()
			}
			w.judged, w.stays = map[string]bool{}, nil
			w.check()
		},
		"of the history was changed": func(w *world) {
			w.install()
			w.historyStays()
			w.history[0].Kind = "another"
			w.historyStays()
		},
		"the history had": func(w *world) {
			w.install()
			w.historyStays()
			w.history = append(w.history, w.history[0])
			w.historyStays()
		},
		"and nobody was asked": func(w *world) {
			a, b := w.install(), w.install()
			a.was, a.wasSince = b.id, w.now
			w.survivorsStay()
		},
		"is still written": func(w *world) {
			a := w.install()
			w.quiet()
			before := w.written()
			a.board.memory.Writes++
			w.nothingRepeats(before, w.orders())
		},
		"orders and are": func(w *world) {
			w.install()
			w.quiet()
			w.nothingRepeats(w.written(), w.orders()+1)
		},
		"did not restore what was": func(w *world) {
			a := w.install()
			before := w.state()
			w.newNIC(a)
			w.round()
			w.undoIsExact(1, undoable{before: before})
		},
		"before it: true": func(w *world) {
			a, b := w.install(), w.install()
			before := w.state()
			one := before.assets[a.id]
			one.HostIDs = append(one.HostIDs, b.id)
			before.assets[a.id] = one
			w.undoSeparates(1, undoable{before: before}, nil)
		},
		"its asset is gone": func(w *world) { // the books have it that the deletion was made before the last report
			a := w.install()
			w.deleteAsset(a, true)
			w.now = w.now.Add(interval)
			a.answered = append(a.answered, w.now)
			w.check()
		},
		"deletions in the history and are": func(w *world) {
			a := w.install()
			w.deleteAsset(a, true)
			w.historyStays()
			w.deletions = append(w.deletions, w.deletions[0])
			w.historyStays()
		},
		"was changed": func(w *world) {
			a := w.install()
			w.deleteAsset(a, true)
			w.historyStays()
			w.deletions[0].Name = "another"
			w.historyStays()
		},
		"and taking it back changed something": func(w *world) { // what is taken back leaves a trace
			a := w.install()
			w.maintain("renaming", false, func() (registry.Maintenance, error) { return w.reg.Retire(w.ctx, a.id, operator) },
				func(m registry.Maintenance) (registry.Maintenance, error) { return m, nil })
		},
		"did not bring back what was deleted": func(w *world) {
			a, b := w.install(), w.install()
			w.deleteAsset(a, true)
			_, err := w.reg.Retire(w.ctx, b.id, operator)
			w.must(err)
			w.restoreDeletion(2) // the first one was taken back at once
		},
		"are one asset still": func(w *world) {
			a, b := w.install(), w.install()
			w.replace(a, b, true)
			w.replacementSeparates(w.succeeded[2].Maintenance, nil) // though nobody took it back
		},
		"refused service": func(w *world) {
			a := w.install()
			a.refused("for once")
			w.round()
		},
	} {
		t.Run(says, func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, 1)
			w := newWorld(redness{t}, marked)
			defer w.close()
			defer func() {
				switch r := recover().(type) {
				case nil:
					t.Error("it holds where it cannot")
				case red:
					if line, _, _ := strings.Cut(string(r), "\nafter:"); !strings.Contains(line, says) {
						t.Errorf("it failed otherwise: %s", line)
					}
				default:
					panic(r)
				}
			}()
			breaks(w)
		})
	}
}
