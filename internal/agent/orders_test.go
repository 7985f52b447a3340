package agent

import (
	"context"
	"crypto/ed25519"
	"errors"
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

// orderNow has the manager give orders in the next reply only. For each report that they go to, bind fills in what
// the test left out.
func (m *testManager) orderNow(t *testing.T, orders ...checkin.Order) {
	t.Helper()
	given := false
	m.set(func() {
		m.orders = func(v checkin.VerifiedReport) (list []checkin.Order) {
			if given {
				return nil
			}
			given = true
			for _, o := range orders {
				list = append(list, m.bind(t, o, v.Report))
			}
			return list
		}
	})
}

// bind makes an order out of a draft: bound to the report, and with a token for a new ID.
func (m *testManager) bind(t *testing.T, o checkin.Order, r checkin.Report) checkin.Order {
	o.HostID, o.Epoch, o.Run = r.HostID, r.Epoch, r.Run
	if o.Kind == checkin.OrderNewID && o.Enrol == "" {
		sealed, err := checkin.SealOrder(r.SealKey, o.ID, m.token)
		if err != nil {
			t.Error(err)
		}
		o.Enrol = sealed
	}
	return o
}

func (pc *testPC) status(t *testing.T) Status {
	t.Helper()
	s, err := ReadStatus(t.Context(), pc.dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func doneKinds(s Status) (kinds []checkin.OrderKind) {
	for _, o := range s.DoneOrders {
		kinds = append(kinds, o.Kind)
	}
	return kinds
}

// A copy is ordered to take a new ID: it is somebody else from the next report on, memory follows, and what it was
// stays set aside. Its former ID comes back by order.
func TestOrderNewIDAndTakeBack(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	a := pc.open(t)
	defer a.Close()
	old := checkIn(t, a).HostID
	m.orderNow(t, checkin.Order{ID: "o1", Kind: checkin.OrderNewID})
	out := checkIn(t, a)
	if out.HostID == old || pc.storedID(t) != out.HostID || len(out.Conflicts) != 0 || !out.CheckedIn {
		t.Fatalf("after the order: %+v (it was %s), memory holds %s", out, old, pc.storedID(t))
	}
	if n := len(m.reports); n != 2 {
		t.Errorf("%d reports, want 2", n)
	}
	if s := pc.status(t); s.HostID != out.HostID || !slices.Equal(doneKinds(s), []checkin.OrderKind{checkin.OrderNewID}) || s.DoneOrders[0].HostID != old {
		t.Errorf("status %+v", s)
	}
	if again := checkIn(t, a); again.HostID != out.HostID {
		t.Fatalf("then %s", again.HostID)
	}
	r := m.last(t)
	if r.HostID != out.HostID || r.CopyOf != old || r.EpochBy != checkin.EpochNewID || r.Counter != 1 || !slices.Equal(r.Done, []string{"o1"}) {
		t.Errorf("host ID %s, copy of %s, epoch by %s, counter %d, done %v", r.HostID, r.CopyOf, r.EpochBy, r.Counter, r.Done)
	}
	want := []checkin.Observation{{Kind: "ordered", Mine: out.HostID, Other: old}, {Kind: "dropped", Mine: out.HostID, Other: old}}
	if diff := cmp.Diff(want, told(r)); diff != "" {
		t.Errorf("observations (-want +got):\n%s", diff)
	}
	if m.reports[2].Enrol == nil || string(m.reports[2].Key) == string(m.reports[1].Key) {
		t.Error("the new ID does not enrol by a key of its own")
	}
	checkIn(t, a)
	if r := m.last(t); len(r.Done) != 0 || len(r.Observations) != 0 || r.CopyOf != old {
		t.Errorf("done %v, observed %v, copy of %s after it was acknowledged", r.Done, r.Observations, r.CopyOf)
	}
	if len(pc.files(t, "host-id.ordered-*")) != 1 || len(pc.files(t, "host-id.dropped-*")) != 1 {
		t.Errorf("set aside: %q", pc.files(t, "host-id.*"))
	}

	m.orderNow(t, checkin.Order{ID: "o2", Kind: checkin.OrderTakeBack, Other: old})
	if back := checkIn(t, a); back.HostID != old || pc.storedID(t) != old || len(back.Conflicts) != 0 {
		t.Fatalf("taken back: %+v, memory holds %s", back, pc.storedID(t))
	}
	checkIn(t, a)
	r = m.last(t)
	if r.HostID != old || r.EpochBy != checkin.EpochOrder || r.Counter != 1 || !r.CopyOf.IsZero() || !slices.Equal(r.Done, []string{"o2"}) {
		t.Errorf("host ID %s, epoch by %s, counter %d, copy of %s, done %v", r.HostID, r.EpochBy, r.Counter, r.CopyOf, r.Done)
	}
	if string(m.reports[0].Key) != string(m.reports[len(m.reports)-1].Key) {
		t.Error("another key signs")
	}
	m.checkChains(t)
}

// The token that the order brings enrols where the PC has none that holds, lies in the folder for nobody else to read,
// and is forgotten then.
func TestOrderedTokenEnrols(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		fileGone bool
	}{{"no token file", true}, {"a token file that has ended", false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			pc := newPC(t, m)
			a := pc.open(t)
			defer a.Close()
			old := checkIn(t, a).HostID
			second := checkin.NewEnrolmentToken(m.fingerprint())
			if c.fileGone {
				if err := os.Remove(pc.token); err != nil {
					t.Fatal(err)
				}
			}
			sealed, err := checkin.SealOrder(m.last(t).SealKey, "o1", second)
			if err != nil {
				t.Fatal(err)
			}
			m.orderNow(t, checkin.Order{ID: "o1", Kind: checkin.OrderNewID, Enrol: sealed})
			id := checkIn(t, a).HostID
			if id == old {
				t.Fatalf("open %+v, failed %+v", a.open, a.orders.Failed)
			}
			m.set(func() { m.token = second })
			state := filepath.Join(pc.dir, ordersName)
			if b, err := os.ReadFile(state); err != nil || !strings.Contains(string(b), second.Text()) {
				t.Errorf("the token is not kept: %v", err)
			}
			if info, err := os.Stat(state); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", info.Mode(), err)
			}
			m.set(func() { m.judge = func(checkin.VerifiedReport) error { return errors.New("away") } })
			checkIn(t, a)
			a.Close()
			a = pc.open(t) // a restart does not lose it
			defer a.Close()
			m.set(func() { m.judge = nil })
			if out := checkIn(t, a); !out.CheckedIn || m.last(t).HostID != id || m.known[id] == "" {
				t.Errorf("%+v", out)
			}
			if b, err := os.ReadFile(state); err != nil || strings.Contains(string(b), second.Text()) {
				t.Errorf("the token is kept after use: %v", err)
			}
		})
	}
}

