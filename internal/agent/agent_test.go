package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
	"samehost/internal/hostid/storetest"
)

// S7, S8: the host ID generated at installation is in memory at once, and the chain goes on from there.
func TestFirstCheckInAndNext(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	out := pc.accepted(t)
	if out.Origin != hostid.Generated || out.Provisional || pc.storedID(t) != out.HostID {
		t.Fatalf("origin %s, provisional %v, stored %s; want generated and %s stored", out.Origin, out.Provisional, pc.storedID(t), out.HostID)
	}
	first := m.last(t)
	if first.EpochBy != checkin.EpochInstall || first.Counter != 1 || first.Previous != (checkin.Digest{}) || m.reports[0].Enrol == nil {
		t.Errorf("first report: epoch by %s, counter %d, previous %s, enrol %v", first.EpochBy, first.Counter, first.Previous, m.reports[0].Enrol)
	}
	if diff := cmp.Diff([]checkin.StoreState{{Name: "memory", State: "stored"}}, first.Stores); diff != "" {
		t.Errorf("stores (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(pc.facts, first.Facts); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}

	again := pc.accepted(t)
	second := m.last(t)
	if again.HostID != out.HostID || again.Origin != hostid.Kept {
		t.Errorf("second: %s %s, want %s kept", again.HostID, again.Origin, out.HostID)
	}
	if second.Origin != hostid.Generated {
		t.Errorf("origin in the second report is %s: an installation's origin stays", second.Origin)
	}
	if second.Epoch != first.Epoch || second.Run == first.Run || m.reports[1].Enrol != nil {
		t.Errorf("epoch %s after %s, run %s after %s, enrol %v: want one epoch, a run for each start, no enrolment", second.Epoch, first.Epoch, second.Run, first.Run, m.reports[1].Enrol)
	}
	m.checkChains(t)
}

// S2, S3: after a disk failure the host ID comes back, and the report is signed by the same key.
func TestDiskFailure(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	before := pc.accepted(t)
	pc.newDisk(t)
	m.revoked = true // the image carries an old token: the key is proof enough
	after := pc.accepted(t)
	if after.HostID != before.HostID || after.Origin != hostid.Restored {
		t.Fatalf("%s %s, want %s restored", after.HostID, after.Origin, before.HostID)
	}
	r := m.last(t)
	if r.EpochBy != checkin.EpochRestore || r.Epoch == m.reports[0].Report.Epoch || r.Counter != 1 || r.Origin != hostid.Restored {
		t.Errorf("epoch by %s, counter %d, origin %s, same epoch %v", r.EpochBy, r.Counter, r.Origin, r.Epoch == m.reports[0].Report.Epoch)
	}
	if string(m.reports[0].Key) != string(m.reports[1].Key) {
		t.Error("another key signs after the restore")
	}
	m.checkChains(t)
}

// Crash between the host ID management file and the chain: the epoch still began by a restore.
func TestRestoreIsRememberedWithoutChain(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	pc.accepted(t)
	pc.newDisk(t)
	pc.accepted(t)
	if err := os.Remove(filepath.Join(pc.dir, chainName)); err != nil {
		t.Fatal(err)
	}
	pc.accepted(t)
	if by := m.last(t).EpochBy; by != checkin.EpochRestore {
		t.Errorf("epoch by %s, want restore", by)
	}
}

// The host ID management file alone is lost and restored: a restore, although the chain is there.
func TestRestoreBeginsAnEpoch(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	id := pc.accepted(t).HostID
	if err := os.Remove(filepath.Join(pc.dir, hostid.FileName)); err != nil {
		t.Fatal(err)
	}
	if out := pc.accepted(t); out.HostID != id || out.Origin != hostid.Restored {
		t.Errorf("%s %s, want %s restored", out.HostID, out.Origin, id)
	}
	if r := m.last(t); r.EpochBy != checkin.EpochRestore || r.Counter != 1 {
		t.Errorf("epoch by %s, counter %d; want a new one by restore", r.EpochBy, r.Counter)
	}
}

// The host ID of the folder changes: a new epoch, enrolled anew, and the status does not mix the two.
func TestNewIDInTheSameFolder(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	pc.memory = nil
	old := pc.accepted(t).HostID
	if err := os.Remove(filepath.Join(pc.dir, hostid.FileName)); err != nil {
		t.Fatal(err)
	}
	m.judge = func(checkin.VerifiedReport) error { return errors.New("away") }
	id := pc.checkIn(t).HostID
	if id == old {
		t.Fatalf("host ID %s came back from nowhere", id)
	}
	if s, err := ReadStatus(t.Context(), pc.dir); err != nil || s.HostID != id || s.LastCheckIn != nil {
		t.Errorf("status %+v, %v; want %s, never checked in", s, err, id)
	}
	m.judge = nil
	pc.accepted(t)
	if len(m.received) != 4 { // one, one that is not answered, that again, another
		t.Errorf("%d reports sent, want 4", len(m.received))
	}
	if v := m.reports[1]; v.Report.EpochBy != checkin.EpochNewID || v.Report.Counter != 1 || v.Enrol == nil {
		t.Errorf("epoch by %s, counter %d, enrol %v; want a new epoch by new ID, enrolling", v.Report.EpochBy, v.Report.Counter, v.Enrol)
	}
	m.checkChains(t)
}

// overwriteProof fails the test if a record of another ID is overwritten while no proof of it is on disk.
type overwriteProof struct {
	*storetest.Memory
	t      *testing.T
	folder string
}

func (s overwriteProof) Save(ctx context.Context, r hostid.Record) error {
	if old, err := s.Memory.Load(ctx); err == nil && old.HostID != r.HostID {
		o, _, err := loadOverwritten(s.folder, time.Now())
		if err != nil || len(o.Entries) != 1 || o.Entries[0].Old != old.HostID || o.Entries[0].New != r.HostID || o.Entries[0].Proof == "" {
			s.t.Errorf("overwriting %s with %s, but on disk is %+v, %v", old.HostID, r.HostID, o, err)
		}
	}
	return s.Memory.Save(ctx, r)
}

// S11: restoring fails, a new ID is generated, the old one is overwritten at the next start; the manager gets the
// proof until it names the old ID, and no longer.
func TestReplacedIDIsProvedUntilNamed(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	old := pc.accepted(t).HostID
	pc.newDisk(t)
	pc.memory.Err = fmt.Errorf("%w: locked out", hostid.ErrUnavailable)
	fresh := pc.accepted(t)
	if fresh.HostID == old || fresh.Origin != hostid.Provisional || len(fresh.Reasons) == 0 {
		t.Fatalf("%s %s, reasons %q; want another ID than %s, provisional, with a reason", fresh.HostID, fresh.Origin, fresh.Reasons, old)
	}
	if n := len(m.last(t).Replaced); n != 0 {
		t.Errorf("%d proofs while nothing was overwritten", n)
	}
	pc.memory.Err = nil
	pc.store = overwriteProof{pc.memory, t, pc.dir}
	for range 2 {
		pc.accepted(t)
		r := m.last(t)
		if len(r.Replaced) != 1 {
			t.Fatalf("%d proofs, want 1", len(r.Replaced))
		}
		got, key, err := checkin.VerifyReplacement(r.Replaced[0])
		if err != nil {
			t.Fatal(err)
		}
		want := checkin.Replacement{Old: old, New: fresh.HostID, NewKey: m.reports[len(m.reports)-1].Key, Audience: m.fingerprint()}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("replacement (-want +got):\n%s", diff)
		}
		if string(key) != m.known[old] {
			t.Error("the proof is not signed by the old ID's key")
		}
	}
	if pc.storedID(t) != fresh.HostID {
		t.Fatalf("memory holds %s, want %s", pc.storedID(t), fresh.HostID)
	}
	m.named = []hostid.ID{old}
	pc.accepted(t)
	m.named = nil
	pc.accepted(t)
	if n := len(m.last(t).Replaced); n != 0 {
		t.Errorf("%d proofs after the manager named the old ID", n)
	}
	m.checkChains(t)
}

// Without a manager there is nobody to prove anything to, so nothing is overwritten.
func TestNothingIsOverwrittenWithoutManager(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	old := pc.accepted(t).HostID
	pc.newDisk(t)
	os.Remove(pc.token)
	pc.memory.Err = hostid.ErrUnavailable
	out := pc.checkIn(t)
	if out.CheckedIn || !strings.Contains(out.Error, "enrolment token") {
		t.Errorf("checked in %v, error %q; want one about the enrolment token", out.CheckedIn, out.Error)
	}
	pc.memory.Err = nil
	if out := pc.checkIn(t); pc.storedID(t) != old || out.HostID == old {
		t.Errorf("memory holds %s, the client has %s; want the old %s untouched", pc.storedID(t), out.HostID, old)
	}
	pc.writeToken(t, m.token)
	if out := pc.accepted(t); pc.storedID(t) != out.HostID || len(m.last(t).Replaced) != 1 {
		t.Errorf("memory holds %s, the client has %s with %d proofs", pc.storedID(t), out.HostID, len(m.last(t).Replaced))
	}
}

// Store failures never stop a check-in, whatever the store does.
func TestStoreFailuresDoNotStopCheckIns(t *testing.T) {
	t.Parallel()
	for name, arrange := range map[string]func(*testPC){
		"unavailable":     func(pc *testPC) { pc.memory.Err = fmt.Errorf("%w: as the test wants", hostid.ErrUnavailable) },
		"not initialized": func(pc *testPC) { pc.memory.Err = hostid.ErrNotInitialized },
		"cut while saved": func(pc *testPC) { pc.memory.Cut(10) },
		"worn out":        func(pc *testPC) { pc.store = wornOut{} },
	} {
		m := newManager(t)
		pc := newPC(t, m)
		arrange(pc)
		out := pc.accepted(t)
		if len(out.Stores) != 1 || out.Stores[0].State == hostid.Stored || out.Stores[0].Error == "" {
			t.Errorf("%s: stores %+v; want one that is not stored, with an error", name, out.Stores)
		}
		if got := m.last(t).Stores; len(got) != 1 || got[0].State != string(out.Stores[0].State) || got[0].Error != out.Stores[0].Error {
			t.Errorf("%s: reported %+v, want as in %+v", name, got, out.Stores)
		}
	}
}

// wornOut fails in a way that no store should.
type wornOut struct{}

func (wornOut) Load(context.Context) (hostid.Record, error) {
	return hostid.Record{}, hostid.ErrNotStored
}
func (wornOut) Save(context.Context, hostid.Record) error { return errors.New("flash is worn out") }

func TestWithoutAnyStore(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	pc.memory = nil
	out := pc.accepted(t)
	if out.Origin != hostid.Generated || out.Provisional || len(out.Stores) != 0 {
		t.Errorf("origin %s, provisional %v, stores %v; want generated, no stores", out.Origin, out.Provisional, out.Stores)
	}
}

// Wear: with nothing changed, nothing is written to memory.
func TestHundredCheckInsWriteMemoryOnce(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	a := pc.open(t)
	defer a.Close()
	for range 100 {
		checkIn(t, a)
	}
	if pc.memory.Writes != 1 {
		t.Errorf("%d writes, want 1", pc.memory.Writes)
	}
	if len(m.reports) != 100 {
		t.Errorf("%d reports, want 100", len(m.reports))
	}
	m.checkChains(t)
}

// A lost reply: the report is sent again unchanged, also by the next process, and counts once.
func TestLostReply(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	m.loseReply = true
	for range 3 {
		if out := pc.checkIn(t); out.CheckedIn || out.Refused {
			t.Fatal("checked in without a reply")
		}
	}
	if len(m.reports) != 1 || len(m.received) != 3 {
		t.Fatalf("%d accepted of %d received, want 1 of 3", len(m.reports), len(m.received))
	}
	if m.received[0] != m.received[1] || m.received[1] != m.received[2] {
		t.Fatal("the report changed between two sendings")
	}
	m.set(func() { m.loseReply = false })
	pc.accepted(t)
	if len(m.reports) != 2 || m.received[3] != m.received[0] {
		t.Errorf("%d accepted; want the pending one answered again and a new one", len(m.reports))
	}
	m.checkChains(t)
}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	pc.accepted(t)
	m.judge = func(checkin.VerifiedReport) error { return errors.New("database is away") }
	for range 2 {
		out := pc.checkIn(t)
		if out.CheckedIn || out.Refused || !strings.Contains(out.Error, "HTTP 503") {
			t.Fatalf("checked in %v, refused %v, error %q; want HTTP 503", out.CheckedIn, out.Refused, out.Error)
		}
	}
	s, err := ReadStatus(t.Context(), pc.dir)
	if err != nil || s.LastCheckIn == nil || s.LastAttempt == nil || !strings.Contains(s.LastError, "HTTP 503") {
		t.Errorf("status %+v, %v; want the last check-in and the error", s, err)
	}
	m.judge = nil
	pc.accepted(t)
	if len(m.received) != 5 || m.received[1] != m.received[2] || m.received[2] != m.received[3] || m.received[4] == m.received[3] {
		t.Errorf("received %v; want one, the same three times, another", m.received)
	}
	if s, err := ReadStatus(t.Context(), pc.dir); err != nil || s.LastError != "" {
		t.Errorf("last error %q, %v; want none after success", s.LastError, err)
	}
	m.checkChains(t)
}

