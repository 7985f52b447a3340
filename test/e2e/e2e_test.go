// Package e2e holds the manual's sentences (docs/seed-map.md) against the real programs, run as separate processes.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"samehost/test/play"
)

var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = dir
	build := exec.Command("go", "build", "-o", dir, "samehost/cmd/amtsim", "samehost/cmd/dcmamtin", "samehost/cmd/samehost-client", "samehost/cmd/samehost-manager", "samehost/cmd/samehost-relay", "samehost/cmd/fleetsim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

var stages atomic.Int32 // so that no two stages share addresses

// world is one manager and some simulated PCs, for one test.
type world struct {
	t        *testing.T
	stage    *play.Stage
	firmware *play.Firmware
	manager  *play.Manager
}

// newWorld starts n simulated PCs and a manager that serves.
func newWorld(t *testing.T, n int) *world {
	t.Helper()
	t.Parallel()
	w := &world{t: t, stage: &play.Stage{Dir: t.TempDir(), Bin: bin, Net: 9 + int(stages.Add(1))}}
	t.Cleanup(func() {
		if err := w.stage.Close(); err != nil {
			t.Error(err)
		}
	})
	var err error
	w.firmware, err = w.stage.StartFirmware(n)
	w.must(err)
	w.manager, err = w.stage.InitManager()
	w.must(err)
	w.must(w.manager.Serve())
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) pc(i int) *play.PC {
	w.t.Helper()
	pc, err := w.manager.PC(i)
	w.must(err)
	return pc
}

// initialize runs dcmamtin for PC i, which has to succeed.
func (w *world) initialize(i int) {
	w.t.Helper()
	r, err := w.manager.Dcmamtin("/I", w.stage.NetworkAddress(i))
	w.must(err)
	if r.Code != 0 {
		w.t.Fatalf("dcmamtin: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

func (w *world) install(pc *play.PC) play.Identity {
	w.t.Helper()
	id, err := pc.Install()
	w.must(err)
	return id
}

func (w *world) checkIn(pc *play.PC) {
	w.t.Helper()
	_, err := pc.CheckIn()
	w.must(err)
}

func (w *world) status(pc *play.PC) play.Identity {
	w.t.Helper()
	id, err := pc.Status()
	w.must(err)
	return id
}

func (w *world) fail(pc *play.PC) {
	w.t.Helper()
	w.must(pc.DiskFailure())
}

// want checks host ID, origin and the state of the AMT store; "" is not checked.
func (w *world) want(got play.Identity, hostID, origin, state string) {
	w.t.Helper()
	if hostID != "" && got.HostID != hostID || origin != "" && got.Origin != origin || state != "" && got.Store("amt").State != state {
		w.t.Fatalf("want host ID %q, origin %q, AMT %q; got %+v", hostID, origin, state, got)
	}
}

// assets checks that the manager lists exactly these groups of host IDs, each group one asset.
func (w *world) assets(groups ...[]string) {
	w.t.Helper()
	list, err := w.manager.Assets()
	w.must(err)
	var got []string
	for _, a := range list {
		got = append(got, group(a.HostIDs))
	}
	var want []string
	for _, g := range groups {
		want = append(want, group(g))
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.t.Fatalf("assets %v, want %v", got, want)
	}
}

func group(ids []string) string {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return strings.Join(ids, "+")
}

// S1, S4, S5, S6, S7: initialised first, the host ID is stored at installation.
func TestInitializeThenInstall(t *testing.T) {
	w := newWorld(t, 1)
	pc := w.pc(1)
	w.initialize(1)
	first := w.install(pc)
	w.want(first, "", "generated", "stored")
	// The same order once more: nothing changes.
	w.initialize(1)
	w.want(w.install(pc), first.HostID, "kept", "stored")
	w.checkIn(pc)
	w.assets([]string{first.HostID})
}

// S6, S8: installed first, the host ID is stored when the client talks to its higher system.
func TestInstallThenInitialize(t *testing.T) {
	w := newWorld(t, 1)
	pc := w.pc(1)
	first := w.install(pc)
	w.want(first, "", "generated", "not-initialized")
	w.checkIn(pc)
	w.want(w.status(pc), first.HostID, "", "not-initialized") // S4: not before the area is initialised
	w.initialize(1)
	w.checkIn(pc)
	w.want(w.status(pc), first.HostID, "", "stored")
	w.initialize(1)
	w.checkIn(pc)
	w.want(w.status(pc), first.HostID, "", "stored")
	w.assets([]string{first.HostID})
}

// S9: the client is installed but has no host ID, since its higher system and its disk failed it before one was made;
// the ID is stored when it is created, here at service start.
func TestHostIDCreatedLaterIsStoredThen(t *testing.T) {
	w := newWorld(t, 1)
	pc := w.pc(1)
	w.initialize(1)
	// The installation cannot create the host ID: its data folder cannot be made.
	w.must(os.WriteFile(pc.DataDir, []byte("in the way"), 0o644))
	r, err := pc.Command("install", "--no-service")
	w.must(err)
	if r.Code == 0 {
		t.Fatalf("installed without a data folder: %s", r.Stdout)
	}
	w.must(os.Remove(pc.DataDir))
	service, err := pc.Serve()
	w.must(err)
	w.must(w.manager.UntilAssets(1))
	w.must(service.Stop())
	id := w.status(pc)
	w.want(id, "", "", "stored")
	w.assets([]string{id.HostID})
}

// S2, S3: the disk fails, the client is reinstalled, the manager sees the same asset.
func TestDiskFailureAfterCheckIn(t *testing.T) {
	for _, order := range []string{"initialize then install", "install then initialize"} {
		t.Run(order, func(t *testing.T) {
			w := newWorld(t, 2)
			pc, other := w.pc(1), w.pc(2)
			w.initialize(2)
			bystander := w.install(other).HostID
			var id play.Identity
			if order == "initialize then install" {
				w.initialize(1)
				id = w.install(pc)
			} else {
				id = w.install(pc)
				w.initialize(1)
				w.checkIn(pc)
			}
			for range 2 {
				w.fail(pc)
				w.want(w.install(pc), id.HostID, "restored", "stored")
				w.checkIn(pc)
				w.assets([]string{id.HostID}, []string{bystander})
			}
		})
	}
}

// S2, S3: the same before the client ever reached its higher system.
func TestDiskFailureBeforeCheckIn(t *testing.T) {
	w := newWorld(t, 1)
	pc := w.pc(1)
	w.must(w.manager.Stop())
	w.initialize(1)
	id := w.install(pc)
	w.want(id, "", "generated", "stored")
	for range 2 {
		w.fail(pc)
		w.want(w.install(pc), id.HostID, "restored", "stored")
	}
	w.must(w.manager.Serve())
	w.checkIn(pc)
	w.assets([]string{id.HostID})
}

// S10, S11: the host ID cannot be restored; a new one is generated, status says why and what to do, and the one in AMT
// is overwritten at service start.
func TestRestoreImpossible(t *testing.T) {
	for _, test := range []struct {
		name     string
		hinder   func(*world) error
		meantime string // state of the store at the reinstallation
		says     string // part of what is said about it
		help     func(*world) error
		proven   bool // the old record was readable before it was overwritten: one asset
	}{
		{"log-on lockout", faults(`{"locked_out": true}`), "unavailable", "log-on", faults(`{}`), true},
		{"block locked by another", faults(`{"lock_by_other": true}`), "unavailable", "locked", faults(`{}`), true},
		{"LMS not there yet", faults(`{"refuse": true, "side": "local"}`), "unavailable", "", faults(`{}`), true},
		{"enterprise entry removed", func(w *world) error { return w.firmware.RemoveEnterprise(1) }, "not-initialized", "dcmamtin", initializeAgain, false},
		{"full unprovision", func(w *world) error { return w.firmware.Unprovision(1) }, "unavailable", "", setUpAgain, false},
		{"record corrupt", func(w *world) error { return w.firmware.Corrupt(1) }, "stored", "", nil, false},
	} {
		for _, when := range []string{"after a check-in", "before a check-in"} {
			t.Run(test.name+" "+when, func(t *testing.T) {
				w := newWorld(t, 1)
				pc := w.pc(1)
				if when == "before a check-in" {
					w.must(w.manager.Stop())
				}
				w.initialize(1)
				old := w.install(pc)
				w.want(old, "", "generated", "stored")
				if when == "before a check-in" {
					w.must(w.manager.Serve())
				}

				w.must(test.hinder(w))
				w.fail(pc)
				renewed := w.install(pc)
				if renewed.HostID == old.HostID {
					t.Fatalf("the host ID was restored: %+v", renewed)
				}
				w.want(renewed, "", "", test.meantime)
				if got := renewed.Store("amt").Error; test.meantime != "stored" && got == "" || !strings.Contains(got, test.says) {
					t.Errorf("what is said about AMT is %q; want something with %q", got, test.says)
				}
				if test.help != nil {
					w.must(test.help(w))
				}
				service, err := pc.Serve()
				w.must(err)
				w.must(pc.UntilStored(renewed.HostID))
				w.must(service.Stop())
				w.checkIn(pc)
				switch {
				case test.proven && when == "after a check-in":
					w.assets([]string{old.HostID, renewed.HostID})
					w.noConflict()
				case when == "after a check-in":
					w.assets([]string{old.HostID}, []string{renewed.HostID})
					w.conflict("same-board", old.HostID, renewed.HostID) // evidence, but no proof: a person decides
				case test.proven:
					w.must(w.manager.UntilAlias(old.HostID, renewed.HostID))
				default:
					w.assets([]string{renewed.HostID})
				}

				// From now on the new host ID is the one that is restored.
				w.fail(pc)
				w.want(w.install(pc), renewed.HostID, "restored", "stored")
			})
		}
	}
}

// noConflict checks that none is open.
func (w *world) noConflict() {
	w.t.Helper()
	r, err := w.manager.Command("conflicts", "list", "--json")
	w.must(err)
	if r.Stdout != "" {
		w.t.Errorf("conflicts:\n%s", r.Stdout)
	}
}

// conflict checks that exactly one conflict is open, of that kind and about those host IDs.
func (w *world) conflict(kind string, hostIDs ...string) {
	w.t.Helper()
	r, err := w.manager.Command("conflicts", "list", "--json")
	w.must(err)
	if strings.Count(strings.TrimSpace(r.Stdout), "\n") != 0 || !strings.Contains(r.Stdout, `"kind":"`+kind+`"`) {
		w.t.Fatalf("want one conflict, %s; got:\n%s", kind, r.Stdout)
	}
	for _, id := range hostIDs {
		if !strings.Contains(r.Stdout, id) {
			w.t.Errorf("the conflict does not name %s:\n%s", id, r.Stdout)
		}
	}
}

func faults(switches string) func(*world) error {
	return func(w *world) error { return w.firmware.Faults(1, switches) }
}

func initializeAgain(w *world) error {
	if err := w.firmware.Faults(1, `{}`); err != nil {
		return err
	}
	w.initialize(1)
	return nil
}

func setUpAgain(w *world) error {
	if err := w.firmware.Provision(1); err != nil {
		return err
	}
	w.initialize(1)
	return nil
}

// The enterprise entry disappears while the blocks stay, which documented firmware does not allow but broken firmware may
// do: the new host ID gives way to the old one as soon as that can be read again, and the manager is told.
func TestEnterpriseEntryLost(t *testing.T) {
	w := newWorld(t, 1)
	pc := w.pc(1)
	w.initialize(1)
	old := w.install(pc)
	w.must(w.firmware.Faults(1, `{"remove_enterprise": "samehost"}`))
	w.fail(pc)
	meantime := w.install(pc)
	w.want(meantime, "", "generated", "not-initialized")
	w.must(initializeAgain(w))
	w.checkIn(pc)
	w.want(w.status(pc), old.HostID, "restored", "stored")
	history, err := w.manager.Command("history", old.HostID)
	w.must(err)
	if !strings.Contains(history.Stdout, meantime.HostID) {
		t.Errorf("the history of %s does not name the host ID of the meantime, %s:\n%s", old.HostID, meantime.HostID, history.Stdout)
	}
}

// A hundred check-ins with nothing changed do not wear the flash.
func TestCheckInsDoNotWearTheFlash(t *testing.T) {
	w := newWorld(t, 1)
	pc := w.pc(1)
	w.initialize(1)
	w.install(pc)
	before, err := w.firmware.Device(1)
	w.must(err)
	if before.Calls["WriteBlock"] == 0 {
		t.Fatal("nothing was written at the installation: this test would prove nothing")
	}
	for range 100 {
		w.checkIn(pc)
	}
	after, err := w.firmware.Device(1)
	w.must(err)
	if n := after.Calls["WriteBlock"] - before.Calls["WriteBlock"]; n != 0 {
		t.Errorf("%d calls of WriteBlock in a hundred check-ins with nothing changed", n)
	}
	if after.Calls["ReadBlock"] == before.Calls["ReadBlock"] {
		t.Error("the check-ins did not look at AMT at all")
	}
}

// S12, S14, S17, S19: one command for all that a file lists, with the manual's codes, and a log of what failed.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t, 5)
	file := func() (int, string) {
		t.Helper()
		r, err := w.manager.Dcmamtin("/f", w.firmware.SystemFile)
		w.must(err)
		return r.Code, r.Stdout + r.Stderr
	}
	for i := 1; i <= 5; i++ {
		w.must(w.firmware.Faults(i, `{"password": "Another1!"}`))
	}
	if code, out := file(); code != 31 {
		t.Errorf("all fail: exit code %d\n%s", code, out)
	}
	for i := 1; i <= 4; i++ {
		w.must(w.firmware.Faults(i, `{}`))
	}
	if code, out := file(); code != 30 {
		t.Errorf("one fails: exit code %d\n%s", code, out)
	}
	log, err := os.ReadFile(filepath.Join(filepath.Dir(w.manager.Config), "DCMAMT.LOG"))
	w.must(err)
	if !strings.Contains(string(log), w.stage.NetworkAddress(5)) || strings.Contains(string(log), play.Password) {
		t.Errorf("the log does not name the PC that failed, or shows the password:\n%s", log)
	}
	w.must(w.firmware.Faults(5, `{}`))
	if code, out := file(); code != 0 {
		t.Errorf("none fails: exit code %d\n%s", code, out)
	}
}

// The manager's own export is a file that dcmamtin reads.
func TestExportedFileInitializes(t *testing.T) {
	w := newWorld(t, 2)
	for i := 1; i <= 2; i++ {
		w.want(w.install(w.pc(i)), "", "generated", "not-initialized")
	}
	export := filepath.Join(w.stage.Dir, "export.NDD")
	_, err := w.manager.Command("sysconfig", "export", export)
	w.must(err)
	b, err := os.ReadFile(export)
	w.must(err)
	if got := strings.Count(string(b), "TYPE=client"); got != 2 {
		t.Fatalf("%d clients in the exported file:\n%s", got, b)
	}
}

// The manager is killed in the middle of its work; nothing that was accepted is lost, nothing is counted twice.
func TestManagerKilled(t *testing.T) {
	w := newWorld(t, 3)
	var ids []string
	for i := 1; i <= 3; i++ {
		pc := w.pc(i)
		w.initialize(i)
		ids = append(ids, w.install(pc).HostID)
		w.manager.Kill()
		w.must(w.manager.Serve())
		w.checkIn(pc)
	}
	w.assets(ids[:1], ids[1:2], ids[2:])
}

// The service is killed again and again while it works; the host ID stays, the flash holds a whole record.
func TestClientKilled(t *testing.T) {
	w := newWorld(t, 1)
	pc := w.pc(1)
	w.initialize(1)
	var id string
	for range 10 {
		service, err := pc.Serve()
		w.must(err)
		w.must(pc.UntilStored(""))
		service.Kill()
		got := w.status(pc)
		if id == "" {
			id = got.HostID
		}
		w.want(got, id, "", "stored")
	}
	w.fail(pc)
	w.want(w.install(pc), id, "restored", "stored")
	w.assets([]string{id})
}