// What cannot be carried out is told once, changes nothing, and is not acknowledged.
func TestOrdersThatCannotBeCarriedOut(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	foreign := checkin.NewEnrolmentToken(checkin.FingerprintOf(hostid.NewSeed().SigningKey().Public().(ed25519.PublicKey)))
	for _, c := range []struct {
		name  string
		order func(r checkin.Report) checkin.Order
		why   string
	}{
		{"a record that was never here", func(checkin.Report) checkin.Order {
			return checkin.Order{Kind: checkin.OrderTakeBack, Other: hostid.NewID()}
		}, "no record of host ID"},
		{"no record named", func(checkin.Report) checkin.Order { return checkin.Order{Kind: checkin.OrderTakeBack} }, "no record of host ID"},
		{"memory holds another", func(checkin.Report) checkin.Order {
			return checkin.Order{Kind: checkin.OrderUseNonvolatile, Other: hostid.NewID()}
		}, "memory holds no host ID"},
		{"a token for another manager", func(r checkin.Report) checkin.Order {
			sealed, _ := checkin.SealOrder(r.SealKey, "o1", foreign)
			return checkin.Order{Kind: checkin.OrderNewID, Enrol: sealed}
		}, "for another manager"},
		{"a token of another order", func(r checkin.Report) checkin.Order {
			sealed, _ := checkin.SealOrder(r.SealKey, "o2", m.token)
			return checkin.Order{Kind: checkin.OrderNewID, Enrol: sealed}
		}, "was not sealed for this host and this order"},
		{"no token", func(r checkin.Report) checkin.Order { return checkin.Order{Kind: checkin.OrderNewID} }, "none of its own"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newManager(t)
			pc := newPC(t, m)
			a := pc.open(t)
			defer a.Close()
			out := checkIn(t, a)
			if err := os.Remove(pc.token); err != nil {
				t.Fatal(err)
			}
			before, err := hostid.NewFile(pc.dir).Load(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var o checkin.Order
			given := false
			m.set(func() {
				m.orders = func(v checkin.VerifiedReport) []checkin.Order {
					if given {
						return nil
					}
					given = true
					o = c.order(v.Report)
					o.ID, o.HostID, o.Epoch, o.Run = "o1", v.Report.HostID, v.Report.Epoch, v.Report.Run
					return []checkin.Order{o}
				}
			})
			checkIn(t, a)
			if s := pc.status(t); len(s.FailedOrders) != 1 || !strings.Contains(s.FailedOrders[0].Why, c.why) {
				t.Errorf("status %+v", s.FailedOrders)
			}
			m.set(func() { m.loseReply = true }) // it is told until somebody heard it
			checkIn(t, a)
			m.set(func() { m.loseReply = false })
			checkIn(t, a)
			r := m.reports[2].Report
			want := []checkin.Observation{{Kind: checkin.ObservedOrderFailed, Mine: out.HostID, Other: o.Other, Order: "o1"}}
			if diff := cmp.Diff(want, told(r)); diff != "" || !strings.Contains(r.Observations[0].Detail, c.why) {
				t.Errorf("observations %+v (-want +got):\n%s", r.Observations, diff)
			}
			checkIn(t, a)
			if r := m.last(t); len(told(r)) != 0 || len(r.Done) != 0 || r.HostID != out.HostID {
				t.Errorf("%s, told again %v, done %v", r.HostID, told(r), r.Done)
			}
			if now, err := hostid.NewFile(pc.dir).Load(t.Context()); err != nil || !now.Equal(before) {
				t.Errorf("the file holds %+v, %v", now, err)
			}
			m.checkChains(t)
		})
	}
}

