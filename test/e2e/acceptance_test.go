package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"samehost/test/play"
)

// conflict is what `conflicts list --json` and `conflicts show --json` tell.
type conflict struct {
	ID       int64  `json:"id"`
	Kind     string `json:"kind"`
	HostID   string `json:"host_id"`
	Other    string `json:"other_host_id"`
	Status   string `json:"status"`
	Sentence string `json:"sentence"`
	Fields   []struct {
		Fact  string `json:"fact"`
		State string `json:"state"`
	} `json:"fields"`
	Copies  []string `json:"copies"`
	Decided []struct {
		Verb string `json:"verb"`
		Who  string `json:"who"`
	} `json:"resolutions"`
	Evidence struct {
		Observed string   `json:"observed"`
		Shared   []string `json:"shared"`
	} `json:"evidence"`
}

// what is the kind of the conflict, with what the client observed.
func (c conflict) what() string { return strings.TrimSpace(c.Kind + " " + c.Evidence.Observed) }

func (c conflict) fields() string {
	var list []string
	for _, f := range c.Fields {
		if f.State == "equal" || f.State == "different" {
			list = append(list, f.Fact+" "+f.State)
		}
	}
	return strings.Join(list, ", ")
}

// conflicts are those that are open.
func (w *world) conflicts(args ...string) []conflict {
	w.t.Helper()
	r, err := w.manager.Command(append([]string{"conflicts", "list", "--json"}, args...)...)
	w.must(err)
	var all []conflict
	for line := range strings.Lines(r.Stdout) {
		var c conflict
		w.must(json.Unmarshal([]byte(line), &c))
		all = append(all, c)
	}
	return all
}

// open checks which conflicts are open, each as kind and what was observed, and returns them in that order.
func (w *world) open(want ...string) []conflict {
	w.t.Helper()
	all := w.conflicts()
	slices.SortFunc(all, func(a, b conflict) int { return strings.Compare(a.what(), b.what()) })
	var got []string
	for _, c := range all {
		got = append(got, c.what())
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.t.Fatalf("open conflicts %q, want %q: %+v", got, want, all)
	}
	return all
}

// resolve is the operator's word on a conflict.
func (w *world) resolve(c conflict, verb string) {
	w.t.Helper()
	_, err := w.manager.Command("conflicts", "resolve", fmt.Sprint(c.ID), verb)
	w.must(err)
}

// detail is what `asset --json` tells.
type detail struct {
	HostID string        `json:"host_id"`
	State  string        `json:"state"`
	Facts  play.Hardware `json:"facts"`
	Hosts  []struct {
		HostID     string `json:"host_id"`
		CopyOf     string `json:"copy_of"`
		ReplacedBy string `json:"replaced_by"`
	} `json:"hosts"`
}

func (w *world) asset(hostID string) detail {
	w.t.Helper()
	r, err := w.manager.Command("asset", hostID, "--json")
	w.must(err)
	var d detail
	w.must(json.Unmarshal([]byte(r.Stdout), &d))
	return d
}

// count is how many assets there are.
func (w *world) count() int {
	w.t.Helper()
	list, err := w.manager.Assets()
	w.must(err)
	return len(list)
}

// copyOf checks that the manager knows the host ID as a copy of the other.
func (w *world) copyOf(hostID, of string) {
	w.t.Helper()
	for _, h := range w.asset(hostID).Hosts {
		if h.HostID == hostID && h.CopyOf == of {
			return
		}
	}
	w.t.Errorf("%s has no lineage to %s: %+v", hostID, of, w.asset(hostID))
}

// board checks whose board the manager takes the asset's to be.
func (w *world) board(hostID string, pc *play.PC) {
	w.t.Helper()
	if got := w.asset(hostID).Facts; got.BoardSerial != pc.Hardware.BoardSerial || got.SystemUUID != pc.Hardware.SystemUUID {
		w.t.Errorf("the asset of %s is known on board %s, %s; want %s, %s", hostID, got.BoardSerial, got.SystemUUID, pc.Hardware.BoardSerial, pc.Hardware.SystemUUID)
	}
}

