package agent

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"samehost/internal/checkin"
	"samehost/internal/hardware"
	"samehost/internal/hostid"
)

// Full at first, then deltas as long as nothing differs; every reason to say more makes a full report.
func TestDeltas(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	a := pc.open(t)
	defer func() { a.Close() }()
	var base checkin.Digest // of the deltas expected
	next := func(what string, full bool) {
		t.Helper()
		pc.awake += time.Minute
		pc.boot += time.Minute
		before := len(m.reports)
		if out := checkIn(t, a); out.Error != "" {
			t.Fatalf("%s: %s", what, out.Error)
		}
		for _, v := range m.reports[before:] {
			r := v.Report
			switch is := r.Base == (checkin.Digest{}); {
			case is != full:
				t.Errorf("%s: full %v, want %v", what, is, full)
			case !full && (r.Base != base || r.Facts.SystemUUID != "" || r.Time == "" || r.Previous == checkin.Digest{}):
				t.Errorf("%s: a delta on %s, want on %s: %+v", what, r.Base, base, r)
			case full && r.Facts.SystemUUID != pc.facts.SystemUUID:
				t.Errorf("%s: a full report without facts", what)
			case full:
				base = v.Digest
			}
		}
		m.checkChains(t)
	}
	next("the first", true)
	for range 3 {
		next("nothing new", false)
	}
	pc.facts.NICs = append(slices.Clone(pc.facts.NICs), hardware.NIC{MAC: "00-1B-21-00-00-01"})
	next("another interface", true)
	next("nothing new since", false)
	pc.memory.Err = hostid.ErrUnavailable
	next("a store that fails", true)
	next("it still does", false)
	pc.memory.Err = nil
	next("it answers again", true)
	next("nothing new after that", false)

	pc.boot += 3 * time.Hour
	next("a sleep", true)
	next("nothing new in the new run", false)
	for range 23 {
		pc.awake += time.Hour
		pc.boot += time.Hour
		next("within the day", false)
	}
	pc.awake += time.Hour
	pc.boot += time.Hour
	next("a day later", true)
	next("a new day", false)

	m.judge = func(checkin.VerifiedReport) error { return errors.New("away") }
	checkIn(t, a)
	m.judge = nil
	next("a delta that waited, then another", false)

	a.Close()
	a = pc.open(t)
	next("a restart", true)
	next("nothing new after the restart", false)
	clear(m.known) // the manager lost its database
	next("enrolling", true)
	next("nothing new at the new manager", false)
}

// What an order brings about is told in full, and what it has to acknowledge.
func TestFullReportsAfterOrders(t *testing.T) {
	t.Parallel()
	for _, kind := range []checkin.OrderKind{checkin.OrderNewEpoch, checkin.OrderRebind, checkin.OrderNewID, checkin.OrderTakeBack, "of-tomorrow"} {
		m := newManager(t)
		pc := newPC(t, m)
		a := pc.open(t)
		checkIn(t, a)
		checkIn(t, a)
		if m.last(t).Base == (checkin.Digest{}) {
			t.Fatal("no delta")
		}
		m.orderNow(t, checkin.Order{ID: "o1", Kind: kind, Other: hostid.NewID()})
		checkIn(t, a)
		checkIn(t, a)
		if r := m.last(t); r.Base != (checkin.Digest{}) {
			t.Errorf("%s: a delta follows", kind)
		}
		checkIn(t, a) // what was acknowledged is not said any more: that differs, too
		checkIn(t, a)
		if r := m.last(t); r.Base == (checkin.Digest{}) {
			t.Errorf("%s: deltas do not come back", kind)
		}
		a.Close()
	}
}

// A manager that does not know the base is told everything at once, and not asked to do with deltas for an hour.
func TestFullReportOrdered(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	a := pc.open(t)
	defer a.Close()
	m.orders = func(v checkin.VerifiedReport) []checkin.Order {
		if v.Report.Base == (checkin.Digest{}) {
			return nil
		}
		return []checkin.Order{m.bind(t, checkin.Order{ID: v.Digest.String(), Kind: checkin.OrderFullReport}, v.Report)}
	}
	deltas := func(n int) (list []bool) {
		before := len(m.reports)
		for range n {
			checkIn(t, a)
			pc.awake += 10 * time.Minute
			pc.boot += 10 * time.Minute
		}
		for _, v := range m.reports[before:] {
			list = append(list, v.Report.Base != checkin.Digest{})
		}
		return list
	}
	if diff := cmp.Diff([]bool{false, true, false, false, false, false, false, true, false}, deltas(9)); diff != "" {
		t.Errorf("deltas (-want +got):\n%s", diff)
	}
	if done := m.reports[2].Report.Done; !slices.Equal(done, []string{m.received[1].String()}) {
		t.Errorf("done %v", done)
	}
}

// A relay's word is none of the manager's: what it keeps is no base, and what the manager accepted before still is one.
func TestDeltasBehindARelay(t *testing.T) {
	t.Parallel()
	m := newManager(t)
	pc := newPC(t, m)
	pc.accepted(t) // by a process that has ended since
	before := len(m.received)
	var sent []checkin.Report
	m.judge = func(v checkin.VerifiedReport) error { sent = append(sent, v.Report); return nil }
	m.deferring = true
	a := pc.open(t)
	defer a.Close()
	for range 3 {
		checkIn(t, a)
	}
	m.deferring = false
	checkIn(t, a)
	base := m.received[len(m.received)-1]
	m.deferring = true
	for range 2 {
		checkIn(t, a)
	}
	pc.facts.SystemSerial = "SYS4712"
	checkIn(t, a)
	checkIn(t, a)
	pc.facts.SystemSerial = "SYS4711"
	checkIn(t, a)
	var got []checkin.Digest
	for _, r := range sent {
		got = append(got, r.Base)
	}
	full := checkin.Digest{}
	if diff := cmp.Diff([]checkin.Digest{full, full, full, full, base, base, full, full, base}, got); diff != "" {
		t.Errorf("bases (-want +got):\n%s", diff)
	}
	for i, r := range sent {
		if r.Counter != uint64(i)+2 || r.Previous != m.received[before+i-1] {
			t.Errorf("report %d: counter %d, previous %s", i+1, r.Counter, r.Previous)
		}
	}
}
