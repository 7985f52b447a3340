package e2e

import (
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"samehost/test/play"
)

const clones = 50

// each does the same with every PC, some at once, and fails the test with what failed first.
func each(t *testing.T, pcs []*play.PC, do func(*play.PC) error) {
	t.Helper()
	free := make(chan struct{}, 4*runtime.NumCPU())
	errs := make([]error, len(pcs))
	var all sync.WaitGroup
	for i, pc := range pcs {
		free <- struct{}{}
		all.Go(func() {
			defer func() { <-free }()
			errs[i] = do(pc)
		})
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("PC %d: %v", pcs[i].I, err)
		}
	}
}

// image makes the clones: PCs whose disks are copies of the original's, taken while it was off. facts changes the
// hardware of PC i.
func image(t *testing.T, w *world, memory bool, facts func(*play.PC)) (original *play.PC, copies []*play.PC) {
	t.Helper()
	for i := 1; i <= clones+1; i++ {
		pc := w.pc(i)
		if !memory {
			pc.Firmware = 0
			w.must(pc.Configure())
		}
		facts(pc)
		w.hardware(pc)
		copies = append(copies, pc)
	}
	original, copies = copies[0], copies[1:]
	if memory {
		r, err := w.manager.Dcmamtin("/f", w.firmware.SystemFile)
		w.must(err)
		if r.Code != 0 {
			t.Fatalf("dcmamtin: exit code %d\n%s", r.Code, r.Stdout)
		}
	}
	w.install(original)
	w.lives(original)
	each(t, copies, func(pc *play.PC) error { return pc.CopyDisk(original) })
	return original, copies
}

// start starts the services of all at once, and waits until each has had an answer.
func start(t *testing.T, pcs []*play.PC) {
	t.Helper()
	each(t, pcs, func(pc *play.PC) error {
		service, err := pc.Serve()
		if err != nil {
			return err
		}
		return service.UntilSays("checked in")
	})
}

// round lets three minutes pass; then the original has the next answer, and all clones, whoever comes first. An overlap is
// proved only once both sides were heard again, so an original that is heard after its copies would show one answer later.
func round(t *testing.T, w *world, original *play.PC, copies []*play.PC) {
	t.Helper()
	w.pass(3 * time.Minute)
	checkIn := func(pc *play.PC) error {
		r, err := pc.Command("checkin")
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("refused service: %s", r.Stderr)
		}
		return err
	}
	each(t, []*play.PC{original}, checkIn)
	each(t, copies, checkIn)
}

// acknowledge has those check in that were ordered something with their third answer: they have done it, and say so ten
// seconds later.
func acknowledge(t *testing.T, pcs []*play.PC, former string) (told int) {
	t.Helper()
	var count sync.Mutex
	each(t, pcs, func(pc *play.PC) error {
		id, err := pc.Status()
		if err != nil {
			return err
		}
		if id.HostID == former {
			return nil
		}
		count.Lock()
		told++
		count.Unlock()
		_, err = pc.CheckIn()
		return err
	})
	return told
}

// hostIDs are those that the PCs have on their disks.
func hostIDs(t *testing.T, pcs []*play.PC) map[*play.PC]string {
	t.Helper()
	var count sync.Mutex
	ids := map[*play.PC]string{}
	each(t, pcs, func(pc *play.PC) error {
		id, err := pc.Status()
		count.Lock()
		ids[pc] = id.HostID
		count.Unlock()
		return err
	})
	return ids
}

// settled checks that each PC is an asset of its own, the original the one that it was, and that nobody is asked.
func settled(t *testing.T, w *world, id string, original *play.PC, copies []*play.PC) {
	t.Helper()
	ids := hostIDs(t, append([]*play.PC{original}, copies...))
	if ids[original] != id {
		t.Errorf("the original has the host ID %s, had %s", ids[original], id)
	}
	list, err := w.manager.Assets()
	w.must(err)
	assets := map[string]play.Asset{}
	for _, a := range list {
		if len(a.HostIDs) != 1 || a.State != "live" {
			t.Errorf("asset %+v", a)
		}
		assets[a.HostID] = a
	}
	if len(assets) != len(copies)+1 {
		t.Errorf("%d assets, want %d", len(assets), len(copies)+1)
	}
	for pc, own := range ids {
		if assets[own].HostID == "" {
			t.Errorf("PC %d has the host ID %s, which is no asset", pc.I, own)
		}
		delete(assets, own) // or two PCs are one
	}
	w.open()
	for _, pc := range copies[:3] {
		w.copyOf(ids[pc], id)
	}
}