// enrol installs the client on a PC whose AMT is initialized first.
func (w *world) enrol(pc *play.PC) string {
	w.t.Helper()
	w.initialize(pc.Firmware)
	id := w.install(pc)
	w.want(id, "", "generated", "stored")
	return id.HostID
}

// speaks has the PC check in and returns the host ID that it has after that.
func (w *world) speaks(pc *play.PC) string {
	w.t.Helper()
	w.checkIn(pc)
	return w.status(pc).HostID
}

// lives runs the client's service for three intervals.
func (w *world) lives(pc *play.PC) {
	w.t.Helper()
	service := w.serve(pc)
	for range 3 {
		w.pass(15 * time.Minute)
		w.checkIn(pc)
	}
	w.must(service.Stop())
}

// serve starts the client's service and waits for its first check-in.
func (w *world) serve(pc *play.PC) *play.Process {
	w.t.Helper()
	service, err := pc.Serve()
	w.must(err)
	w.must(service.UntilSays("checked in"))
	return service
}

// hardware makes the PC's hardware what pc.Hardware says.
func (w *world) hardware(pc *play.PC) {
	w.t.Helper()
	w.must(pc.WriteHardware())
}

// swapBoard puts the board of another PC, or a new one, into the PC's case.
func swapBoard(w *world, pc, from *play.PC) {
	w.t.Helper()
	pc.Hardware.SystemUUID, pc.Hardware.BoardSerial, pc.Hardware.NICs = from.Hardware.SystemUUID, from.Hardware.BoardSerial, from.Hardware.NICs
	pc.Firmware = from.Firmware
	w.must(pc.Configure())
	w.hardware(pc)
}

// second is another system on the same PC, on a disk of its own.
func second(w *world, pc *play.PC) *play.PC {
	w.t.Helper()
	other, err := w.manager.PC(pc.I + 100)
	w.must(err)
	disks := other.Hardware.Disks
	other.Hardware = pc.Hardware
	other.Hardware.Disks = append(disks, play.Disk{Serial: pc.Hardware.Disks[0].Serial})
	other.Firmware = pc.Firmware
	w.must(other.Configure())
	w.hardware(other)
	return other
}

