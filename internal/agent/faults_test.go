package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/hostid/storetest"
)

// blockFile keeps the host ID management file from being written, as a virus scanner that holds it open does on
// Windows.
func (pc *testPC) blockFile(t *testing.T) (unblock func()) {
	t.Helper()
	obstacle := filepath.Join(pc.dir, hostid.FileName+".samehost-tmp")
	if err := os.MkdirAll(filepath.Join(obstacle, "in-the-way"), 0o700); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.RemoveAll(obstacle); err != nil {
			t.Fatal(err)
		}
	}
}

// becomeCopy makes the PC one whose disk was copied from another: other board, other disk.
func (pc *testPC) becomeCopy() {
	pc.facts = hardware.Facts{
		SystemUUID:  "99999999-0051-4d10-8051-b4c04f5a3132",
		BoardSerial: "BRD0815",
		Disks:       []hardware.Disk{{Serial: "DSK0815", System: true}},
	}
	pc.memory = &storetest.Memory{}
}

// A file that cannot be written for half a day must not use up the room for what the manager is told: once it can
// be, the PC goes on by itself, and the manager hears of what came about and of nothing else.
func TestFileThatCannotBeWrittenForLong(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	old := pc.accepted(t).HostID
	pc.becomeCopy()
	unblock := pc.blockFile(t)
	a := pc.open(t)
	for range maxObserved + maxProofs + 10 {
		if _, err := a.CheckIn(t.Context()); err == nil {
			t.Fatal("checked in although the new host ID cannot be stored")
		}
	}
	if n := len(a.over.Entries); n != 1 {
		t.Errorf("%d announcements of one record that gives way, want 1", n)
	}
	a.Close()
	unblock()
	out := pc.accepted(t)
	want := []checkin.Observation{{Kind: string(hostid.Copied), Mine: out.HostID, Other: old}}
	if diff := cmp.Diff(want, told(m.last(t))); diff != "" {
		t.Errorf("observations (-want +got):\n%s", diff)
	}
	pc.accepted(t)
	if got := told(m.last(t)); len(got) != 0 {
		t.Errorf("observed again: %v", got)
	}
}

// What was announced and did not come about is not reported.
func TestAnnouncementThatDidNotComeAbout(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	file, memory := takeOver(t, m, pc)
	unblock := pc.blockFile(t)
	a := pc.open(t)
	if _, err := a.CheckIn(t.Context()); err == nil || len(a.over.Entries) != 1 {
		t.Fatalf("%v, announced %v; want %s announced and not written", err, a.over.Entries, memory)
	}
	a.Close()
	unblock()
	store := pc.memory
	pc.memory = nil
	if out := pc.accepted(t); out.HostID != file || len(m.last(t).Observations) != 0 {
		t.Errorf("%s, observed %v; want %s and nothing", out.HostID, m.last(t).Observations, file)
	}
	pc.memory = store
	n := len(m.reports)
	pc.accepted(t)
	judgeTakeOver(t, m.reports[n:], file, memory)
}

// told are a report's observations without the sentences.
func told(r checkin.Report) (list []checkin.Observation) {
	for _, o := range r.Observations {
		o.Detail = ""
		list = append(list, o)
	}
	return list
}

// However much waits for a manager that never answers, nothing about it stops the PC, and no proof makes way.
func TestFullListOfAnnouncements(t *testing.T) {
	t.Parallel()
	pc := newPC(t, newManager(t))
	a := pc.open(t)
	defer a.Close()
	checkIn(t, a)
	announce := func(kind hostid.OverwriteKind) error {
		o := hostid.Overwrite{Kind: kind, Store: "memory", Old: hostid.Record{HostID: hostid.NewID(), Seed: hostid.NewSeed()}, New: hostid.Record{HostID: hostid.NewID(), Seed: hostid.NewSeed()}}
		if kind != hostid.Replaced {
			o.Store = hostid.FileStoreName
		}
		return a.beforeOverwrite(t.Context(), o)
	}
	for range maxProofs {
		if err := announce(hostid.Replaced); err != nil {
			t.Fatal(err)
		}
	}
	if err := announce(hostid.Replaced); err == nil || !strings.Contains(err.Error(), "check in first") {
		t.Errorf("one proof too many: %v", err)
	}
	for range maxObserved + 1 {
		if err := announce(hostid.Returned); err != nil {
			t.Fatal(err)
		}
	}
	var proofs int
	for _, w := range a.over.Entries {
		if w.Proof != "" {
			proofs++
		}
	}
	if proofs != maxProofs || len(a.over.Entries) != maxProofs+maxObserved {
		t.Errorf("%d proofs in %d announcements, want %d in %d", proofs, len(a.over.Entries), maxProofs, maxProofs+maxObserved)
	}
	a.Close()
	if a := pc.open(t); len(a.over.Entries) != maxProofs+maxObserved {
		t.Errorf("%d announcements read again, want %d", len(a.over.Entries), maxProofs+maxObserved)
	} else {
		a.Close()
	}
}

