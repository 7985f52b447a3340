package identity

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"testing/cryptotest"
	"time"

	"pgregory.net/rapid"

	"samehost/internal/registry"
)

// A step is one thing that happens, or one check-in.
var (
	steps    = flag.Int64("steps", 100_000, "how many steps the model takes in all")
	fleetArg = flag.String("fleet", "", "the one fleet to run, in this process")
	fixed    = uint64(20261123) // the seed of make test, so that it does the same every day; make soak takes another
)

// A test that is one of the model's is to be deterministic, so the randomness of the whole process is the trace's: keys, host IDs.
// So each fleet has a process of its own.
func TestModel(t *testing.T) {
	if *fleetArg != "" {
		for _, f := range fleets {
			if f.name == *fleetArg {
				runFleet(t, f)
			}
		}
		return
	}
	seed := fixed
	if f := flag.Lookup("rapid.seed"); f.Value.String() != "0" {
		seed, _ = strconv.ParseUint(f.Value.String(), 10, 64)
	}
	for i, f := range fleets {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			seed := seed + uint64(i)
			args := []string{"-test.run=^TestModel$", "-test.v", "-test.timeout=0", "-fleet=" + f.name, fmt.Sprint("-steps=", *steps/int64(len(fleets))),
				fmt.Sprint("-rapid.seed=", seed), "-rapid.nofailfile", "-rapid.shrinktime=" + flag.Lookup("rapid.shrinktime").Value.String()}
			out, err := exec.CommandContext(t.Context(), os.Args[0], args...).CombinedOutput()
			if err != nil {
				t.Errorf("seed %d; again with: go test ./test/identity -fleet=%q -rapid.seed=%d -steps=%d\n%s", seed, f.name, seed, *steps/int64(len(fleets)), out)
				return
			}
			t.Logf("%s", out)
		})
	}
}

// runFleet takes the steps of one fleet, in worlds of its own.
func runFleet(t *testing.T, f fleet) {
	var worlds, events, checkIns int64
	began, failing := time.Now(), false
	kinds := map[string]int{}
	base, err := strconv.ParseUint(flag.Lookup("rapid.seed").Value.String(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	flag.Set("rapid.checks", "50")
	for batch := uint64(0); events+checkIns < *steps && !failing; batch++ {
		// Distinct from those of the batch before: rapid adds the number of the check to it.
		flag.Set("rapid.seed", fmt.Sprint(base+batch*1_000_003))
		rapid.Check(t, func(rt *rapid.T) {
			if events+checkIns >= *steps && !failing {
				return
			}
			cryptotest.SetGlobalRandom(t, rapid.Uint64().Draw(rt, "randomness"))
			w := newWorld(rt, f)
			w.failed = func() { failing = true }
			defer func() {
				worlds++
				checkIns += int64(w.checkIns)
				for _, e := range w.history {
					kinds[e.Kind]++
				}
				w.close()
			}()
			w.live(rt, func() { events++ })
		})
	}
	d := time.Since(began)
	t.Logf("fleet of %s, seed %d: %d steps (%d events, %d check-ins) in %d worlds, %.0f steps per second", f.name, base,
		events+checkIns, events, checkIns, worlds, float64(events+checkIns)/d.Seconds())
	t.Logf("history: %v", kinds)
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
		"known":           func(*rapid.T) { w.did("it is noted who is who"); w.known() },
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
		"new NIC":          on(w.newNIC),
		"backup":           on(w.saveBackup),
		"restore":          func(t *rapid.T) { w.restoreBackup(pick(t, "PC"), rapid.Bool().Draw(t, "new disk")) },
		"snapshot":         on(w.saveSnapshot),
		"snapshot resumed": on(w.restoreSnapshot),
		"delete":           func(t *rapid.T) { w.deleteAsset(pick(t, "PC"), rapid.Bool().Draw(t, "for good")) },
		"restore deleted": func(t *rapid.T) {
			if all := slices.Sorted(maps.Keys(w.deleted)); len(all) > 0 {
				w.restoreDeletion(rapid.SampledFrom(all).Draw(t, "deletion"))
			}
		},
		"retire": func(t *rapid.T) { w.retire(pick(t, "PC"), rapid.Bool().Draw(t, "for good")) },
		"replace": func(t *rapid.T) {
			w.replace(pick(t, "PC"), pick(t, "other"), rapid.Bool().Draw(t, "for good"))
		},
		"replace undone": func(t *rapid.T) {
			if all := slices.Sorted(maps.Keys(w.succeeded)); len(all) > 0 {
				w.undoReplace(rapid.SampledFrom(all).Draw(t, "replacement"))
			}
		},
		"archive": func(t *rapid.T) { w.archive(rapid.IntRange(1, 4).Draw(t, "days")) },
		"duplicate": func(t *rapid.T) {
			by := rapid.SampledFrom([][]registry.Agreement{{registry.InName}, {registry.InMAC}, {registry.InMAC, registry.InIP, registry.InName}}).Draw(t, "by")
			if all := w.duplicates(by...); len(all) > 0 {
				d := all[rapid.IntRange(0, len(all)-1).Draw(t, "pair")]
				w.decideDuplicate(d, rapid.SampledFrom([]registry.Verb{registry.Merge, registry.KeepBoth}).Draw(t, "verb"))
			}
		},
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

// live lets random things happen.
func (w *world) live(t *rapid.T, happens func()) {
	w.fleet.memory = rapid.SampledFrom([]func(*world) bool{withMemory, withMemory, halfMemory, withoutMemory}).Draw(t, "memory")
	n := rapid.SampledFrom([]int{1, 2, 2, 2, 3, 3, 4, 5, 8, 20}).Draw(t, "PCs")
	behind := rapid.IntRange(0, 2).Draw(t, "behind a relay")
	for i := range n {
		w.install().behind = i%3 < behind
	}
	events := w.events()
	for name, f := range events {
		events[name] = func(t *rapid.T) { happens(); f(t) }
	}
	t.Repeat(events)
	w.quiet()
}