// A replaced board whose memory holds another PC's record: the order settles it on the PC, and the manager gets the
// proof of what was overwritten, and that it was by order.
func TestOrderRebind(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	other := newPC(t, m)
	other.becomeCopy()
	theirs := other.accepted(t).HostID
	pc := newPC(t, m)
	a := pc.open(t)
	defer a.Close()
	id := checkIn(t, a).HostID
	pc.memory.Blocks = other.memory.Blocks
	pc.facts.SystemUUID, pc.facts.BoardSerial, pc.facts.NICs = "77777777-0051-4d10-8051-b4c04f5a3132", "BRD7", nil
	if out := checkIn(t, a); len(out.Conflicts) != 1 || out.Conflicts[0].Kind != hostid.MemoryForeign {
		t.Fatalf("%+v", out)
	}
	m.orderNow(t, checkin.Order{ID: "o1", Kind: checkin.OrderRebind})
	if out := checkIn(t, a); out.HostID != id || len(out.Conflicts) != 0 || pc.storedID(t) != id {
		t.Fatalf("%+v, memory holds %s", out, pc.storedID(t))
	}
	for range 2 { // until the manager names it
		checkIn(t, a)
		r := m.last(t)
		if len(r.Replaced) != 1 || r.EpochBy != checkin.EpochInstall {
			t.Fatalf("%d proofs, epoch by %s", len(r.Replaced), r.EpochBy)
		}
		st, key, err := checkin.VerifyReplacement(r.Replaced[0])
		if err != nil || st.Old != theirs || st.New != id || st.Audience != m.fingerprint() || string(key) != m.known[theirs] {
			t.Errorf("statement %+v, %v", st, err)
		}
		if diff := cmp.Diff([]checkin.Observation{{Kind: "rebound", Mine: id, Other: theirs}}, told(r)); diff != "" {
			t.Errorf("observations (-want +got):\n%s", diff)
		}
	}
	// Whatever is ordered meanwhile, the statement never stands there alone: it would pass for a merge.
	for _, w := range a.over.Entries {
		if w.InUse = false; len(w.observations()) != 1 {
			t.Errorf("%+v is told without saying that it was by order", w)
		}
	}
	m.set(func() { m.named = []hostid.ID{theirs} })
	checkIn(t, a)
	checkIn(t, a)
	if r := m.last(t); len(r.Replaced) != 0 || len(r.Observations) != 0 {
		t.Errorf("told after it was named: %d proofs, %v", len(r.Replaced), told(r))
	}
	m.checkChains(t)
}

