package identity

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"samehost/internal/registry"
)

// steps is how many steps the model takes in all; make soak raises it. A step is one thing that happens, or one check-in.
var steps = flag.Int64("steps", envSteps(), "how many steps the model takes (also SAMEHOST_MODEL_STEPS)")

func envSteps() int64 {
	if n, err := strconv.ParseInt(os.Getenv("SAMEHOST_MODEL_STEPS"), 10, 64); err == nil {
		return n
	}
	return 100_000
}

type counts struct{ worlds, events, checkIns atomic.Int64 }

var taken counts

func TestMain(m *testing.M) {
	flag.Parse()
	began := time.Now()
	code := m.Run()
	n := taken.events.Load() + taken.checkIns.Load()
	d := time.Since(began)
	fmt.Printf("model: %d steps (%d events, %d check-ins) in %d worlds, %.0f steps per second\n",
		n, taken.events.Load(), taken.checkIns.Load(), taken.worlds.Load(), float64(n)/d.Seconds())
	os.Exit(code)
}

// events are what may happen, with everything that is to be chosen drawn from t.
func (w *world) events() map[string]func(*rapid.T) {
	pick := func(t *rapid.T, label string) *pc { return w.pcs[rapid.IntRange(0, len(w.pcs)-1).Draw(t, label)] }
	on := func(f func(p *pc)) func(*rapid.T) { return func(t *rapid.T) { f(pick(t, "PC")) } }
	two := func(f func(p, q *pc)) func(*rapid.T) { return func(t *rapid.T) { f(pick(t, "PC"), pick(t, "other")) } }
	mem := func(what string) func(*rapid.T) { return on(func(p *pc) { w.memoryIs(p, what) }) }
	return map[string]func(*rapid.T){
		"install": func(t *rapid.T) {
			if len(w.pcs) < 20 {
				w.install()
			}
		},
		"round":    func(*rapid.T) { w.did("an interval passes"); w.round() },
		"3 rounds": func(*rapid.T) { w.did("three intervals pass"); w.pass(3 * interval) },
		"minutes": func(t *rapid.T) {
			d := time.Duration(rapid.IntRange(1, 14).Draw(t, "minutes")) * time.Minute
			w.did("%s pass", d)
			w.now = w.now.Add(d)
		},
		"check in": on(func(p *pc) {
			if p.on {
				w.did("%s checks in", p)
				w.checkIn(p)
				w.check()
			}
		}),
		"weekend":         func(*rapid.T) { w.everybodyOff(60 * time.Hour) },
		"quiet":           func(*rapid.T) { w.quiet() },
		"known":           func(*rapid.T) { w.known() },
		"power":           on(w.switchPower),
		"reinstall":       on(w.reinstall),
		"new disk":        on(w.newDiskIn),
		"copy of a disk":  two(w.copyDisk),
		"migration":       on(w.migrate),
		"disks swapped":   two(w.swapDisks),
		"disk moved":      two(w.moveDisk),
		"other system":    on(w.otherSystem),
		"new board":       on(w.newBoardIn),
		"used board":      two(w.usedBoard),
		"cleared":         mem("cleared"),
		"corrupt":         mem("corrupt"),
		"half corrupt":    mem("half corrupt"),
		"unavailable":     mem("unavailable"),
		"not initialized": mem("not initialized"),
		"answering":       mem("answering"),
		"answering again": mem("answering"),
		"UUID reset": func(t *rapid.T) {
			p := pick(t, "PC")
			to := rapid.SampledFrom([]string{"", noUUID, modelUUID, "new"}).Draw(t, "to")
			if to == "new" {
				to = ownUUID(w)
			}
			w.resetUUID(p, to)
		},
		"new NIC": on(w.newNIC),
		"backup":  on(w.saveBackup),
		"restore": func(t *rapid.T) { w.restoreBackup(pick(t, "PC"), rapid.Bool().Draw(t, "new disk")) },
		"hibernate": func(t *rapid.T) {
			w.hibernate(pick(t, "PC"), time.Duration(rapid.IntRange(1, 90).Draw(t, "minutes"))*time.Minute, rapid.Bool().Draw(t, "unseen"))
		},
		"clock": func(t *rapid.T) {
			w.skew(pick(t, "PC"), time.Duration(rapid.IntRange(-40, 40).Draw(t, "months"))*30*24*time.Hour)
		},
		"network": func(t *rapid.T) {
			w.networkOf(pick(t, "PC"), rapid.SampledFrom([]network{works, losesReports, losesReplies}).Draw(t, "network"))
		},
		"network mended": on(func(p *pc) { w.networkOf(p, works) }),
		"relay": func(t *rapid.T) {
			if w.offline {
				w.relayOn(rapid.Bool().Draw(t, "reversed"))
			} else {
				w.relayOff()
			}
		},
		"crash": func(t *rapid.T) {
			p := pick(t, "PC")
			w.crashAt(p, rapid.IntRange(1, 14).Draw(t, "steps"))
			if p.on {
				w.checkIn(p)
			}
		},
		"at once": func(*rapid.T) { w.allAtOnce() },
		"decide": func(t *rapid.T) {
			open := w.open()
			if len(open) == 0 {
				return
			}
			c := open[rapid.IntRange(0, len(open)-1).Draw(t, "conflict")]
			r := w.resolve(c, rapid.SampledFrom(c.Verbs).Draw(t, "verb"))
			if rapid.IntRange(0, 3).Draw(t, "undone at once") == 0 {
				w.undo(r.ID)
			}
		},
		"undo": func(t *rapid.T) {
			if all := w.resolutions(); len(all) > 0 {
				w.undo(all[rapid.IntRange(0, len(all)-1).Draw(t, "resolution")])
			}
		},
		"placeholder": func(t *rapid.T) {
			all, err := w.reg.SuggestPlaceholders(w.ctx)
			w.must(err)
			if len(all) > 0 {
				s := all[rapid.IntRange(0, len(all)-1).Draw(t, "value")]
				w.declare(s.Kind, s.Value)
			}
		},
		"rule": func(t *rapid.T) {
			w.rule(rapid.SampledFrom([]string{"other-board", "same-board", "replacement"}).Draw(t, "rule"),
				rapid.SampledFrom([]registry.Mode{registry.Off, registry.Observe, registry.Enforce}).Draw(t, "mode"))
		},
	}
}

// run lets random things happen in one world.
func run(t *rapid.T, f fleet) {
	f.memory = rapid.SampledFrom([]func(*world) bool{withMemory, withMemory, halfMemory, withoutMemory}).Draw(t, "memory")
	w := newWorld(t, f)
	defer w.close()
	defer func() { taken.worlds.Add(1); taken.checkIns.Add(int64(w.checkIns)) }()
	n := rapid.SampledFrom([]int{1, 2, 2, 2, 3, 3, 4, 5, 8, 20}).Draw(t, "PCs")
	behind := rapid.IntRange(0, 2).Draw(t, "behind a relay")
	for i := range n {
		p := w.install()
		p.behind = behind > 0 && i%3 < behind
	}
	events := w.events()
	for _, f := range events {
		_ = f
	}
	for name, f := range events {
		events[name] = func(t *rapid.T) { taken.events.Add(1); f(t) }
	}
	t.Repeat(events)
	w.quiet()
}

func TestModel(t *testing.T) {
	for _, f := range fleets {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) { run(t, f) })
		})
	}
}