func placeholders(pc *play.PC) {
	pc.Hardware.SystemUUID = "ffffffff-ffff-ffff-ffff-ffffffffffff"
	pc.Hardware.SystemSerial, pc.Hardware.BoardSerial, pc.Hardware.ChassisSerial = "System Serial Number", "To Be Filled By O.E.M.", "Default string"
	pc.Hardware.NICs[0].MAC = "00-00-00-00-00-00"
	pc.Hardware.SMBIOSAMT = pc.Firmware != 0
}

// 50 clones of one image are started at once beside the original.
func TestClones(t *testing.T) {
	for _, test := range []struct {
		name   string
		memory bool
		facts  func(*play.PC)
	}{
		{"boards known", true, func(*play.PC) {}},
		{"only disks known", true, placeholders},
		{"only disks known, no memory on the board", false, placeholders},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := clockedWorld(t, clones+1)
			original, copies := image(t, w, test.memory, test.facts)
			id := w.status(original).HostID
			w.pass(time.Hour) // the original is off for so long that the first clone might pass for it
			start(t, append(slices.Clone(copies), original))
			for range 2 {
				round(t, w, original, copies)
			}
			// Three answers each.
			ids := hostIDs(t, copies)
			for pc, own := range ids {
				if own == id {
					t.Errorf("PC %d still has the original's host ID after three answers", pc.I)
				}
			}
			acknowledge(t, copies, id)
			settled(t, w, id, original, copies)
			if test.memory {
				for _, pc := range copies[:3] {
					w.want(w.status(pc), ids[pc], "", "stored")
					w.fail(pc)
					w.want(w.install(pc), ids[pc], "restored", "stored")
				}
			}
			w.want(w.status(original), id, "", "")
		})
	}
}

// 50 clones share a UUID and a serial that no list names: one conflict names what they share, and each is an asset
// once it is declared a placeholder.
func TestClonesWithASharedUnlistedValue(t *testing.T) {
	const uuid, serial = "4c4c4544-0031-4a10-8042-b4c04f5a3131", "MODEL 7"
	w := clockedWorld(t, 0)
	original, copies := image(t, w, false, func(pc *play.PC) {
		placeholders(pc)
		pc.Hardware.SystemUUID, pc.Hardware.BoardSerial = uuid, serial
	})
	id := w.status(original).HostID
	// The original runs when its clones are started: where they seem to be on its board, the first one that is heard while it is
	// off would pass for it, with another disk.
	start(t, []*play.PC{original})
	start(t, copies)
	for range 2 {
		round(t, w, original, copies)
	}
	w.assets([]string{id})
	c := w.open("overlap")[0]
	if want := []string{"system_uuid " + uuid, "board_serial " + serial}; !slices.Equal(c.Evidence.Shared, want) {
		t.Errorf("shared: %q, want %q", c.Evidence.Shared, want)
	}
	if !strings.Contains(c.Sentence, uuid) || !strings.Contains(c.Sentence, serial) {
		t.Errorf("%q does not name what is shared", c.Sentence)
	}
	for _, value := range [][]string{{"uuid", uuid}, {"serial", serial}} {
		_, err := w.manager.Command(append([]string{"placeholders", "add"}, value...)...)
		w.must(err)
	}
	w.open()
	for range 3 {
		round(t, w, original, copies)
	}
	acknowledge(t, copies, id)
	settled(t, w, id, original, copies)
}

// 1,000 PCs that all report the UUID of all F and a serial that nobody filled in.
func TestThousandPCsWithPlaceholders(t *testing.T) {
	const pcs = 1000
	w := newWorld(t, 1)
	all := make([]*play.PC, pcs)
	for i := range all {
		pc := w.pc(i + 1)
		pc.Firmware = 0
		pc.Hardware.SystemUUID = "ffffffff-ffff-ffff-ffff-ffffffffffff"
		pc.Hardware.SystemSerial, pc.Hardware.BoardSerial, pc.Hardware.ChassisSerial = "To Be Filled By O.E.M.", "To Be Filled By O.E.M.", "To Be Filled By O.E.M."
		pc.Hardware.NICs, pc.Hardware.SMBIOSAMT = nil, false
		if i%2 == 0 { // not even the disk is known
			pc.Hardware.Disks = nil
		}
		w.must(pc.Configure())
		w.hardware(pc)
		all[i] = pc
	}
	// A tenth of them twice: the whole crowd again would take longer than it shows more.
	for _, some := range [][]*play.PC{all, all[:pcs/10]} {
		each(t, some, func(pc *play.PC) error {
			_, err := pc.CheckIn()
			return err
		})
		if n := w.count(); n != pcs {
			t.Fatalf("%d assets, want %d", n, pcs)
		}
		w.open()
	}
	for pc, id := range hostIDs(t, all[:10]) {
		if got := w.asset(id).HostID; got != id {
			t.Errorf("%s: PC %s is asset %s", filepath.Base(pc.DataDir), id, got)
		}
	}
}