// The record that memory holds is the one that counts: also where the file has the same host ID with another key.
func TestOrderUseNonvolatile(t *testing.T) {
	t.Parallel()
	for _, twin := range []bool{false, true} {
		m := newManager(t)
		pc := newPC(t, m)
		a := pc.open(t)
		defer a.Close()
		id := checkIn(t, a).HostID
		meant, err := pc.memory.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if meant.Seed[1]++; !twin {
			other := newPC(t, m)
			other.becomeCopy()
			other.accepted(t)
			if meant, err = other.memory.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		pc.memory.Blocks = [2][]byte{}
		if err := pc.memory.Save(t.Context(), meant); err != nil {
			t.Fatal(err)
		}
		if out := checkIn(t, a); out.HostID != id || len(out.Conflicts) != 1 {
			t.Fatalf("%+v", out)
		}
		m.orderNow(t, checkin.Order{ID: "o1", Kind: checkin.OrderUseNonvolatile, Other: meant.HostID})
		m.set(func() { // whoever holds the key of the record in memory is known
			m.known[meant.HostID] = string(meant.Seed.SigningKey().Public().(ed25519.PublicKey))
			if twin {
				m.judge = func(v checkin.VerifiedReport) error {
					if m.orders != nil && v.Report.Counter > 1 {
						m.known[v.Report.HostID] = string(v.Key)
					}
					return nil
				}
			}
		})
		if out := checkIn(t, a); out.HostID != meant.HostID || len(out.Conflicts) != 0 {
			t.Fatalf("twin %v: %+v, open %+v", twin, out, a.open)
		}
		checkIn(t, a)
		last := m.reports[len(m.reports)-1]
		if last.Report.HostID != meant.HostID || string(last.Key) != string(meant.Seed.SigningKey().Public().(ed25519.PublicKey)) ||
			last.Report.EpochBy != checkin.EpochOrder || !slices.Equal(last.Report.Done, []string{"o1"}) {
			t.Errorf("twin %v: %s, epoch by %s, done %v", twin, last.Report.HostID, last.Report.EpochBy, last.Report.Done)
		}
	}
}

// An order that comes again is acknowledged again and not done again; a reply that comes again orders nothing new.
func TestOrderComesAgain(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	a := pc.open(t)
	defer a.Close()
	checkIn(t, a)
	draft := checkin.Order{ID: "o1", Kind: checkin.OrderRebind}
	m.set(func() {
		m.orders = func(v checkin.VerifiedReport) []checkin.Order {
			o := m.bind(t, draft, v.Report)
			return []checkin.Order{o, o}
		}
	})
	checkIn(t, a)
	file := hostid.NewFile(pc.dir)
	before, err := file.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		checkIn(t, a)
		if got := m.last(t).Done; !slices.Equal(got, []string{"o1"}) {
			t.Errorf("done %v", got)
		}
	}
	if now, err := file.Load(t.Context()); err != nil || !now.Equal(before) || len(pc.status(t).DoneOrders) != 1 {
		t.Errorf("the file holds %+v, %v; done %+v", now, err, pc.status(t).DoneOrders)
	}

	// The reply is lost with the order in it, and comes again: to the same run, and after a restart.
	for _, restart := range []bool{false, true} {
		draft = checkin.Order{ID: "o2", Kind: checkin.OrderNewID}
		if restart {
			draft.ID = "o3"
		}
		id := checkIn0(t, m, a)
		m.set(func() { m.loseReply = true })
		checkIn(t, a)
		m.set(func() { m.loseReply = false; m.orders = nil })
		if restart {
			a.Close()
			a = pc.open(t)
			defer a.Close()
		}
		out := checkIn(t, a)
		if changed := out.HostID != id; changed == restart {
			t.Errorf("restart %v: %s, it was %s", restart, out.HostID, id)
		}
		m.checkChains(t)
	}
}