// A proof makes way only for another about the same record, and only if its new ID never was this PC's.
func TestWhichAnnouncementsMakeWay(t *testing.T) {
	t.Parallel()
	pc := newPC(t, newManager(t))
	a := pc.open(t)
	defer a.Close()
	present := checkIn(t, a).HostID
	old, seed := hostid.NewID(), hostid.NewSeed()
	announce := func(kind hostid.OverwriteKind, store string, id hostid.ID) {
		t.Helper()
		err := a.beforeOverwrite(t.Context(), hostid.Overwrite{Kind: kind, Store: store,
			Old: hostid.Record{HostID: old, Seed: seed}, New: hostid.Record{HostID: id, Seed: hostid.NewSeed()}})
		if err != nil {
			t.Fatal(err)
		}
	}
	never, later := hostid.NewID(), hostid.NewID()
	announce(hostid.Replaced, "memory", never)
	announce(hostid.Replaced, "memory", present) // takes never's place
	announce(hostid.Replaced, "other", never)    // another store: stays
	checkIn(t, a)                                // present is seen in use
	announce(hostid.Replaced, "memory", later)   // leaves present's: that was this PC's ID
	announce(hostid.Dropped, "memory", hostid.NewID())
	announce(hostid.Returned, hostid.FileStoreName, never)
	announce(hostid.Copied, hostid.FileStoreName, later) // the file still holds old, so never did not come
	got := []string{}
	for _, w := range a.over.Entries {
		name := map[hostid.ID]string{never: "never", later: "later", present: "present"}[w.New]
		got = append(got, fmt.Sprintf("%s %s %s", w.Kind, w.Store, name))
	}
	slices.Sort(got)
	want := []string{"copied file later", "dropped memory ", "replaced memory later", "replaced memory present", "replaced other never"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("announcements (-want +got):\n%s", diff)
	}
}

// takeOver arranges that the file holds another host ID than memory on this board.
func takeOver(t *testing.T, m *testManager, pc *testPC) (file, memory hostid.ID) {
	t.Helper()
	memory = pc.accepted(t).HostID
	pc.newDisk(t)
	store := pc.memory
	pc.memory = nil
	file = pc.accepted(t).HostID
	pc.memory = store
	return file, memory
}

// What a restore met is reported until a report with it was accepted, once, although nobody could be told then.
func TestConflictOfARestoreIsNotForgotten(t *testing.T) {
	t.Parallel()
	for name, arrange := range map[string]func(*testing.T, *testManager, *testPC) (mend func()){
		"no token": func(t *testing.T, m *testManager, pc *testPC) func() {
			os.Remove(pc.token)
			os.Remove(filepath.Join(pc.dir, chainName))
			return func() { pc.writeToken(t, m.token) }
		},
		"manager away": func(t *testing.T, m *testManager, pc *testPC) func() {
			m.judge = func(checkin.VerifiedReport) error { return errors.New("away") }
			return func() { m.judge = nil }
		},
		"refused": func(t *testing.T, m *testManager, pc *testPC) func() {
			m.judge = func(checkin.VerifiedReport) error { return refuse(checkin.Malformed) }
			return func() { m.judge = nil }
		},
		"deferred": func(t *testing.T, m *testManager, pc *testPC) func() {
			m.deferring = true
			return func() { m.deferring = false }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			pc := newPC(t, m)
			file, memory := takeOver(t, m, pc)
			mend := arrange(t, m, pc)
			for range 3 {
				if out := pc.checkIn(t); out.HostID != memory || out.Reply == checkin.Accepted {
					t.Fatalf("%s, reply %q; want %s restored and nothing accepted", out.HostID, out.Reply, memory)
				}
			}
			mend()
			n := len(m.reports)
			pc.accepted(t)
			pc.accepted(t)
			judgeTakeOver(t, m.reports[n:], file, memory)
		})
	}
}

