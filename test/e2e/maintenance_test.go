package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/test/play"
)

// lines runs a samehost-manager command with --json and returns what its lines say.
func (w *world) lines(args ...string) (list []object) {
	w.t.Helper()
	r, err := w.manager.Command(append(args, "--json")...)
	w.must(err)
	for line := range strings.Lines(r.Stdout) {
		var o object
		w.must(json.Unmarshal([]byte(line), &o))
		list = append(list, o)
	}
	return list
}

// identity is what deciding, deleting and retiring may change of an asset, and taking them back must restore: everything but what
// check-ins change.
func (w *world) identity(hostID string) string {
	w.t.Helper()
	a := w.lines("asset", hostID)[0]
	for _, name := range []string{"last_checkin", "last_report", "history", "orders"} {
		delete(a, name)
	}
	for _, h := range a["hosts"].([]any) {
		for _, name := range []string{"last_checkin", "epochs", "branches"} {
			delete(h.(map[string]any), name)
		}
	}
	for _, c := range a["open_conflicts"].([]any) { // what was decided and undone stays told, and who took whose host ID
		for _, name := range []string{"resolutions", "proposal", "copies"} {
			delete(c.(map[string]any), name)
		}
	}
	b, err := json.MarshalIndent(a, "", " ")
	w.must(err)
	return string(b)
}

// same checks that an asset is what it was.
func (w *world) same(what, hostID, was string) {
	w.t.Helper()
	if d := cmp.Diff(strings.Split(was, "\n"), strings.Split(w.identity(hostID), "\n")); d != "" {
		w.t.Errorf("%s: asset %s (-was +is):\n%s", what, hostID, d)
	}
}

func (w *world) manage(args ...string) {
	w.t.Helper()
	_, err := w.manager.Command(args...)
	w.must(err)
}

// history checks which events of these kinds the history of an asset has, in that order.
func (w *world) history(hostID string, kinds string, want ...string) {
	w.t.Helper()
	var got []string
	for _, e := range w.lines("history", hostID) {
		if kind := e["kind"].(string); slices.Contains(strings.Fields(kinds), kind) {
			got = append(got, kind)
		}
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("history of %s: %q, want %q", hostID, got, want)
	}
}