// checkIn0 is a check-in without orders; what is ordered stays as it is.
func checkIn0(t *testing.T, m *testManager, a *Agent) hostid.ID {
	t.Helper()
	orders := m.orders
	m.set(func() { m.orders = nil })
	out := checkIn(t, a)
	m.set(func() { m.orders = orders })
	return out.HostID
}

// Several orders in one reply are done in turn; what is void by an earlier one is not done.
func TestSeveralOrdersInOneReply(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kinds []checkin.OrderKind
		done  []string
		by    checkin.EpochBy
	}{
		{[]checkin.OrderKind{checkin.OrderRebind, checkin.OrderNewID}, []string{"o0", "o1"}, checkin.EpochNewID},
		{[]checkin.OrderKind{checkin.OrderNewID, checkin.OrderRebind}, []string{"o0"}, checkin.EpochNewID},
		{[]checkin.OrderKind{checkin.OrderNewID, checkin.OrderNewID}, []string{"o0"}, checkin.EpochNewID},
		{[]checkin.OrderKind{checkin.OrderRebind, checkin.OrderFullReport, checkin.OrderNewEpoch}, []string{"o1", "o2", "o0"}, checkin.EpochOrder},
		{[]checkin.OrderKind{checkin.OrderNewEpoch, checkin.OrderRebind}, []string{"o0"}, checkin.EpochOrder},
		{[]checkin.OrderKind{checkin.OrderUseNonvolatile, checkin.OrderRebind}, []string{"o1"}, checkin.EpochInstall},
	} {
		m := newManager(t)
		pc := newPC(t, m)
		a := pc.open(t)
		defer a.Close()
		checkIn(t, a)
		var orders []checkin.Order
		for i, kind := range c.kinds {
			orders = append(orders, checkin.Order{ID: "o" + string(rune('0'+i)), Kind: kind})
		}
		m.orderNow(t, orders...)
		checkIn(t, a)
		checkIn(t, a)
		if r := m.last(t); !slices.Equal(r.Done, c.done) || r.EpochBy != c.by {
			t.Errorf("%v: done %v, epoch by %s; want %v, %s", c.kinds, r.Done, r.EpochBy, c.done, c.by)
		}
		checkIn(t, a)
		if r := m.last(t); len(r.Done) != 0 || len(a.open) != 0 {
			t.Errorf("%v: then done %v, open %v", c.kinds, r.Done, a.open)
		}
		m.checkChains(t)
	}
}

// An order that waits is done in the run that it was given to, once that is possible; in another run it is void.
func TestOrderWaits(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		m := newManager(t)
		other := newPC(t, m)
		other.becomeCopy()
		theirs := other.accepted(t).HostID
		pc := newPC(t, m)
		a := pc.open(t)
		defer a.Close()
		id := checkIn(t, a).HostID
		pc.memory.Blocks = other.memory.Blocks
		pc.memory.Err = hostid.ErrUnavailable
		m.orderNow(t, checkin.Order{ID: "o1", Kind: checkin.OrderUseNonvolatile, Other: theirs})
		checkIn(t, a)
		if s := pc.status(t); s.HostID != id || len(s.OpenOrders) != 1 || !strings.Contains(s.OpenOrders[0].Why, "not all of it answers") {
			t.Errorf("status %+v", s)
		}
		if out := checkIn(t, a); out.HostID != id || len(m.last(t).Done) != 0 {
			t.Errorf("%s, done %v, while memory does not answer", out.HostID, m.last(t).Done)
		}
		pc.memory.Err = nil
		if restart {
			pc.boot += time.Hour // it slept
		}
		out := checkIn(t, a)
		if done := m.last(t).Done; restart && (out.HostID != id || len(done) != 0) || !restart && (out.HostID != theirs || !slices.Equal(done, []string{"o1"})) {
			t.Errorf("restart %v: %s, done %v", restart, out.HostID, done)
		}
		if len(a.open) != 0 {
			t.Errorf("restart %v: open %v", restart, a.open)
		}
	}
}