// judgeTakeOver fails unless reports tell of the file's ID giving way in one report, or the same report sent twice.
func judgeTakeOver(t *testing.T, reports []checkin.VerifiedReport, file, memory hostid.ID) {
	t.Helper()
	want := []checkin.Observation{
		{Kind: string(hostid.Returned), Mine: memory, Other: file},
		{Kind: string(hostid.OtherID), Mine: memory, Other: file},
	}
	var times int
	for _, v := range reports {
		if got := told(v.Report); len(got) != 0 {
			times++
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("observations (-want +got):\n%s", diff)
			}
			for _, o := range v.Report.Observations {
				if o.Detail == "" {
					t.Errorf("%s without a sentence", o.Kind)
				}
			}
		}
	}
	if times != 1 {
		t.Errorf("told in %d reports, want 1", times)
	}
}

// Wherever the process ends while memory's ID takes the place of the file's, the manager hears of the conflict.
func TestCrashWhileReturning(t *testing.T) {
	t.Parallel()
	var file, memory hostid.ID
	everyCrash(t, func(t *testing.T, m *testManager, pc *testPC) {
		file, memory = takeOver(t, m, pc)
	}, func(t *testing.T, m *testManager, pc *testPC) {
		if id := m.last(t).HostID; id != memory {
			t.Errorf("host ID %s, want %s", id, memory)
		}
		var kinds []string
		for _, v := range m.reports {
			for _, o := range v.Report.Observations {
				if o.Mine != memory || o.Other != file {
					t.Errorf("observed %+v", o)
				}
				kinds = append(kinds, o.Kind)
			}
		}
		slices.Sort(kinds)
		// A process that ended between the reply and its note of it tells once more.
		if kinds = slices.Compact(kinds); !slices.Equal(kinds, []string{string(hostid.OtherID), string(hostid.Returned)}) {
			t.Errorf("observed %q", kinds)
		}
	})
}

// A board in another case is reported as long as nobody decided, whether or not the restore itself could be.
func TestOtherCaseIsReportedWhileItLasts(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	id := pc.accepted(t).HostID
	pc.newDisk(t)
	pc.facts.SystemSerial, pc.facts.ChassisSerial = "SYS0815", "CHS0815"
	m.judge = func(checkin.VerifiedReport) error { return refuse(checkin.Malformed) }
	pc.checkIn(t)
	m.judge = nil
	for range 2 {
		pc.accepted(t)
		if diff := cmp.Diff([]checkin.Observation{{Kind: string(hostid.OtherCase), Mine: id}}, told(m.last(t))); diff != "" {
			t.Errorf("observations (-want +got):\n%s", diff)
		}
		if !m.last(t).Pending || m.last(t).Observations[0].Detail == "" {
			t.Error("not pending, or without a sentence")
		}
	}
}

// Whatever the clock says, there is a host ID, in the file and in memory. One that is too early keeps nobody from
// checking in; one by which the certificate has ended is said.
func TestWrongClocks(t *testing.T) {
	t.Parallel()
	for year, accepted := range map[int]bool{1969: true, 1970: true, 2099: false} {
		m := newManager(t)
		m.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		pc := newPC(t, m)
		pc.skew = time.Until(time.Date(year, 1, 2, 0, 0, 0, 0, time.UTC))
		out := pc.checkIn(t)
		if out.HostID.IsZero() || pc.storedID(t) != out.HostID || out.CheckedIn != accepted {
			t.Errorf("%d: %s, %s in memory, checked in %v (%s)", year, out.HostID, pc.storedID(t), out.CheckedIn, out.Error)
		}
		if !accepted && (!strings.Contains(out.Error, "this PC's clock") || strings.Contains(out.Error, "\n")) {
			t.Errorf("%d: %q; want one line about the clock", year, out.Error)
		}
		s, err := ReadStatus(t.Context(), pc.dir)
		if err != nil || s.LastAttempt == nil || s.LastAttempt.Year() != year || s.LastError != out.Error {
			t.Errorf("%d: status %+v, %v", year, s, err)
		}
		pc.skew = 0
		if after := pc.accepted(t); after.HostID != out.HostID {
			t.Errorf("%d: then %s, want %s", year, after.HostID, out.HostID)
		}
		m.checkChains(t)
	}
}