// A client's token does not admit a relay: whoever lacks one, or has a bad one, is told which to ask for.
func TestWhichTokenToAskFor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		relay func() checkin.RelayState
		want  string
	}{
		{nil, "run `samehost-manager token create` and put"},
		{func() checkin.RelayState { return checkin.RelayState{} }, "run `samehost-manager token create --relay` and put"},
	} {
		m := newManager(t)
		pc := newPC(t, m)
		o := pc.options()
		o.Relay = c.relay
		a, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		m.set(func() { m.judge = func(checkin.VerifiedReport) error { return refuse(checkin.BadToken) } })
		if out := checkIn(t, a); !strings.Contains(out.Error, c.want) || !strings.Contains(out.Error, "the new line") {
			t.Errorf("bad token: %q, want %q in it", out.Error, c.want)
		}
		a.o.TokenFile = filepath.Join(t.TempDir(), "none")
		m.set(func() { m.judge = func(checkin.VerifiedReport) error { return refuse(checkin.NeedsEnrolment) } })
		if out := checkIn(t, a); !strings.Contains(out.Error, "no enrolment token: ") || !strings.Contains(out.Error, c.want) {
			t.Errorf("no token: %q, want %q in it", out.Error, c.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		code checkin.RefusalCode
		want string
	}{
		{checkin.Malformed, "manager's log"},
		{checkin.WrongAudience, "higher_system"},
		{checkin.NeedsEnrolment, "token create"},
		{checkin.BadToken, "token create"},
	} {
		m := newManager(t)
		pc := newPC(t, m)
		m.judge = func(checkin.VerifiedReport) error { return refuse(test.code) }
		out := pc.checkIn(t)
		if out.CheckedIn || !out.Refused || !strings.Contains(out.Error, string(test.code)) || !strings.Contains(out.Error, test.want) {
			t.Errorf("%s: checked in %v, refused %v, error %q; want %q in it", test.code, out.CheckedIn, out.Refused, out.Error, test.want)
		}
		if out.HostID != pc.storedID(t) {
			t.Errorf("%s: the host ID is not in memory", test.code)
		}
		// A refused report never happened: the next takes its place.
		m.judge = nil
		pc.accepted(t)
		if r := m.last(t); r.Counter != 1 || r.Previous != (checkin.Digest{}) {
			t.Errorf("%s: then counter %d, previous %s; want the first of the chain", test.code, r.Counter, r.Previous)
		}
	}
}

// The manager lost its database: the host enrols again by itself.
func TestEnrolsAgainWhenForgotten(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	pc.accepted(t)
	clear(m.known)
	pc.accepted(t)
	if m.reports[1].Enrol == nil {
		t.Error("the second report does not enrol")
	}
	clear(m.known)
	os.Remove(pc.token)
	if out := pc.checkIn(t); !out.Refused || !strings.Contains(out.Error, "no enrolment token") {
		t.Errorf("refused %v, error %q; want one about the token", out.Refused, out.Error)
	}
	pc.writeToken(t, m.token)
	pc.accepted(t)
	m.checkChains(t)
}

// An enrolled PC needs no token any more, and a damaged one does not keep it from its manager.
func TestTokenIsNeededOnce(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	pc.accepted(t)
	if err := os.WriteFile(pc.token, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	pc.accepted(t)
	if err := os.Remove(pc.token); err != nil {
		t.Fatal(err)
	}
	pc.accepted(t)
}

// Another manager's token moves the PC there: same ID, a chain of its own.
func TestAnotherManager(t *testing.T) {
	t.Parallel()
	m, other := newManager(t), newManager(t)
	pc := newPC(t, m)
	id := pc.accepted(t).HostID
	m.judge = func(checkin.VerifiedReport) error { return errors.New("away") }
	pc.checkIn(t) // leaves a report pending for the old one
	pc.manager = other
	pc.writeToken(t, other.token)
	if out := pc.accepted(t); out.HostID != id {
		t.Errorf("host ID %s, want %s", out.HostID, id)
	}
	if r := other.last(t); r.Counter != 1 || r.EpochBy != checkin.EpochInstall {
		t.Errorf("counter %d, epoch by %s; want a new chain", r.Counter, r.EpochBy)
	}
	pc.accepted(t)
	other.checkChains(t)
}

// deferred is no acceptance: a host that is not enrolled sends the same report until the manager has answered it, so that a
// relay keeps it once; the chain of an enrolled one goes on.
func TestDeferred(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	m.deferring = true
	for range 2 {
		if out := pc.checkIn(t); !out.CheckedIn || out.Reply != checkin.Deferred || out.Enrolled {
			t.Fatalf("checked in %v, reply %q, enrolled %v; want deferred", out.CheckedIn, out.Reply, out.Enrolled)
		}
		if s := pc.status(t); s.Enrolled || s.LastReply != checkin.Deferred || s.LastCheckIn == nil || s.LastAccepted != nil || s.LastError != "" {
			t.Errorf("status %+v; want checked in, not accepted, not enrolled", s)
		}
	}
	m.deferring = false
	clear(m.known)
	if out := pc.accepted(t); !out.Enrolled {
		t.Error("accepted, but not enrolled")
	}
	accepted := pc.status(t).LastAccepted
	if s := pc.status(t); !s.Enrolled || accepted == nil {
		t.Errorf("status %+v; want accepted and enrolled", s)
	}
	m.deferring = true
	pc.checkIn(t)
	if s := pc.status(t); !s.Enrolled || s.LastAccepted == nil || !s.LastAccepted.Equal(*accepted) || s.LastReply != checkin.Deferred {
		t.Errorf("deferred again: status %+v; want enrolled, and accepted at %s", s, accepted)
	}
	first, second := m.received[0], m.received[3]
	if diff := cmp.Diff([]checkin.Digest{first, first, first, second, m.received[4]}, m.received); diff != "" {
		t.Errorf("received (-want +got):\n%s", diff)
	}
	if r := m.last(t); r.Counter != 2 || r.Previous != first || m.reports[0].Enrol == nil {
		t.Errorf("counter %d, previous %s, enrol %v; want the second, after %s, enrolling", r.Counter, r.Previous, m.reports[0].Enrol, first)
	}
}

// What the manager said to the report before comes with the relay's next word: the client takes it, orders and all, if the
// manager signed it for that very report.
func TestLateReply(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	m.interval = 7 * time.Minute
	pc := newPC(t, m)
	a := pc.open(t)
	defer a.Close()
	checkIn(t, a)
	reply := func(of checkin.Digest, key ed25519.PrivateKey, interval time.Duration) *checkin.LateReply {
		r, err := checkin.SignReply(checkin.Reply{Report: of, Status: checkin.Accepted, HostID: a.chain.HostID, Interval: interval, Time: time.Now().UTC(),
			Orders: []checkin.Order{{ID: "late", Kind: checkin.OrderNewEpoch, HostID: a.chain.HostID, Epoch: a.chain.Epoch, Run: a.run.token}}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return &checkin.LateReply{Report: of, Raw: r.Raw}
	}
	m.deferring = true
	checkIn(t, a)
	epoch, other := a.chain.Epoch, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	for name, late := range map[string]func() *checkin.LateReply{
		"by another key":    func() *checkin.LateReply { return reply(a.chain.Previous, other, time.Hour) },
		"to another report": func() *checkin.LateReply { return reply(checkin.Digest{1}, m.key, time.Hour) },
	} {
		m.late = late()
		checkIn(t, a)
		if a.interval() != 7*time.Minute || a.chain.Epoch != epoch {
			t.Errorf("%s: it was taken", name)
		}
	}
	m.late = &checkin.LateReply{Report: a.chain.Previous, Refused: &checkin.Refusal{Code: checkin.BadToken}}
	if out := checkIn(t, a); !out.CheckedIn || !out.Enrolled {
		t.Errorf("a late refusal: %+v", out)
	}
	before := a.chain.Previous
	m.late = reply(before, m.key, time.Hour)
	checkIn(t, a)
	if a.interval() != time.Hour || a.chain.ReplyTo != before {
		t.Errorf("interval %s, reply to %s; want that of the late reply", a.interval(), a.chain.ReplyTo)
	}
	if a.chain.Epoch == epoch || !slices.Contains(a.chain.Done, "late") {
		t.Error("its order is not carried out")
	}
}

func TestOrders(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	a := pc.open(t)
	defer a.Close()
	order := func(kind string, change func(*checkin.Order)) {
		m.orders = func(v checkin.VerifiedReport) []checkin.Order {
			o := checkin.Order{ID: "order-" + kind, Kind: checkin.OrderKind(kind), HostID: v.Report.HostID, Epoch: v.Report.Epoch, Run: v.Report.Run}
			if change != nil {
				change(&o)
			}
			return []checkin.Order{o, o}
		}
	}
	done := func() []string { return m.last(t).Done }

	for name, change := range map[string]func(*checkin.Order){
		"another run":     func(o *checkin.Order) { o.Run = checkin.NewToken() },
		"another epoch":   func(o *checkin.Order) { o.Epoch = checkin.NewToken() },
		"another host ID": func(o *checkin.Order) { o.HostID = hostid.NewID() },
	} {
		order(string(checkin.OrderNewEpoch), change)
		checkIn(t, a)
		checkIn(t, a)
		if len(done()) != 0 || m.last(t).EpochBy != checkin.EpochInstall {
			t.Errorf("%s: an order that is not meant for this run was carried out", name)
		}
	}
	order("make-coffee", nil)
	checkIn(t, a)
	checkIn(t, a)
	if len(done()) != 0 {
		t.Errorf("done %v, but nobody can do that", done())
	}

	order(string(checkin.OrderFullReport), nil)
	checkIn(t, a)
	m.orders = nil
	m.loseReply = true // the acknowledgement arrives, the reply to it does not
	checkIn(t, a)
	if diff := cmp.Diff([]string{"order-full-report"}, done()); diff != "" {
		t.Errorf("done (-want +got):\n%s", diff)
	}
	m.set(func() { m.loseReply = false })
	checkIn(t, a)
	checkIn(t, a)
	if len(done()) != 0 {
		t.Errorf("done %v after the acknowledgement was accepted", done())
	}

	before := m.last(t)
	order(string(checkin.OrderNewEpoch), nil)
	checkIn(t, a)
	m.orders = nil
	checkIn(t, a)
	after := m.last(t)
	if after.Epoch == before.Epoch || after.EpochBy != checkin.EpochOrder || after.Counter != 1 {
		t.Errorf("epoch by %s, counter %d; want a new epoch by order", after.EpochBy, after.Counter)
	}
	if diff := cmp.Diff([]string{"order-new-epoch"}, after.Done); diff != "" {
		t.Errorf("done (-want +got):\n%s", diff)
	}
	m.checkChains(t)
}

func TestRunEndsWithSleepAndAgeLeavesItOut(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	a := pc.open(t)
	defer a.Close()
	checkIn(t, a)
	first := m.last(t)
	pc.awake += 90 * time.Second
	pc.boot += 90*time.Second + sleepSlack // the clocks' own coarseness
	checkIn(t, a)
	second := m.last(t)
	if second.Run != first.Run || second.AgeMS != 90_000 {
		t.Errorf("awake: same run %v, age %d ms; want the same run, 90000 ms", second.Run == first.Run, second.AgeMS)
	}
	if a.left() <= 0 {
		t.Error("a check-in is due at once although the PC did not sleep")
	}
	pc.awake += 10 * time.Second
	pc.boot += 8 * time.Hour
	if a.left() > maxSpread {
		t.Error("no check-in is due after a sleep")
	}
	checkIn(t, a)
	third := m.last(t)
	if third.Run == first.Run || third.AgeMS != 0 || third.Epoch != first.Epoch {
		t.Errorf("after sleep: same run %v, age %d ms, same epoch %v; want a new run in the epoch", third.Run == first.Run, third.AgeMS, third.Epoch == first.Epoch)
	}
}

func TestUnreadableChain(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	for name, damage := range map[string]func([]byte) []byte{
		"cut":       func(b []byte) []byte { return b[:len(b)/2] },
		"empty":     func([]byte) []byte { return nil },
		"bit":       func(b []byte) []byte { c := slices.Clone(b); c[len(c)/2] ^= 1; return c },
		"something": func(b []byte) []byte { return append(slices.Clone(b), "{}"...) },
		"too long":  func(b []byte) []byte { return append(slices.Clone(b), make([]byte, stateBound)...) },
		"unsigned": func(b []byte) []byte {
			var c chain
			if err := parseState(b, &c); err != nil {
				t.Fatal(err)
			}
			c.Reply = c.Reply[:len(c.Reply)-4] + "AAAA"
			path := filepath.Join(t.TempDir(), "chain")
			if err := writeState(path, c); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return b
		},
	} {
		pc := newPC(t, m)
		id := pc.accepted(t).HostID
		epoch := m.last(t).Epoch
		path := filepath.Join(pc.dir, chainName)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		bad := damage(b)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // opening without reporting leaves everything as it is, once
			pc.open(t).Close()
		}
		if got := pc.files(t, chainName+".corrupt-*"); len(got) != 1 {
			t.Errorf("%s: set aside as %q, want one file", name, got)
		}
		out := pc.accepted(t)
		r := m.last(t)
		if out.HostID != id || r.EpochBy != checkin.EpochUnread || r.Epoch == epoch || r.Counter != 1 {
			t.Errorf("%s: %s, epoch by %s, counter %d; want %s in a new epoch, unreadable", name, out.HostID, r.EpochBy, r.Counter, id)
		}
	}
	m.checkChains(t)
}

func TestNewerStateIsLeftAlone(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	for _, name := range []string{chainName, overwrittenName} {
		pc := newPC(t, m)
		pc.accepted(t)
		path := filepath.Join(pc.dir, name)
		newer := []byte(`{"version":2,"what":"we cannot know"}`)
		if err := os.WriteFile(path, newer, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(pc.options()); !errors.Is(err, hostid.ErrNewer) {
			t.Errorf("%s: Open: %v, want ErrNewer", name, err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != string(newer) {
			t.Errorf("%s: now %q, %v; want it untouched", name, got, err)
		}
		if _, err := Open(pc.options()); errors.Is(err, hostid.ErrLocked) {
			t.Errorf("%s: the lock is still held after Open failed", name)
		}
	}
}

func TestOneAgentPerFolder(t *testing.T) {
	t.Parallel()
	pc := newPC(t, newManager(t))
	a := pc.open(t)
	if _, err := Open(pc.options()); !errors.Is(err, hostid.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("second Open: %v, want ErrLocked with the process ID", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	pc.open(t).Close()
}

func TestFolderRemovedUnderneath(t *testing.T) {
	t.Parallel()
	pc := newPC(t, newManager(t))
	a := pc.open(t)
	defer a.Close()
	checkIn(t, a)
	if err := os.RemoveAll(pc.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := a.CheckIn(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("CheckIn: %v, want ErrGone", err)
	}
	if _, err := os.Stat(pc.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is made again: %v", err)
	}
	if err := os.Mkdir(pc.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(pc.dir, "..", "other")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	os.Remove(pc.dir)
	if err := os.Rename(other, pc.dir); err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("Run: %v, want ErrGone", err)
	}
}

// Certificates are judged by the later of the clock and the manager's last word.
func TestClockForCertificates(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	m.clock = time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	pc := newPC(t, m)
	a := pc.open(t)
	if now := a.now(); time.Since(now).Abs() > time.Minute {
		t.Errorf("before the first reply: %s, want the clock's", now)
	}
	checkIn(t, a)
	if !a.now().Equal(m.clock) {
		t.Errorf("after a reply of %s: %s", m.clock, a.now())
	}
	a.Close()
	a = pc.open(t)
	defer a.Close()
	if !a.now().Equal(m.clock) {
		t.Errorf("after a restart: %s, want %s", a.now(), m.clock)
	}
	pc.skew = 20 * 365 * 24 * time.Hour
	if now := a.now(); !now.After(m.clock) {
		t.Errorf("with a later clock: %s", now)
	}
}

func TestStatusWhileTheServiceRuns(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	if _, err := ReadStatus(t.Context(), pc.dir); !errors.Is(err, hostid.ErrNotStored) {
		t.Errorf("before: %v, want ErrNotStored", err)
	}
	a := pc.open(t)
	defer a.Close()
	reasons := checkIn(t, a).Reasons
	if len(reasons) == 0 {
		t.Error("nothing says why the host ID was not restored")
	}
	out := checkIn(t, a)
	s, err := ReadStatus(t.Context(), pc.dir)
	if err != nil {
		t.Fatal(err)
	}
	if s.LastCheckIn == nil || time.Since(*s.LastCheckIn) > time.Minute {
		t.Errorf("last check-in %v", s.LastCheckIn)
	}
	want := Status{
		HostID: out.HostID, Origin: hostid.Generated, Stores: []hostid.StoreState{{Name: "memory", State: hostid.Stored, HostID: out.HostID}},
		Reasons: reasons, HigherSystem: m.server.URL, Manager: m.fingerprint(), LastReply: checkin.Accepted, IntervalS: 3600,
		Enrolled: true, LastCheckIn: s.LastCheckIn, LastAccepted: s.LastCheckIn, LastAttempt: s.LastAttempt,
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if err := os.WriteFile(filepath.Join(pc.dir, statusName), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := ReadStatus(t.Context(), pc.dir); err != nil || s.HostID != out.HostID || s.Origin != hostid.Generated {
		t.Errorf("with an unreadable status file: %+v, %v; want the host ID all the same", s, err)
	}
}

func TestNoHigherSystem(t *testing.T) {
	t.Parallel()
	pc := newPC(t, newManager(t))
	o := pc.options()
	o.HigherSystem, o.Connect, o.TokenFile = "", nil, ""
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if out := checkIn(t, a); out.HostID != pc.storedID(t) || out.CheckedIn || !strings.Contains(out.Error, "higher_system") {
		t.Errorf("%+v; want the host ID stored, and an error about higher_system", out)
	}
}

func TestHardwareThatCannotBeRead(t *testing.T) {
	t.Parallel()
	pc := newPC(t, newManager(t))
	id := pc.accepted(t).HostID
	o := pc.options()
	o.Hardware = func(context.Context) (hardware.Facts, error) { return hardware.Facts{}, errors.New("no access") }
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if out := checkIn(t, a); !out.CheckedIn || out.HostID != id {
		t.Errorf("%+v; want %s checked in", out, id)
	}
}

// hanging never answers until its context ends, and then not with a store's error.
type hanging struct{}

func (hanging) Load(ctx context.Context) (hostid.Record, error) {
	<-ctx.Done()
	return hostid.Record{}, ctx.Err()
}

func (hanging) Save(ctx context.Context, _ hostid.Record) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestStoreThatHangsIsUnavailable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := boundedStore{hanging{}}
		if _, err := s.Load(t.Context()); !errors.Is(err, hostid.ErrUnavailable) {
			t.Errorf("Load: %v, want ErrUnavailable", err)
		}
		if err := s.Save(t.Context(), hostid.Record{}); !errors.Is(err, hostid.ErrUnavailable) {
			t.Errorf("Save: %v, want ErrUnavailable", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Load(ctx); errors.Is(err, hostid.ErrUnavailable) {
			t.Errorf("Load as the caller gives up: %v, want the context's error", err)
		}
	})
}

func TestPurgeLeavesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	pc := newPC(t, newManager(t))
	if err := Purge(pc.dir); err != nil {
		t.Errorf("without a folder: %v", err)
	}
	pc.accepted(t)
	chainPath := filepath.Join(pc.dir, chainName)
	if err := os.WriteFile(chainPath, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := pc.open(t) // sets one aside
	if err := Purge(pc.dir); !errors.Is(err, hostid.ErrLocked) {
		t.Errorf("while an agent works: %v, want ErrLocked", err)
	}
	a.Close()
	foreign := filepath.Join(pc.dir, "host-identity.txt")
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Purge(pc.dir); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"host-identity.txt"}, pc.files(t, "*")); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	os.Remove(foreign)
	if err := Purge(pc.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(pc.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the empty folder stays: %v", err)
	}
}