// Facts that cannot be read now are no facts to take: the order waits. A copy takes its new ID all the same.
func TestOrdersWhileHardwareCannotBeRead(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	pc.memory = nil
	a := pc.open(t)
	defer a.Close()
	id := checkIn(t, a).HostID
	known := pc.facts
	a.o.Hardware = func(context.Context) (hardware.Facts, error) { return hardware.Facts{}, errors.New("no access") }
	m.orderNow(t, checkin.Order{ID: "o1", Kind: checkin.OrderRebind}, checkin.Order{ID: "o2", Kind: checkin.OrderNewID})
	if out := checkIn(t, a); out.HostID == id {
		t.Errorf("the copy has no new ID: %+v", a.open)
	}
	m.orderNow(t, checkin.Order{ID: "o3", Kind: checkin.OrderRebind})
	checkIn(t, a)
	if len(a.open) != 1 || !strings.Contains(a.open[0].why, "cannot be read") {
		t.Errorf("open %+v", a.open)
	}
	pc.facts = known
	a.o.Hardware = pc.options().Hardware
	checkIn(t, a)
	if done := m.last(t).Done; !slices.Contains(done, "o3") || len(a.open) != 0 {
		t.Errorf("done %v, open %v", done, a.open)
	}
}

// A full disk at any of the files: the order waits, and what was begun is finished, once.
func TestOrdersOnAFullDisk(t *testing.T) {
	t.Parallel()
	for _, name := range []string{hostid.FileName, ordersName, overwrittenName, chainName} {
		m := newManager(t)
		pc := newPC(t, m)
		a := pc.open(t)
		defer a.Close()
		id := checkIn(t, a).HostID
		m.orderNow(t, checkin.Order{ID: "o1", Kind: checkin.OrderNewID})
		obstacle := filepath.Join(pc.dir, name+".samehost-tmp", "in-the-way")
		if name == chainName { // the reply itself must be noted first: in the way from the moment the file is written
			a.o.Step = func(at string) {
				if at == "after "+ordersName && a.orders.Begun == nil {
					if err := os.MkdirAll(obstacle, 0o700); err != nil {
						t.Error(err)
					}
				}
			}
		} else if err := os.MkdirAll(obstacle, 0o700); err != nil {
			t.Fatal(err)
		}
		if out := checkIn(t, a); !out.CheckedIn {
			t.Errorf("%s: %+v", name, out)
		}
		a.o.Step = func(string) {}
		if s := pc.status(t); name != chainName && (s.HostID != id || len(s.OpenOrders) != 1) {
			t.Errorf("%s: status %+v", name, s)
		}
		if name == chainName {
			if _, err := a.CheckIn(t.Context()); err == nil {
				t.Error("a check-in although nothing can be noted")
			}
		}
		if err := os.RemoveAll(filepath.Dir(obstacle)); err != nil {
			t.Fatal(err)
		}
		out := checkIn(t, a)
		r := m.last(t)
		if out.HostID == id || r.HostID != out.HostID || !slices.Equal(r.Done, []string{"o1"}) || len(pc.status(t).DoneOrders) != 1 {
			t.Errorf("%s: %s (it was %s), reported %s, done %v", name, out.HostID, id, r.HostID, r.Done)
		}
		if pc.storedID(t) != out.HostID {
			t.Errorf("%s: memory holds %s", name, pc.storedID(t))
		}
		m.checkChains(t)
	}
}

// A replaced ID that still waits for the manager is told on under the new ID.
func TestProofIsToldAcrossANewID(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	first := pc.accepted(t).HostID
	pc.newDisk(t)
	pc.memory.Err = hostid.ErrUnavailable
	pc.accepted(t)
	pc.memory.Err = nil
	a := pc.open(t)
	defer a.Close()
	m.orderNow(t, checkin.Order{ID: "o1", Kind: checkin.OrderNewID})
	second := m.last(t).HostID
	checkIn(t, a)
	third := checkIn(t, a).HostID
	r := m.last(t)
	if r.HostID != third || third == second || len(r.Replaced) != 1 {
		t.Fatalf("%s after %s, %d proofs", r.HostID, second, len(r.Replaced))
	}
	if st, _, err := checkin.VerifyReplacement(r.Replaced[0]); err != nil || st.Old != first || st.New != second {
		t.Errorf("%+v, %v", st, err)
	}
}