// Undoing restores exactly what was, whatever the PCs reported since, and the PCs carry it out.
func TestUndo(t *testing.T) {
	for name, play := range map[string]func(t *testing.T, w *world){
		"merge of two host IDs": func(t *testing.T, w *world) {
			pc := w.pc(1)
			pc.Firmware = 0
			w.must(pc.Configure())
			old := w.install(pc).HostID
			w.pass(time.Hour)
			w.must(pc.Format())
			renewed := w.install(pc).HostID
			w.checkIn(pc)
			c := w.open("same-board")[0]
			wasOld, wasRenewed := w.identity(old), w.identity(renewed)
			w.resolve(c, "merge")
			for range 5 {
				w.checkIn(pc)
				w.pass(15 * time.Minute)
			}
			w.open()
			w.assets([]string{old, renewed})
			w.manage("conflicts", "undo", fmt.Sprint(c.ID))
			w.assets([]string{old}, []string{renewed})
			w.checkIn(pc)
			w.checkIn(pc)
			if again := w.open("same-board")[0]; again.ID != c.ID || again.Status != "open" || again.fields() != c.fields() {
				t.Errorf("conflict %+v, was %+v", again, c)
			}
			w.same("undone", old, wasOld)
			w.same("undone", renewed, wasRenewed)
			// The other answer, after that.
			w.resolve(c, "keep-both")
			w.checkIn(pc)
			w.checkIn(pc)
			w.open()
			w.assets([]string{old}, []string{renewed})
			w.history(renewed, "resolved undone conflict-closed conflict-reopened",
				"resolved", "conflict-closed", "undone", "conflict-reopened", "resolved", "conflict-closed")
		},
		"a new board that was confirmed": func(t *testing.T, w *world) {
			pc, spare := w.pc(1), w.pc(2)
			id := w.enrol(pc)
			w.pass(time.Hour)
			swapBoard(w, pc, spare)
			w.initialize(2)
			w.checkIn(pc)
			c := w.open("other-board")[0]
			was := w.identity(id)
			w.resolve(c, "merge")
			for range 5 {
				w.checkIn(pc)
				w.pass(15 * time.Minute)
			}
			w.open()
			w.board(id, pc)
			w.manage("conflicts", "undo", fmt.Sprint(c.ID))
			w.same("undone", id, was)
			w.checkIn(pc)
			if again := w.open("other-board")[0]; again.ID != c.ID || again.Status != "open" {
				t.Errorf("conflict %+v, was %+v", again, c)
			}
			if got := w.status(pc).HostID; got != id {
				t.Errorf("took the host ID %s", got)
			}
			w.same("undone, and checked in", id, was)
			w.resolve(c, "merge")
			w.checkIn(pc)
			w.checkIn(pc)
			w.open()
			w.board(id, pc)
			w.want(w.status(pc), id, "", "stored")
		},
		"a host ID of its own": func(t *testing.T, w *world) {
			pc, spare := w.pc(1), w.pc(2)
			id := w.enrol(pc)
			w.pass(time.Hour)
			swapBoard(w, pc, spare)
			w.initialize(2)
			w.checkIn(pc)
			c := w.open("other-board")[0]
			was := w.identity(id)
			w.resolve(c, "keep-both")
			var own string
			for range 5 {
				own = w.speaks(pc)
				w.pass(15 * time.Minute)
			}
			if own == id {
				t.Fatal("it was ordered to take a host ID of its own, and has not")
			}
			w.want(w.status(pc), own, "", "stored")
			w.open()
			w.assets([]string{id}, []string{own})
			w.manage("conflicts", "undo", fmt.Sprint(c.ID))
			w.checkIn(pc) // is told to take it back
			w.checkIn(pc) // acknowledges
			if got := w.speaks(pc); got != id {
				t.Fatalf("has the host ID %s and not %s, which it had to take back", got, id)
			}
			if again := w.open("other-board")[0]; again.Status != "open" {
				t.Errorf("conflict %+v", again)
			}
			w.same("undone", id, was)
			w.assets([]string{id}, []string{own})
		},
	} {
		t.Run(name, func(t *testing.T) { play(t, clockedWorld(t, 2)) })
	}
}

// A rule that may decide does so by itself, says why in the history, and an operator takes it back.
func TestRulesDecide(t *testing.T) {
	for rule, test := range map[string]struct {
		kind string
		play func(t *testing.T, w *world) (id, other string, last *play.PC)
		why  string
	}{
		"same-board": {"same-board", func(t *testing.T, w *world) (string, string, *play.PC) {
			pc := w.pc(1)
			pc.Firmware = 0
			w.must(pc.Configure())
			old := w.install(pc).HostID
			w.pass(time.Hour)
			w.must(pc.Format())
			return w.install(pc).HostID, old, pc
		}, "same-board-sure"},
		"other-board": {"other-board", func(t *testing.T, w *world) (string, string, *play.PC) {
			pc, spare := w.pc(1), w.pc(2)
			id := w.enrol(pc)
			w.pass(time.Hour)
			swapBoard(w, pc, spare)
			w.initialize(2)
			w.checkIn(pc)
			return id, id, pc
		}, "other-board-sure"},
	} {
		for _, mode := range []string{"off", "observe", "enforce"} {
			t.Run(rule+" "+mode, func(t *testing.T) {
				w := clockedWorld(t, 2)
				w.manage("rules", "set", rule, mode)
				id, other, pc := test.play(t, w)
				const kinds = "rule-would rule-would-not rule-decided resolved undone conflict-closed conflict-reopened"
				if mode != "enforce" {
					w.checkIn(pc)
					w.checkIn(pc)
					w.open(test.kind)
					want := []string{"rule-would"}
					if mode == "off" {
						want = nil
					}
					w.history(id, kinds, want...)
					return
				}
				w.checkIn(pc)
				w.checkIn(pc)
				w.open()
				closed := w.conflicts("--closed")
				if len(closed) != 1 || len(closed[0].Decided) != 1 || closed[0].Decided[0].Verb != "merge" || closed[0].Decided[0].Who != "rule "+rule {
					t.Fatalf("closed %+v", closed)
				}
				w.history(id, kinds, "rule-decided", "conflict-closed")
				for _, e := range w.lines("history", id, "--lang", "ja") {
					if e["kind"] != "rule-decided" {
						continue
					}
					evidence := e["evidence"].(map[string]any)
					if evidence["rule"] != rule || evidence["verb"] != "merge" || evidence["why"] != test.why || !strings.Contains(e["sentence"].(string), "規則 "+rule) {
						t.Errorf("history: %v", e)
					}
				}
				if other != id {
					w.assets([]string{id, other})
				} else {
					w.board(id, pc)
				}
				w.manage("conflicts", "undo", fmt.Sprint(closed[0].ID))
				for range 3 { // and no rule decides what an operator took back
					w.checkIn(pc)
				}
				if c := w.open(test.kind)[0]; c.ID != closed[0].ID || c.Status != "open" {
					t.Errorf("undone: %+v", c)
				}
				if other != id {
					w.assets([]string{id}, []string{other})
				}
				w.history(id, kinds, "rule-decided", "conflict-closed", "undone", "conflict-reopened")
			})
		}
	}
}