// TestAcceptance is the acceptance table: what becomes of the asset when something about the PC changes.
func TestAcceptance(t *testing.T) {
	for _, row := range []struct {
		change  string
		devices int
		play    func(t *testing.T, w *world)
	}{
		{"client uninstalled", 1, func(t *testing.T, w *world) {
			pc := w.pc(1)
			id := w.enrol(pc)
			for _, options := range [][]string{{"uninstall", "--no-service"}, {"uninstall", "--no-service", "--purge"}} {
				r, err := pc.Command(options...)
				w.must(err)
				if r.Code != 0 {
					t.Fatalf("%v: %s", options, r.Stderr)
				}
				w.assets([]string{id})
				w.want(w.install(pc), id, "", "stored")
				w.checkIn(pc)
				w.assets([]string{id})
			}
			w.want(w.install(pc), id, "kept", "stored") // over itself
			w.assets([]string{id})
			w.open()
		}},
		{"network interface replaced", 1, func(t *testing.T, w *world) {
			pc := w.pc(1)
			id := w.enrol(pc)
			// One after another everything that tells boards apart, as over the years.
			for _, change := range []func(){
				func() { pc.Hardware.NICs[0].MAC = "00-1B-21-AA-AA-AA" },
				func() { pc.Hardware.SystemUUID = "4c4c4544-0031-4a10-8042-b4c04f5a3131" },
				func() {
					pc.Hardware.NICs = append(pc.Hardware.NICs, play.NIC{MAC: "00-1B-21-AA-AA-AB", Permanent: true})
				},
				func() { pc.Hardware.BoardSerial = "RENEWED" },
			} {
				change()
				w.hardware(pc)
				if got := w.speaks(pc); got != id {
					t.Fatalf("took the host ID %s", got)
				}
			}
			w.board(id, pc)
			w.fail(pc)
			w.want(w.install(pc), id, "restored", "stored")
			w.assets([]string{id})
			w.open()
		}},
		{"OS upgraded", 1, func(t *testing.T, w *world) {
			pc := w.pc(1)
			id := w.enrol(pc)
			for range 3 { // the folder of data stays, the service is stopped and started
				w.must(w.serve(pc).Stop())
				w.pass(time.Hour)
			}
			w.want(w.status(pc), id, "", "stored")
			w.assets([]string{id})
			w.open()
		}},
		{"disk added", 1, func(t *testing.T, w *world) {
			pc := w.pc(1)
			id := w.enrol(pc)
			pc.Hardware.Disks = append([]play.Disk{{Serial: "ADDED"}}, pc.Hardware.Disks...)
			w.hardware(pc)
			if got := w.speaks(pc); got != id {
				t.Fatalf("took the host ID %s", got)
			}
			w.assets([]string{id})
			w.open()
		}},
		{"OS reinstalled", 1, func(t *testing.T, w *world) {
			pc := w.pc(1)
			id := w.enrol(pc)
			w.pass(time.Hour)
			w.must(pc.Format())
			w.want(w.install(pc), id, "restored", "stored")
			w.checkIn(pc)
			w.assets([]string{id})
			w.open()
		}},
		{"OS reinstalled, no memory on the board", 1, func(t *testing.T, w *world) {
			pc := w.pc(1)
			pc.Firmware = 0
			w.must(pc.Configure())
			old := w.install(pc).HostID
			w.pass(time.Hour)
			w.must(pc.Format())
			renewed := w.install(pc)
			w.want(renewed, "", "generated", "")
			w.assets([]string{old}, []string{renewed.HostID}) // evidence without a key joins nothing by itself
			c := w.open("same-board")[0]
			if want := "system_uuid equal, board_serial equal, onboard_mac equal, system_serial equal, chassis_serial equal, disk_serial equal"; c.fields() != want {
				t.Errorf("evidence %q, want %q", c.fields(), want)
			}
			w.resolve(c, "merge")
			w.checkIn(pc) // is told
			w.checkIn(pc) // and acknowledges
			w.open()
			w.assets([]string{old, renewed.HostID})
		}},
		{"disk that holds the OS replaced", 1, func(t *testing.T, w *world) {
			pc := w.pc(1)
			id := w.enrol(pc)
			w.fail(pc)
			w.want(w.install(pc), id, "restored", "stored")
			w.checkIn(pc)
			w.assets([]string{id})
			w.open()
			if got := w.asset(id).Facts.Disks[0].Serial; got == pc.Hardware.Disks[0].Serial {
				t.Errorf("the new disk is known while the old epoch was just heard")
			}
			w.pass(time.Hour) // three intervals of silence of the old epoch
			w.checkIn(pc)
			if got := w.asset(id).Facts.Disks[0].Serial; got != pc.Hardware.Disks[0].Serial {
				t.Errorf("known disk %s, want %s", got, pc.Hardware.Disks[0].Serial)
			}
		}},
		{"motherboard replaced by a new one", 2, func(t *testing.T, w *world) {
			pc, spare := w.pc(1), w.pc(2)
			id := w.enrol(pc)
			w.pass(time.Hour)
			swapBoard(w, pc, spare)
			w.initialize(2)
			if got := w.speaks(pc); got != id {
				t.Fatalf("took the host ID %s", got)
			}
			c := w.open("other-board")[0]
			if want := "system_uuid different, board_serial different, onboard_mac different, system_serial equal, chassis_serial equal, disk_serial equal"; c.fields() != want {
				t.Errorf("evidence %q, want %q", c.fields(), want)
			}
			w.assets([]string{id})
			if got := w.asset(id).Facts.BoardSerial; got == pc.Hardware.BoardSerial {
				t.Error("the new board was taken before anybody had confirmed it")
			}
			if got := w.status(pc).Store("amt").State; got == "stored" {
				t.Error("the new board's memory was written before anybody had confirmed it")
			}
			w.resolve(c, "merge")
			if got := w.open("other-board")[0].Status; got != "ordered" {
				t.Errorf("status %q before the PC has done its part, want ordered", got)
			}
			w.checkIn(pc) // is told, and carries it out
			w.want(w.status(pc), id, "", "stored")
			w.checkIn(pc) // acknowledges
			w.open()
			w.assets([]string{id})
			w.board(id, pc)
			w.fail(pc)
			w.want(w.install(pc), id, "restored", "stored") // from the new board
			w.checkIn(pc)
			w.assets([]string{id})
			w.open()
		}},
		{"motherboard replaced by a spare one with another PC's record", 2, func(t *testing.T, w *world) {
			pc, scrapped := w.pc(1), w.pc(2)
			id, others := w.enrol(pc), w.enrol(scrapped)
			w.pass(time.Hour)
			swapBoard(w, pc, scrapped)
			// The memory sits on the board, so the PC is the other one until an operator decides; and it says so.
			if got := w.speaks(pc); got != others {
				t.Fatalf("the host ID is %s, want that of the board, %s", got, others)
			}
			all := w.open("observed other-case", "observed other-id")
			w.assets([]string{id}, []string{others})
			w.resolve(all[1], "merge")
			w.resolve(all[0], "merge")
			for range 3 {
				w.checkIn(pc)
			}
			w.open()
			w.assets([]string{id, others})
			w.board(id, pc)
			w.fail(pc)
			w.want(w.install(pc), others, "restored", "stored")
			w.checkIn(pc)
			w.assets([]string{id, others})
			w.open()
		}},
		{"memory with the record of another board", 2, func(t *testing.T, w *world) {
			pc, other := w.pc(1), w.pc(2)
			id, others := w.enrol(pc), w.enrol(other)
			w.pass(time.Hour)
			pc.Firmware = 2 // flash that was copied to this board
			w.must(pc.Configure())
			if got := w.speaks(pc); got != id {
				t.Fatalf("took the host ID %s", got)
			}
			c := w.open("observed memory-foreign")[0]
			w.resolve(c, "keep-both")
			w.checkIn(pc)
			w.checkIn(pc)
			w.open()
			w.want(w.status(pc), id, "", "stored")
			w.assets([]string{id}, []string{others})
			w.fail(pc)
			w.want(w.install(pc), id, "restored", "stored")
		}},
		{"client brought to another PC by disk copy", 2, func(t *testing.T, w *world) {
			pc, copied := w.pc(1), w.pc(2)
			id := w.enrol(pc)
			w.initialize(2)
			w.must(copied.CopyDisk(pc))
			got := w.speaks(copied)
			if got == id {
				t.Fatal("the copy kept the host ID")
			}
			w.want(w.status(copied), got, "", "stored")
			if own := w.speaks(pc); own != id {
				t.Fatalf("the original took the host ID %s", own)
			}
			w.assets([]string{id}, []string{got})
			w.copyOf(got, id)
			w.open()
			w.fail(copied)
			w.want(w.install(copied), got, "restored", "stored")
		}},
		{"client brought by disk copy to a PC that has a record", 2, func(t *testing.T, w *world) {
			pc, copied := w.pc(1), w.pc(2)
			id, own := w.enrol(pc), w.enrol(copied)
			w.must(copied.CopyDisk(pc))
			if got := w.speaks(copied); got != own {
				t.Fatalf("the host ID is %s, want its own, %s", got, own)
			}
			if got := w.speaks(pc); got != id {
				t.Fatalf("the original took the host ID %s", got)
			}
			w.assets([]string{id}, []string{own})
			w.resolve(w.open("observed other-id")[0], "keep-both")
			w.checkIn(copied)
			w.checkIn(copied)
			w.open()
			w.assets([]string{id}, []string{own})
		}},
		{"two systems on one PC", 1, func(t *testing.T, w *world) {
			pc := w.pc(1)
			other := second(w, pc)
			id := w.enrol(pc)
			w.lives(pc)
			w.want(w.install(other), id, "restored", "stored")
			for range 2 {
				w.lives(other)
				w.lives(pc)
			}
			w.assets([]string{id})
			w.open()
		}},
		{"two systems on one PC, no memory on the board", 1, func(t *testing.T, w *world) {
			pc := w.pc(1)
			pc.Firmware = 0
			w.must(pc.Configure())
			other := second(w, pc)
			a := w.install(pc).HostID
			w.lives(pc)
			b := w.install(other).HostID
			w.resolve(w.open("same-board")[0], "merge")
			for range 2 {
				w.lives(other)
				w.lives(pc)
			}
			w.open()
			w.assets([]string{a, b})
		}},
		{"disk copied to a larger one inside the PC", 1, func(t *testing.T, w *world) {
			for _, pc := range []*play.PC{w.pc(1), w.pc(2)} {
				before := w.count()
				id := ""
				if pc.I == 1 {
					id = w.enrol(pc)
				} else {
					pc.Firmware = 0
					w.must(pc.Configure())
					id = w.install(pc).HostID
				}
				w.lives(pc)
				old := *pc
				old.Hardware.Disks = slices.Clone(pc.Hardware.Disks)
				pc.DataDir = filepath.Join(filepath.Dir(pc.DataDir), "larger")
				w.must(pc.CopyDisk(&old))
				pc.Hardware.Disks[0].Serial = "LARGER" + id
				w.must(pc.Configure())
				w.hardware(pc)
				w.lives(pc)
				if got := w.status(pc).HostID; got != id {
					t.Fatalf("took the host ID %s", got)
				}
				w.pass(7 * 24 * time.Hour)
				w.must(old.Configure()) // once more from the old one, forgotten in a drawer
				w.hardware(&old)
				w.lives(&old)
				w.must(pc.Configure())
				w.hardware(pc)
				w.lives(pc)
				if got := w.status(pc).HostID; got != id {
					t.Fatalf("took the host ID %s", got)
				}
				w.open()
				if n := w.count(); n != before+1 {
					t.Errorf("%d assets, want %d", n, before+1)
				}
				if got := w.asset(id).Facts.Disks[0].Serial; got != pc.Hardware.Disks[0].Serial {
					t.Errorf("known disk %s, want %s", got, pc.Hardware.Disks[0].Serial)
				}
			}
		}},
		{"disk moved to another case and back", 2, func(t *testing.T, w *world) {
			pc, other := w.pc(1), w.pc(2)
			id := w.enrol(pc)
			w.initialize(2)
			w.lives(pc)
			other.DataDir, other.Hardware.Disks = pc.DataDir, pc.Hardware.Disks
			w.must(other.Configure())
			w.hardware(other)
			w.lives(other)
			c := w.open("other-board")[0]
			if want := "system_uuid different, board_serial different, onboard_mac different, system_serial different, chassis_serial different, disk_serial equal"; c.fields() != want {
				t.Errorf("evidence %q, want %q", c.fields(), want)
			}
			w.board(id, pc)
			if got := w.status(other).Store("amt").State; got == "stored" {
				t.Error("the other board's memory was written")
			}
			w.lives(pc) // back again: there is nothing left to ask
			w.open()
			w.assets([]string{id})
			w.board(id, pc)
			w.want(w.status(pc), id, "", "stored")
		}},
		{"disk moved to another case while the PC got a new one", 2, func(t *testing.T, w *world) {
			pc, other := w.pc(1), w.pc(2)
			id := w.enrol(pc)
			w.initialize(2)
			w.lives(pc)
			w.must(other.CopyDisk(pc))
			other.Hardware.Disks = slices.Clone(pc.Hardware.Disks)
			w.hardware(other)
			w.fail(pc)
			w.want(w.install(pc), id, "restored", "stored")
			mine, others := w.serve(pc), w.serve(other)
			for range 4 {
				w.pass(3 * time.Minute)
				w.checkIn(pc)
				w.checkIn(other)
			}
			w.must(mine.Stop())
			w.must(others.Stop())
			w.want(w.status(pc), id, "", "stored")
			got := w.status(other).HostID
			if got == id {
				t.Fatal("the disk in the other case kept the host ID")
			}
			w.assets([]string{id}, []string{got})
			w.copyOf(got, id)
			w.board(id, pc)
			w.board(got, other)
			w.open()
		}},
	} {
		t.Run(row.change, func(t *testing.T) { row.play(t, clockedWorld(t, row.devices)) })
	}
}