// The loop does not wait five minutes with what was ordered, and does not hurry without end.
func TestOrdersAreAcknowledgedSoon(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	a := pc.open(t)
	defer a.Close()
	checkIn(t, a)
	soon := func() bool { return a.left() <= firstRetry*11/10 }
	n := 0
	m.set(func() {
		m.orders = func(v checkin.VerifiedReport) []checkin.Order {
			n++
			return []checkin.Order{m.bind(t, checkin.Order{ID: "o" + string(rune('a'+n)), Kind: checkin.OrderRebind}, v.Report)}
		}
	})
	for i, want := range []bool{true, false, false} {
		checkIn(t, a)
		if soon() != want {
			t.Errorf("check-in %d: due in %s", i, a.left())
		}
	}
	m.set(func() { m.orders = nil })
	checkIn(t, a)
	if soon() {
		t.Errorf("nothing is owed: due in %s", a.left())
	}
}

// Wherever the power goes: the order is done and acknowledged, or not begun, and then done when it is given again.
func TestCrashWhileCarryingOut(t *testing.T) {
	t.Parallel()
	for _, kind := range []checkin.OrderKind{checkin.OrderNewID, checkin.OrderTakeBack, checkin.OrderRebind, checkin.OrderUseNonvolatile} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			var before, other hostid.ID
			everyCrash(t, func(t *testing.T, m *testManager, pc *testPC) {
				before = pc.accepted(t).HostID
				switch kind {
				case checkin.OrderTakeBack:
					m.orderNow(t, checkin.Order{ID: "o0", Kind: checkin.OrderNewID})
					other, before = before, pc.accepted(t).HostID
					pc.accepted(t)
				case checkin.OrderUseNonvolatile, checkin.OrderRebind:
					neighbour := newPC(t, m)
					neighbour.becomeCopy()
					other = neighbour.accepted(t).HostID
					pc.memory.Blocks = neighbour.memory.Blocks
				}
				m.orderNow(t, checkin.Order{ID: "o1", Kind: kind, Other: other})
			}, func(t *testing.T, m *testManager, pc *testPC) {
				acknowledged := func() bool {
					return slices.ContainsFunc(m.reports, func(v checkin.VerifiedReport) bool { return slices.Contains(v.Report.Done, "o1") })
				}
				done := pc.status(t).HostID != before
				if kind == checkin.OrderRebind {
					done = pc.storedID(t) == before
				}
				if done != acknowledged() {
					t.Fatalf("done %v, acknowledged %v", done, acknowledged())
				}
				if !done { // the manager gives it again, to this run
					a := pc.open(t)
					defer a.Close()
					m.orderNow(t, checkin.Order{ID: "o1", Kind: kind, Other: other})
					checkIn(t, a)
					checkIn(t, a)
					if !acknowledged() || a.orders.Begun != nil {
						t.Fatalf("not acknowledged the second time, begun %+v", a.orders.Begun)
					}
				}
				r := m.last(t)
				switch kind {
				case checkin.OrderNewID:
					if r.HostID == before || r.CopyOf != before || r.EpochBy != checkin.EpochNewID {
						t.Errorf("%s, copy of %s, epoch by %s", r.HostID, r.CopyOf, r.EpochBy)
					}
				case checkin.OrderTakeBack, checkin.OrderUseNonvolatile:
					if r.HostID != other || r.EpochBy != checkin.EpochOrder {
						t.Errorf("%s, epoch by %s; want %s", r.HostID, r.EpochBy, other)
					}
				case checkin.OrderRebind:
					if r.HostID != before || r.EpochBy != checkin.EpochInstall || len(r.Replaced) != 1 {
						t.Errorf("%s, epoch by %s, %d proofs", r.HostID, r.EpochBy, len(r.Replaced))
					}
				}
				if pc.storedID(t) != r.HostID {
					t.Errorf("memory holds %s, want %s", pc.storedID(t), r.HostID)
				}
				if len(m.known) > 3 {
					t.Errorf("the manager knows %d hosts", len(m.known))
				}
				count := 0
				for _, v := range m.reports {
					if slices.Contains(v.Report.Done, "o1") {
						count++
					}
				}
				noted := 0
				for _, o := range pc.status(t).DoneOrders {
					if o.ID == "o1" {
						noted++
					}
				}
				if count != 1 || noted != 1 {
					t.Errorf("acknowledged in %d accepted reports, noted %d times", count, noted)
				}
			})
		})
	}
}