// Deleting takes an asset out of sight and erases nothing; restoring brings back everything, also what was reported meanwhile.
func TestDeleteAndRestore(t *testing.T) {
	w := clockedWorld(t, 2)
	pc, other := w.pc(1), w.pc(2)
	id, others := w.enrol(pc), w.enrol(other)
	w.pass(time.Hour)
	swapBoard(w, pc, w.pc(3)) // a question about it is open
	w.hardware(pc)
	pc.Firmware = 0
	w.must(pc.Configure())
	w.checkIn(pc)
	c := w.open("other-board")[0]
	was := w.identity(id)

	// Restored by an operator before the PC reports: as if nothing had been.
	w.manage("delete", id)
	w.assets([]string{others})
	w.open()
	if status := w.lines("conflicts", "show", fmt.Sprint(c.ID))[0]["status"]; status != "parked" {
		t.Errorf("the conflict of a deleted asset is %v, want parked", status)
	}
	w.checkIn(other)
	w.manage("restore", "1")
	w.same("restored", id, was)
	if again := w.open("other-board")[0]; again.ID != c.ID || again.fields() != c.fields() {
		t.Errorf("conflict %+v, was %+v", again, c)
	}

	// Restored by its PC's own report; it keeps its host ID, and its question.
	w.manage("delete", id)
	w.assets([]string{others})
	w.pass(time.Hour)
	w.checkIn(other)
	if got := w.speaks(pc); got != id {
		t.Fatalf("took the host ID %s", got)
	}
	w.assets([]string{id}, []string{others})
	w.same("restored by its check-in", id, was)
	w.resolve(w.open("other-board")[0], "merge")
	w.checkIn(pc)
	w.checkIn(pc)
	w.open()
	w.board(id, pc)
	w.history(id, "deleted restored came-back resolved conflict-closed", "deleted", "restored", "deleted", "came-back", "resolved", "conflict-closed")
	deletions := w.lines("deletions")
	var ended []any
	for _, d := range deletions {
		ended = append(ended, d["ended_trigger"])
	}
	if fmt.Sprint(ended) != "[command check-in]" {
		t.Errorf("deletions %v", deletions)
	}

	// Deleted while the disk fails: the reinstalled PC restores its host ID from memory, and with it the asset.
	w.manage("delete", others)
	w.assets([]string{id})
	w.fail(other)
	w.want(w.install(other), others, "restored", "stored")
	w.assets([]string{id}, []string{others})
	w.history(others, "deleted restored came-back", "deleted", "came-back")
}