// openBlind opens an agent whose hardware facts cannot be read, but for what is left.
func (pc *testPC) openBlind(t *testing.T, left hardware.Facts, wait time.Duration) *Agent {
	t.Helper()
	o := pc.options()
	o.Hardware = func(context.Context) (hardware.Facts, error) { return left, errors.New("SMBIOS:\n no access") }
	o.RestoreWait = wait
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Hardware that cannot be read once must not make another board's memory pass for this PC's: with a file nothing is
// restored, overwritten or written.
func TestForeignMemoryWhileHardwareCannotBeRead(t *testing.T) {
	t.Parallel()
	disk := hardware.Facts{Disks: []hardware.Disk{{Serial: "DSK4711A", System: true}}}
	for name, left := range map[string]hardware.Facts{"nothing known": {}, "disk known": disk, "placeholders known": {SystemSerial: "To Be Filled By O.E.M."}} {
		m := newManager(t)
		pc, other := newPC(t, m), newPC(t, m)
		other.becomeCopy()
		foreign := other.accepted(t).HostID
		id := pc.accepted(t).HostID
		pc.memory = other.memory
		writes := pc.memory.Writes
		file, err := os.ReadFile(filepath.Join(pc.dir, hostid.FileName))
		if err != nil {
			t.Fatal(err)
		}
		a := pc.openBlind(t, left, time.Hour) // which is for PCs without a host ID
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		out, err := a.CheckIn(ctx)
		cancel()
		a.Close()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if out.HostID != id || out.Origin != hostid.Kept || !out.CheckedIn {
			t.Errorf("%s: %s %s, checked in %v; want %s kept and reported (memory holds %s)", name, out.HostID, out.Origin, out.CheckedIn, id, foreign)
		}
		if len(out.Stores) != 1 || out.Stores[0].State != hostid.Unavailable || !strings.Contains(out.Stores[0].Error, "SMBIOS: no access") {
			t.Errorf("%s: stores %+v; want unavailable, and why in one line", name, out.Stores)
		}
		if now, err := os.ReadFile(filepath.Join(pc.dir, hostid.FileName)); err != nil || string(now) != string(file) {
			t.Errorf("%s: the host ID management file changed (%v)", name, err)
		}
		if pc.storedID(t) != foreign || pc.memory.Writes != writes {
			t.Errorf("%s: memory was written", name)
		}
		s, err := ReadStatus(t.Context(), pc.dir)
		if err != nil || s.HardwareError != out.HardwareError || !strings.Contains(s.HardwareError, "SMBIOS: no access") || strings.Contains(s.HardwareError, "\n") {
			t.Errorf("%s: status says %q, %v; want the error in one line", name, s.HardwareError, err)
		}
		if out := pc.accepted(t); out.HostID != id || out.Stores[0].State != hostid.Foreign || out.HardwareError != "" {
			t.Errorf("%s: then %s, stores %+v, hardware error %q; want %s and foreign memory", name, out.HostID, out.Stores, out.HardwareError, id)
		}
	}
}

// A copied disk in a PC whose hardware cannot be read right now does not get the original's ID into its memory.
func TestEmptyMemoryWhileHardwareCannotBeRead(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	onboard := pc.facts.NICs
	pc.facts.NICs = nil
	original := pc.accepted(t).HostID
	pc.becomeCopy()
	for _, left := range []hardware.Facts{{}, {TPMEKSHA256: strings.Repeat("ab", 32)}, {NICs: onboard}} {
		a := pc.openBlind(t, left, 0)
		out := checkIn(t, a)
		a.Close()
		if out.HostID != original || pc.memory.Writes != 0 {
			t.Errorf("%s, %d writes to memory; want %s kept and none", out.HostID, pc.memory.Writes, original)
		}
	}
	if out := pc.accepted(t); out.HostID == original || pc.storedID(t) != out.HostID {
		t.Errorf("then %s, %s in memory; want a new ID in both", out.HostID, pc.storedID(t))
	}
}

// A first installation on such a PC: provisional, until memory can be written.
func TestInstallationWhileHardwareCannotBeRead(t *testing.T) {
	t.Parallel()
	pc := newPC(t, newManager(t))
	a := pc.openBlind(t, hardware.Facts{}, 0)
	out := checkIn(t, a)
	a.Close()
	if out.Origin != hostid.Provisional || !out.CheckedIn || pc.memory.Writes != 0 || len(out.Reasons) != 1 || !strings.Contains(out.Reasons[0], "SMBIOS") {
		t.Errorf("%s, checked in %v, %d writes, reasons %q; want provisional, none, and why", out.Origin, out.CheckedIn, pc.memory.Writes, out.Reasons)
	}
	if after := pc.accepted(t); after.HostID != out.HostID || after.Provisional || pc.storedID(t) != out.HostID {
		t.Errorf("then %s, provisional %v, %s in memory; want %s stored", after.HostID, after.Provisional, pc.storedID(t), out.HostID)
	}
}

// The facts that are left may still tell: then it is as always.
func TestHardwareThatCanBeReadInPart(t *testing.T) {
	t.Parallel()
	pc := newPC(t, newManager(t))
	id := pc.accepted(t).HostID
	left := pc.facts
	left.Disks, left.NICs = nil, nil
	pc.newDisk(t)
	a := pc.openBlind(t, left, 0)
	defer a.Close()
	if out := checkIn(t, a); out.HostID != id || out.Origin != hostid.Restored || out.HardwareError == "" {
		t.Errorf("%s %s, hardware error %q; want %s restored", out.HostID, out.Origin, out.HardwareError, id)
	}
}

// On a new disk the hardware is waited for before a host ID is generated.
func TestNewDiskWaitsForHardware(t *testing.T) {
	t.Parallel()
	pc := newPC(t, newManager(t))
	id := pc.accepted(t).HostID
	pc.newDisk(t)
	o := pc.options()
	o.RestoreWait = time.Minute
	asked := 0
	o.Hardware = func(context.Context) (hardware.Facts, error) {
		if asked++; asked < 3 {
			return hardware.Facts{}, errors.New("not yet")
		}
		return pc.facts, nil
	}
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if out := checkIn(t, a); out.HostID != id || out.Origin != hostid.Restored || asked != 3 || out.HardwareError != "" {
		t.Errorf("%s %s, asked %d times; want %s restored at the third", out.HostID, out.Origin, asked, id)
	}
}

// Waiting for hardware ends with the command.
func TestWaitForHardwareCanBeCancelled(t *testing.T) {
	t.Parallel()
	pc := newPC(t, newManager(t))
	a := pc.openBlind(t, hardware.Facts{}, time.Hour)
	defer a.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.CheckIn(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("CheckIn: %v, want the context's error", err)
	}
}

// After the wait the PC goes on as where memory cannot be read: it serves with a provisional ID, touches no memory,
// and is the asset that it was as soon as its hardware can be read.
func TestNewDiskWhoseHardwareStaysUnreadable(t *testing.T) {
	t.Parallel()
	for name, disk := range map[string][]hardware.Disk{"disk known": {{Serial: "DSK4711AX", System: true}}, "nothing known": nil} {
		m := newManager(t)
		pc := newPC(t, m)
		old := pc.accepted(t).HostID
		writes := pc.memory.Writes
		pc.newDisk(t)
		a := pc.openBlind(t, hardware.Facts{Disks: disk}, 0)
		out := checkIn(t, a)
		again := checkIn(t, a)
		a.Close()
		if out.HostID == old || out.Origin != hostid.Provisional || !out.CheckedIn || again.HostID != out.HostID {
			t.Errorf("%s: %s %s, checked in %v, then %s; want one provisional ID", name, out.HostID, out.Origin, out.CheckedIn, again.HostID)
		}
		if pc.storedID(t) != old || pc.memory.Writes != writes {
			t.Errorf("%s: memory was written", name)
		}
		pc.accepted(t)
		after := pc.accepted(t)
		if pc.storedID(t) != after.HostID || after.Provisional {
			t.Errorf("%s: %s in memory, %s in the file, provisional %v; want them to agree", name, pc.storedID(t), after.HostID, after.Provisional)
		}
		var linked bool // both IDs are known to be one PC's
		for _, v := range m.reports {
			linked = linked || len(v.Report.Replaced) == 1
			for _, o := range v.Report.Observations {
				linked = linked || o.Kind == string(hostid.OtherID) && o.Mine == old && o.Other == out.HostID
			}
		}
		if !linked {
			t.Errorf("%s: nothing tells the manager that %s and %s are one PC's", name, old, out.HostID)
		}
	}
}