// A state of orders that cannot be read is set aside, and the PC goes on.
func TestUnreadableOrders(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	id := pc.accepted(t).HostID
	for _, name := range []string{ordersName, placeholdersName} {
		if err := os.WriteFile(filepath.Join(pc.dir, name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out := pc.accepted(t); out.HostID != id || len(pc.files(t, "*.json.corrupt-*")) != 2 {
		t.Errorf("%s, set aside %q", out.HostID, pc.files(t, "*.corrupt-*"))
	}
}

// The manager's list is kept, named by its digest, and counts from the next check-in on.
func TestPlaceholdersFromTheManager(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	pc.memory = nil
	pc.facts = hardware.Facts{
		SystemUUID: "4c4c4544-0051-4d10-8051-b4c04f5a3132",
		Disks:      []hardware.Disk{{Serial: "DSK4711A", System: true}},
		NICs:       []hardware.NIC{{MAC: "00-1B-21-3C-4D-5E", Permanent: true, Onboard: true}},
	}
	offer := ""
	pc.wrap = func(h checkin.HigherSystem) checkin.HigherSystem { return offering{h, &offer} }
	id := pc.accepted(t).HostID
	// All that still says that this is the PC is a value that the whole model shares: the network interface is another.
	pc.facts.NICs = []hardware.NIC{{MAC: "00-1B-21-00-00-77", Permanent: true, Onboard: true}}
	pc.accepted(t)

	for _, bad := range []string{"serial *\n", "coffee 1\n", strings.Repeat("serial 1234567\n", 10_000)} {
		offer = bad
		pc.accepted(t)
		if r := m.last(t); r.Placeholders != "" || len(pc.files(t, placeholdersName)) != 0 {
			t.Errorf("%.20q was taken: digest %s", bad, r.Placeholders)
		}
	}
	offer = "uuid {4C4C4544-0051-4D10-8051-B4C04F5A3132}\n"
	pc.accepted(t)
	offer = ""
	list, err := hardware.ParsePlaceholders(strings.NewReader("uuid 4c4c4544-0051-4d10-8051-b4c04f5a3132"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second after a restart
		out := pc.accepted(t)
		r := m.last(t)
		if out.HostID != id || len(out.Conflicts) != 0 || r.Placeholders != list.Digest() || r.Facts.SystemUUID != pc.facts.SystemUUID {
			t.Errorf("%s (it was %s), conflicts %v, digest %s, UUID %q", out.HostID, id, out.Conflicts, r.Placeholders, r.Facts.SystemUUID)
		}
	}
	// It counts: with the UUID alone known, nothing is known, and another board's memory with that UUID is not foreign.
	record, err := hostid.NewFile(pc.dir).Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := hostid.Compare(record.Facts, pc.facts.EvidenceWithout(list).Facts(id)); got != hostid.SameBoard {
		t.Errorf("the record is %s", got)
	}
	pc.memory = &storetest.Memory{}
	pc.accepted(t)
	offer = "# none\n"
	pc.accepted(t)
	offer = ""
	pc.accepted(t)
	if r := m.last(t); r.Placeholders != "" {
		t.Errorf("digest %s after the list became empty", r.Placeholders)
	}
}

// offering is a manager that hands out a list of placeholders.
type offering struct {
	checkin.HigherSystem
	list *string
}

func (o offering) CheckIn(ctx context.Context, r checkin.SignedReport) (checkin.Reply, error) {
	reply, err := o.HigherSystem.CheckIn(ctx, r)
	reply.Placeholders = *o.list
	return reply, err
}