// retire --clear-amt removes our application from the PC's AMT, and nothing else; a client that is installed there afterwards finds
// no host ID.
func TestRetireClearsAMT(t *testing.T) {
	w := clockedWorld(t, 2)
	pc, bystander := w.pc(1), w.pc(2)
	for i, p := range []*play.PC{pc, bystander} {
		p.Hardware.SystemUUID = w.systemUUID(i + 1)
		w.hardware(p)
	}
	w.stage.Env = append(w.stage.Env, "E2E_ADDRESS="+w.stage.NetworkAddress(2))
	others := w.enrol(bystander)
	w.stage.Env[len(w.stage.Env)-1] = "E2E_ADDRESS=" + w.stage.NetworkAddress(1)
	id := w.enrol(pc)
	vault := []byte("what another program keeps here")
	w.must(w.firmware.RegisterOther(1, "Contoso", "Vault", "samehost", vault)) // under the very enterprise that is ours
	before, err := w.firmware.Device(1)
	w.must(err)
	if len(before.Applications) != 2 || before.Applications[0].Vendor == "Contoso" {
		t.Fatalf("applications %+v", before.Applications)
	}
	theirs := before.Applications[1]
	neighbour, err := w.firmware.Device(2)
	w.must(err)

	// untouched checks that what belongs to the other program is what it was, and returns the applications that are there.
	untouched := func() (names []string) {
		t.Helper()
		d, err := w.firmware.Device(1)
		w.must(err)
		for _, a := range d.Applications {
			names = append(names, a.Vendor)
		}
		if !slices.Contains(d.Applications, theirs) {
			t.Errorf("applications %+v, without %+v", d.Applications, theirs)
		}
		blocks := 0
		for _, b := range d.Blocks {
			if b.Owner == theirs.Handle {
				blocks++
				if !strings.HasPrefix(string(b.Data), string(vault)) {
					t.Errorf("the other program's block holds %.60q", b.Data)
				}
			}
		}
		if blocks != 1 || len(d.Blocks) != 1 && len(names) == 1 {
			t.Errorf("%d blocks, %d of them the other program's", len(d.Blocks), blocks)
		}
		return names
	}

	// A failure leaves everything as it was.
	w.must(w.firmware.Faults(1, `{"password": "Another1!"}`))
	r, err := w.stage.Run("samehost-manager", "retire", id, "--clear-amt", "--config", w.manager.Config)
	w.must(err)
	if r.Code != 1 || strings.Contains(r.Stderr, play.Password) {
		t.Errorf("exit code %d, %q", r.Code, r.Stderr)
	}
	w.must(w.firmware.Faults(1, `{}`))
	w.assets([]string{id}, []string{others})
	if got := untouched(); len(got) != 2 {
		t.Errorf("applications %q after a failure", got)
	}

	r, err = pc.Command("uninstall", "--no-service", "--purge")
	w.must(err)
	if r.Code != 0 {
		t.Fatal(r.Stderr)
	}
	done := w.lines("retire", id, "--clear-amt")[0]
	amt := done["amt"].(map[string]any)
	if amt["removed"] != true || amt["address"] != w.stage.NetworkAddress(1)+":16992" || amt["system_uuid"] != pc.Hardware.SystemUUID || done["retired"] == nil {
		t.Errorf("retired: %v", done)
	}
	if got := untouched(); !slices.Equal(got, []string{"Contoso"}) {
		t.Errorf("applications %q, want the other program's alone", got)
	}
	w.assets([]string{others})
	if state := w.lines("asset", id)[0]["state"]; state != "retired" {
		t.Errorf("state %v", state)
	}
	w.history(id, "amt-cleared amt-clear retired", "amt-cleared", "retired")
	if d, err := w.firmware.Device(2); err != nil || len(d.Applications) != len(neighbour.Applications) || len(d.Applications) != 1 {
		t.Errorf("the neighbour's applications %+v, %v", d.Applications, err)
	}

	// Once more: there is nothing to remove any more.
	done = w.lines("retire", id, "--clear-amt")[0]
	if done["retired"] != nil || done["amt"].(map[string]any)["removed"] != false {
		t.Errorf("once more: %v", done)
	}

	// The PC goes to somebody else: its client finds no host ID in memory, says so, and is another asset.
	w.must(pc.Format())
	w.pass(time.Hour)
	renewed := w.install(pc)
	w.want(renewed, "", "generated", "stored")
	if renewed.HostID == id {
		t.Error("the host ID was still there")
	}
	if got := untouched(); len(got) != 2 {
		t.Errorf("applications %q after the new installation", got)
	}
	w.assets([]string{others}, []string{renewed.HostID})
	c := w.open("same-board")[0] // a person decides whether the PC that left is back
	if c.HostID != renewed.HostID || c.Other != id {
		t.Errorf("conflict %+v", c)
	}
	w.want(w.status(bystander), others, "", "stored")
}
